"""Tensors without values, and the code that asks for some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from edgelora.engine.base import first_line
from edgelora.errors import EdgeloraError, ModelError
from edgelora.plan import Plan

aten = torch.ops.aten


class EverythingHolds(TorchDispatchMode):
    """Answers questions about values of meta tensors with yes, so that code with such questions runs on them.

    Every number is 1 and every comparison true. In a forward pass the questions are: is nothing padded, does
    this row hold one text, are these labels taken into the loss, are two ways to the logits equal. So the
    pass is one of full rows, all of whose tokens are labelled, and a mask that selects, selects all. But no
    number is infinite or none.
    """

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """One operation."""
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if first is not None and first.is_meta:
            never = getattr(first, "_never_holds", False)
            if func in (aten.isinf.default, aten.isnan.default) or (never and func is aten.any.default):
                answer = func(*args, **(kwargs or {}))
                answer._never_holds = True
                return answer
            if func is aten._local_scalar_dense.default:
                return torch.full((), not never, dtype=first.dtype, device="cpu").tolist()
            if func in (aten.equal.default, aten.allclose.default):
                return True
            if func is aten.nonzero.default:
                return first.new_empty((first.numel(), first.dim()), dtype=torch.int64)
            if func is aten.index.Tensor:
                return func(first, [each for index in args[1] for each in _selecting_all(index)])
        return func(*args, **(kwargs or {}))


class FlashAttention(TorchFunctionMode):
    """Inside, attention of meta tensors is that of the kernel which keeps no (tokens × tokens) scores.

    Real tensors get that kernel by themselves; for meta tensors torch takes the plain form. No mode of this
    kind is in force in a backward pass: a block that is computed again there has to enter one itself.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """One function."""
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            query = args[0] if args else kwargs["query"]
            if query.is_meta:
                return _flash(*args, **kwargs)
        return func(*args, **kwargs)


@contextmanager
def on_shapes(cannot: str, plan: Plan) -> Iterator[None]:
    """Let code run without values as far as it can, and tell where it cannot by one error with a way out.

    Args:
        cannot: What could not be done, in words.
        plan: Of the run.

    Raises:
        ModelError: Something other than an `EdgeloraError` was raised: architectures and adapters are other
            people's code, and say in their own ways that a tensor has no values.
    """
    try:
        with EverythingHolds():
            yield
    except EdgeloraError:
        raise
    except Exception as error:  # other people's code says it in its own way
        fix = "measure it instead: edgelora estimate RECIPE --measure"
        if plan.recipe.memory_budget is not None:
            fix += (
                "; to train, leave memory_budget out and set train.streamed or gradient_checkpointing instead"
            )
        raise ModelError(f"{cannot}: {first_line(error)}", fix=fix) from error


def _selecting_all(index: Tensor | None) -> list[Tensor | None]:
    """An index as numbers: a mask is one of them for each of its dimensions, as long as it has elements."""
    if index is None or index.dtype != torch.bool:
        return [index]
    return [index.new_empty(index.numel(), dtype=torch.int64)] * index.dim()


def _flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """With the parameters of torch's function; dropout takes nothing here."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype)
    attended: Tensor = aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale
    )[0]
    return attended
