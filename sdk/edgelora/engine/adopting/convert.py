"""From PEFT's tensors to low-rank products, exactly: what is no such product is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgelora.engine.adopting.patterns import matching_key
from edgelora.engine.adopting.settings import refused
from edgelora.engine.adopting.source import PeftSource
from edgelora.errors import TensorsMismatch
from edgelora.protocols import Factors

Weights = Callable[[str], Tensor]
"""The base's weight (out, in) of a linear, by name."""
_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class Converted:
    """An adapter as products beside linears."""

    factors: dict[str, Factors]
    """By site; in float32 where they were computed, else as they were stored."""
    magnitudes: dict[str, Tensor]
    """DoRA's, by site; empty for plain products."""


def convert(source: PeftSource, weights: Weights) -> Converted:
    """The products an adapter is.

    Raises:
        NotAdoptable: It has tensors that are none, or products too large to be of use.
    """
    groups = _by_site(source)
    convert_site = {"LORA": _lora, "ADALORA": _adalora, "LOHA": _loha, "LOKR": _lokr, "VERA": _vera}[
        source.kind
    ]
    factors, magnitudes = {}, {}
    for site, tensors in groups.items():
        try:
            found = convert_site(site, dict(tensors), source, weights)
        except (RuntimeError, IndexError, ValueError, ArithmeticError) as error:
            raise _misfit(site, f"do not fit together ({error})") from error
        if found is None:
            continue
        _check_shape(source.kind, site, found, weights(site))
        factors[site] = found
        if "lora_magnitude_vector" in tensors:
            magnitudes[site] = tensors["lora_magnitude_vector"]
    if not factors:
        raise refused(source.kind, "every one of its components was pruned", fix="use the base alone")
    if magnitudes and magnitudes.keys() != factors.keys():
        raise refused(source.kind, "only some of its linears have magnitudes")
    return Converted(factors, magnitudes)


def lora_scaling(config: Mapping[str, Any], site: str, rank: int) -> float:
    """PEFT's factor of the product: alpha / rank, or alpha / √rank under ``use_rslora``."""
    pattern = config.get("alpha_pattern") or {}
    key = matching_key(pattern, site)
    alpha = float(config.get("lora_alpha", 8) if key is None else pattern[key])
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def lycoris_scaling(config: Mapping[str, Any], site: str) -> float:
    """LoHa's and LoKr's: alpha / r, each by its pattern."""
    numbers = []
    for name in ("alpha", "r"):
        pattern = config.get(f"{'rank' if name == 'r' else name}_pattern") or {}
        key = matching_key(pattern, site)
        numbers.append(float(config.get(name, 8) if key is None else pattern[key]))
    return numbers[0] / numbers[1]


def adalora_scaling(config: Mapping[str, Any]) -> float:
    """AdaLoRA's in PEFT: alpha over the rank it started with, also where components were pruned."""
    rank, alpha = float(config.get("init_r", 12)), float(config.get("lora_alpha", 8))
    return (alpha if alpha > 0 else rank) / (rank + 1e-5)


def removed_at_start(start: Any, weight: Tensor, rank: int, scaling: float) -> Factors | None:
    """What OLoRA or PiSSA took out of the base when training began; None where nothing was.

    Stock PEFT takes it out again whenever it loads such an adapter. OLoRA (arXiv:2406.01775): the first
    components of W = Q R. PiSSA (arXiv:2404.02948): the largest singular components.
    """
    kind = start.lower() if isinstance(start, str) else start
    if kind == "olora":
        Q, R = torch.linalg.qr(weight.float())
        return Factors(R[:rank], Q[:, :rank], scaling)
    if kind == "pissa":
        U, S, Vh = torch.linalg.svd(weight.float(), full_matrices=False)
        root = (S[:rank] / scaling).sqrt()
        return Factors(root[:, None] * Vh[:rank], U[:, :rank] * root, scaling)
    return None


def _lora(site: str, tensors: dict[str, Tensor], source: PeftSource, weights: Weights) -> Factors:
    A, B = _take(site, tensors, source, "lora_A", "lora_B", optional=("lora_magnitude_vector",))
    scaling = lora_scaling(source.config, site, len(A))
    taken = removed_at_start(source.config.get("init_lora_weights"), weights(site), len(A), scaling)
    if taken is None:
        return Factors(A, B, scaling)
    if "lora_magnitude_vector" in tensors:
        raise refused(source.kind, "it is DoRA on a base that was changed at the start")
    return Factors(torch.cat([A.float(), taken.A]), torch.cat([B.float(), -taken.B], dim=1), scaling)


def _adalora(site: str, tensors: dict[str, Tensor], source: PeftSource, weights: Weights) -> Factors | None:
    A, B, E = _take(site, tensors, source, "lora_A", "lora_B", "lora_E")
    used = E.flatten() != 0
    if not used.any():
        return None
    return Factors((A * E)[used].float(), B[:, used].float(), adalora_scaling(source.config))


def _loha(site: str, tensors: dict[str, Tensor], source: PeftSource, weights: Weights) -> Factors:
    a1, b1, a2, b2 = _take(site, tensors, source, "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    # (a1 b1) ∘ (a2 b2): every pair of components is a component of the elementwise product.
    B = (a1.float()[:, :, None] * a2.float()[:, None, :]).flatten(1)
    A = (b1.float()[:, None, :] * b2.float()[None, :, :]).flatten(0, 1)
    return Factors(A, B, lycoris_scaling(source.config, site))


def _lokr(site: str, tensors: dict[str, Tensor], source: PeftSource, weights: Weights) -> Factors:
    first, second = (_pair(site, tensors, source, name) for name in ("lokr_w1", "lokr_w2"))
    if tensors:
        raise refused(source.kind, f"{site} has the tensor {min(tensors)}, which is not one of a linear")
    # (b1 a1) ⊗ (b2 a2) = (b1 ⊗ b2) (a1 ⊗ a2).
    A, B = torch.kron(first[0], second[0]), torch.kron(first[1], second[1])
    return Factors(A, B, lycoris_scaling(source.config, site))


def _vera(site: str, tensors: dict[str, Tensor], source: PeftSource, weights: Weights) -> Factors:
    d, b = _take(site, tensors, source, "vera_lambda_d", "vera_lambda_b")
    names = ("base_model.vera_A", "base_model.vera_B")
    if not all(name in source.tensors for name in names):
        raise refused(
            source.kind,
            "its shared matrices were not saved with it",
            fix="save it again with PEFT and save_projection=True",
        )
    shared_A, shared_B = (source.tensors[name].float() for name in names)
    out, into = weights(site).shape
    return Factors(d.float()[:, None] * shared_A[:, :into], b.float()[:, None] * shared_B[:out], 1.0)


def _pair(site: str, tensors: dict[str, Tensor], source: PeftSource, name: str) -> tuple[Tensor, Tensor]:
    """A matrix of LoKr as (A, B), matrix = B A; one that is stored whole is one side of it."""
    if name in tensors:
        whole = tensors.pop(name).float()
        identity = torch.eye(min(whole.shape))
        return (whole, identity) if whole.shape[0] <= whole.shape[1] else (identity, whole)
    a, b = (tensors.pop(f"{name}_{side}", None) for side in "ab")
    if a is None or b is None:
        raise refused(source.kind, f"{site} lacks a part of {name}", fix="fetch the adapter again")
    return b.float(), a.float()


def _take(
    site: str, tensors: dict[str, Tensor], source: PeftSource, *names: str, optional: tuple[str, ...] = ()
) -> list[Tensor]:
    wrong = sorted(set(tensors) - {*names, *optional}) or sorted(set(names) - set(tensors))
    if wrong:
        raise refused(
            source.kind, f"{site} {'has' if wrong[0] in tensors else 'lacks'} the tensor {wrong[0]}"
        )
    return [tensors[name] for name in names]


def _by_site(source: PeftSource) -> dict[str, dict[str, Tensor]]:
    embeddings = [key for key in source.tensors if ".lora_embedding_" in key]
    if embeddings:
        raise refused(source.kind, f"it adapts the embedding {embeddings[0].removeprefix(_PREFIX)[:100]}")
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in source.tensors.items():
        if source.kind == "VERA" and key in ("base_model.vera_A", "base_model.vera_B"):
            continue
        name = key.removeprefix(_PREFIX)
        if name.endswith((".lora_A.weight", ".lora_B.weight")):
            name = name.removesuffix(".weight")
        site, _, leaf = name.rpartition(".")
        if not key.startswith(_PREFIX) or not leaf.startswith(("lora_", "hada_", "lokr_", "vera_")):
            raise refused(
                source.kind, f"it changes {name[:100]}, which is no low-rank product beside a linear"
            )
        groups.setdefault(site, {})[leaf] = tensor
    return groups


def _check_shape(kind: str, site: str, factors: Factors, weight: Tensor) -> None:
    A, B = factors.A, factors.B
    if A.ndim != 2 or B.ndim != 2 or (B.shape[0], A.shape[1]) != tuple(weight.shape) or len(A) != B.shape[1]:
        raise _misfit(
            site, f"make a product of {tuple(B.shape)} and {tuple(A.shape)}, not {tuple(weight.shape)}"
        )
    if len(A) > min(weight.shape):
        raise refused(
            kind, f"as a product beside {site} it has the rank {len(A)}, and {min(weight.shape)} is the most"
        )


def _misfit(site: str, problem: str) -> TensorsMismatch:
    return TensorsMismatch(
        f"the adapter's tensors of {site[:100]} {problem}",
        fix="name the base it was trained on: --base FOLDER",
    )
