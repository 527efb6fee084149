"""What an adapter, or the layers it makes, may be able to do. Each is optional and each is one idea.

Shared code asks for a capability with ``isinstance``; it never asks for a method by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from edgelora.stock import StockPeft, StockQuantization, StockTensors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgelora.layers import FrozenEmbedding, FrozenLinear
    from edgelora.protocols import Batch, Factors, Site


@runtime_checkable
class Additive(Protocol):
    """y = base(x) + delta(x).

    That is all it computes: where it is `LowRank` too, its forward may never be called. See there.
    """

    def delta(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), dropout included when training."""
        ...


@runtime_checkable
class LowRank(Protocol):
    """The change is one low-rank product: merge, export and the fast path follow from `factors` alone.

    The fast path takes the place of the forward of a layer that is `Additive` as well, if a trial when it is
    injected finds that they agree. So from then on the forward must go on computing base(x) plus the product
    of the current factors, in training and in evaluation, with gradients to x and to the factors: whatever
    changes later, such as a scale, a mask or a rank, shows in `factors`. Elements are dropped by an
    ``nn.Dropout`` in the layer, or in training from the start; while one drops, the forward is called. The
    forward keeps no count and leaves nothing behind that others read.
    """

    def factors(self) -> Factors:
        """Effective factors, differentiable, exact at dropout 0: ΔW = scaling · B A."""
        ...


@runtime_checkable
class Mergeable(Protocol):
    """Can be folded into an unquantized weight."""

    def merged(self, weight: Tensor) -> Tensor:
        """Return the adapted weight (out, in) for a base weight (out, in), in its dtype."""
        ...


@runtime_checkable
class MergesBias(Protocol):
    """Folds into the bias too, beside what `Mergeable` or `LowRank` says of the weight."""

    def merged_bias(self, bias: Tensor | None) -> Tensor:
        """Return the adapted bias (out,) for the base's, or for None where it has none."""
        ...


@runtime_checkable
class HasAuxLosses(Protocol):
    """Adds terms to the training loss."""

    def aux_losses(self) -> dict[str, Tensor]:
        """Scalars by name; read once per micro-batch while training, never in evaluation."""
        ...


@runtime_checkable
class Prunable(Protocol):
    """Its rank components can be switched off one by one."""

    def rank_components(self) -> dict[str, tuple[nn.Parameter, int]]:
        """Parameters with the dimension that counts components."""
        ...

    def zero_ranks(self, keep: Tensor) -> None:
        """Zero, in place, the components where ``keep`` (rank,), bool, is false; they may grow again."""
        ...


@runtime_checkable
class Nested(Protocol):
    """Works at every rank up to its largest."""

    max_rank: int
    rank: int
    """Components in use."""

    def set_rank(self, b: int, frozen: bool = False) -> None:
        """Use the first ``b`` components; with ``frozen`` only component ``b`` learns."""
        ...


@runtime_checkable
class TaskAware(Protocol):
    """Computes differently for rows of different tasks."""

    def route(self, task_ids: Tensor) -> None:
        """Set before a forward and kept until its backward: int64 (batch,), or () for every row alike.

        Before the first call every row is of task 0. Under a route of shape () a layer computes one function
        of each row: then `LowRank.factors` and `Mergeable.merged` are those of that task.
        """
        ...


@runtime_checkable
class CrossSite(Protocol):
    """Reads sites before it in the same forward, by an `edgelora.layers.relay.Relay`; is never streamed."""

    def neighbours(self) -> tuple[str, ...]:
        """Names of the sites it reads."""
        ...


@runtime_checkable
class ApproximatelyLowRank(Protocol):
    """Has factors that come near what it computes; nothing takes them unasked, or tells no error."""

    def approximations(self) -> tuple[str, ...]:
        """Names of the ways to have them, the same in all layers of an adapter."""
        ...

    def approximate_factors(self, way: str) -> Factors:
        """ΔW ≈ scaling · B A; raises `ExportUnsupported` where the layer has not seen what the way takes."""
        ...


@runtime_checkable
class AdaptsModel(Protocol):
    """Adapts the model as a whole instead of wrapping sites: an adapter, not one of its layers."""

    def adapt(self, model: Any) -> Any:
        """Return the adapted model, the same object or another module that has its methods.

        Called once, with a model in which nothing learns: what requires a gradient afterwards is what is
        trained. The start is drawn from torch's global generator. Its logits are of (batch, tokens) or of
        more tokens, of which the last belong to the row.

        Raises:
            ValueError: The options do not suit the model; the message ends up in a `PlanError`.
        """
        ...

    def adapter_state(self, model: Any) -> dict[str, Tensor]:
        """All that training changes, and what does not follow from the base and the options."""
        ...

    def load_adapter_state(self, model: Any, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `adapter_state`; names and shapes were compared."""
        ...


@runtime_checkable
class FoldsIntoModel(Protocol):
    """`AdaptsModel` whose changes are those of weights that the base has."""

    def folded(self, model: Any) -> Any:
        """The adapted model as one of the base's architecture, which computes the same without the adapter.

        Its linears and embeddings may be frozen ones. Called last: ``model`` is not used afterwards.
        """
        ...


@runtime_checkable
class WantsSource(Protocol):
    """Needs the unquantized weight to start."""

    def wrap_source(self, base: FrozenLinear, site: Site, source: Tensor) -> nn.Module:
        """Like `Adapter.wrap`; ``source`` is the unquantized weight (out, in), valid during the call only."""
        ...


@runtime_checkable
class WrapsEmbeddings(Protocol):
    """An adapter that wraps embeddings as well, where ``target_modules`` names them."""

    def wrap_embedding(self, base: FrozenEmbedding, site: Site) -> nn.Module:
        """Return a module that takes and gives what ``base`` does: token ids (...) -> (..., width).

        Its ``weight`` is that of ``base``, which models and their users ask for its device and size. Where it
        is `LowRank`, its factors are those of W = Eᵀ: A (rank, tokens), B (width, rank). See
        `edgelora.layers.LowRankEmbedding`.
        """
        ...


@runtime_checkable
class NamesTargets(Protocol):
    """An adapter whose ``target_modules`` may be another word than ``all-linear``."""

    def named_targets(self, word: str, linears: Sequence[str]) -> list[str]:
        """The names, among those of a model's linears, that a word stands for.

        Raises:
            PlanError: This model has none.
        """
        ...


@runtime_checkable
class Calibrated(Protocol):
    """Looks at data before the first step."""

    def calibrate(self, model: Any, layers: Mapping[str, nn.Module], batches: Iterator[Batch]) -> None:
        """Called once, after wrapping."""
        ...


@runtime_checkable
class HasPast(Protocol):
    """Goes on from adapters that came before, which act beside what it learns: it starts at base plus past.

    `edgelora.protocols.Site.past` gives it their factors. It keeps what it needs of them in its own state: an
    adapter is rebuilt without those it came from, from factors of the same shapes that are zero.
    """

    def past_factors(self) -> tuple[Factors, ...]:
        """What its site had of each, oldest first; nothing of it learns."""
        ...


@runtime_checkable
class ParameterGroups(Protocol):
    """Wants other learning rates for some parameters."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """``{"params": [...], "learning_rate_multiplier": 16.0}``, covering all the layer trains."""
        ...


@dataclass(frozen=True, slots=True)
class PeftLayer:
    """One layer as PEFT holds it: all that stock PEFT needs to compute the same. May gain defaulted fields.

    Attributes:
        tensors: By their names in PEFT's file, after the site's: ``"lora_A.weight"`` (rank, in),
            ``"lora_B.weight"`` (out, rank), and what ``settings`` bring: ``"lora_magnitude_vector"`` (out,).
            Each is what the layer's own ``state_dict`` has under that name, less ``.weight``: a published
            adapter is loaded from them.
        rank: PEFT's ``r``.
        alpha: PEFT's ``lora_alpha``; its scaling is alpha / rank. Other types than LoRA get no alpha.
        settings: Fields of PEFT's configuration besides rank, alpha and targets: ``{"use_dora": True}``. The
            same for all layers of an adapter.
        peft_type: PEFT's ``peft_type``; the same for all layers of an adapter.
        peft_versions: Releases of PEFT that have it (PEP 440).
    """

    tensors: Mapping[str, Tensor]
    rank: int
    alpha: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    peft_type: str = "LORA"
    peft_versions: str = ">=0.18"


@runtime_checkable
class Exportable(Protocol):
    """Is not one low-rank product, and yet a layer of PEFT's computes it under some setting."""

    def peft_layer(self) -> PeftLayer:
        """The layer as PEFT holds it, with its present values."""
        ...


def clashes(obj: object) -> list[str]:
    """Members of ``obj`` that are called like a capability's method and are none: ``"delta of Additive"``.

    ``isinstance`` sees names only, so such an object would be taken for something it is not.
    """
    return [
        f"{name} of {ability}"
        for ability, kind in ABILITIES.items()
        if isinstance(obj, kind)
        for name, member in vars(kind).items()
        if inspect.isfunction(member) and not name.startswith("_") and not callable(getattr(obj, name))
    ]


ABILITIES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        Additive, LowRank, ApproximatelyLowRank, Mergeable, MergesBias, HasAuxLosses, Prunable, Nested,
        TaskAware, CrossSite, AdaptsModel, FoldsIntoModel, StockPeft, WantsSource, WrapsEmbeddings,
        NamesTargets, Calibrated,
        HasPast, ParameterGroups, Exportable, StockQuantization, StockTensors,
    )
}  # fmt: skip
"""Capability protocols by name, as `edgelora.parts.Part.abilities` spells them."""
