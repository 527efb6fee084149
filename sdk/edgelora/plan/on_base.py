"""What a plan says of its base, held against the names and shapes in the base's files; nothing is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edgelora.bases import base_folder, is_folder
from edgelora.capabilities import AdaptsModel, WrapsEmbeddings
from edgelora.errors import EdgeloraError, PlanError
from edgelora.manifest.base_identity import read_base_config, remembered_tensors_digest, weights_files
from edgelora.manifest.tensors import MAX_BASE_HEADER, read_header
from edgelora.module_names import is_named
from edgelora.plan.able import adapter_that_is
from edgelora.plan.part import PlannedPart
from edgelora.registry import Registry

if TYPE_CHECKING:
    from edgelora.plan import Plan

Shapes = Mapping[str, tuple[int, ...]]
"""By the tensors' names in the files."""


def check_embeddings(base: str, adapter: PlannedPart, registry: Registry) -> None:
    """Refuse to adapt an embedding, or the output head, by an adapter that wraps linears only.

    These are the tensors outside of the numbered blocks with a row for each token. A base whose files are not
    in a folder here is left to training.

    Raises:
        PlanError: ``target_modules`` names one.
    """
    targets = adapter.options.model_dump().get("target_modules")
    if not isinstance(targets, list) or {AdaptsModel.__name__, WrapsEmbeddings.__name__} & {
        *adapter.part.abilities
    }:
        return
    for module in _with_a_row_for_each_token(base):
        if is_named(module, targets):
            raise PlanError(
                f"target_modules names {module}, an embedding or the output head, and adapter "
                f"{adapter.name!r} wraps the linears inside the blocks only",
                fix=f"leave {module} out; an embedding takes "
                f"{adapter_that_is(WrapsEmbeddings.__name__, registry)}",
            )


def names_not_found(plan: Plan) -> Iterator[str]:
    """A sentence for each module that a recipe names and none of the base's tensors is of.

    transformers may call a module otherwise than its file does, so this is no refusal.
    """
    adapter = plan.parts["adapter"]
    options = {} if AdaptsModel.__name__ in adapter.part.abilities else adapter.options.model_dump()
    named: dict[str, Iterable[str]] = {"skip_modules": plan.recipe.skip_modules}
    for field in ("target_modules", "exclude_modules", "rank_pattern", "alpha_pattern"):
        patterns = options.get(field) or ()
        named[f"adapter.{field}"] = () if isinstance(patterns, str) else patterns
    if not any(named.values()):
        return
    parts = {part for name in _shapes(plan.recipe.base) for part in name.split(".")}
    for field, patterns in named.items() if parts else ():
        for pattern in patterns:
            last = pattern.rpartition(".")[2]
            if last not in parts:
                near = difflib.get_close_matches(last, sorted(parts), n=1)
                yield f"{field}: no tensor of the base is of a {pattern!r}" + (
                    f"; did you mean {near[0]!r}?" if near else ""
                )


def left_to_training(plan: Plan) -> str:
    """What nobody can tell before the base is loaded, in words."""
    left = ["that the base loads and has linears of the names and ranks asked for"]
    if not is_folder(plan.recipe.base):
        left.insert(0, f"whether {plan.recipe.base} is on this machine")
    if plan.recipe.data:
        left.append("that the data can be read")
    if plan.past and _remembered_digest(plan.recipe.base) is None:
        left.append("that 'past' was trained on exactly these weights")
    return ", ".join(left)


def _with_a_row_for_each_token(base: str) -> Iterator[str]:
    """Modules outside of the numbered blocks whose weight is (tokens, width)."""
    shapes = _shapes(base)
    if not shapes:
        return
    config: dict[str, Any] = read_base_config(base_folder(base))
    text = config.get("text_config")
    tokens = (text if isinstance(text, dict) else config).get("vocab_size")
    for name, shape in shapes.items():
        outside = not any(part.isdigit() for part in name.split("."))
        if outside and name.endswith(".weight") and len(shape) == 2 and shape[0] == tokens:
            yield name.removesuffix(".weight")


def _shapes(base: str) -> Shapes:
    """Of all tensors; none where they are not in a folder here, or not to be read."""
    try:
        folder = base_folder(base)
        return {
            name: entry.shape
            for file in weights_files(folder)
            for name, entry in read_header(folder / file, max_header=MAX_BASE_HEADER).items()
        }
    except EdgeloraError:  # training says what is wrong with it
        return {}


def _remembered_digest(base: str) -> str | None:
    try:
        return remembered_tensors_digest(base_folder(base))
    except EdgeloraError:
        return None
