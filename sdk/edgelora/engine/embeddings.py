"""Embeddings as sites: which there are, which an adapter wraps, and heads that are tied to them."""

from __future__ import annotations

from typing import Any

from torch import nn

from edgelora.capabilities import WrapsEmbeddings
from edgelora.errors import PlanError
from edgelora.layers import FrozenEmbedding
from edgelora.module_names import is_named
from edgelora.plan import Plan
from edgelora.plan.able import adapter_that_is


def embeddings_for(adapter: object, model: nn.Module, plan: Plan) -> dict[str, nn.Embedding]:
    """The model's embeddings by name, each once, for an adapter that wraps them; else none.

    Raises:
        PlanError: ``target_modules`` names one, and the adapter wraps linears only.
    """
    embeddings = {name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    if isinstance(adapter, WrapsEmbeddings):
        return embeddings
    targets = plan.parts["adapter"].options.model_dump()["target_modules"]
    for name in embeddings if isinstance(targets, list) else ():
        if is_named(name, targets):
            raise PlanError(
                f"target_modules names the embedding {name}, and adapter {plan.parts['adapter'].name!r} "
                "wraps linears only",
                fix=f"leave {name} out, or choose {adapter_that_is(WrapsEmbeddings.__name__)}",
            )
    return {}


def freeze_embedding(embedding: nn.Embedding, name: str) -> FrozenEmbedding:
    """An embedding frozen as it is, sharing its weight.

    Raises:
        PlanError: It computes more than a lookup.
    """
    if isinstance(embedding, FrozenEmbedding):
        return embedding
    if type(embedding) is not nn.Embedding or embedding.max_norm is not None:
        raise PlanError(
            f"{name} is a {type(embedding).__name__}, which computes more than a lookup of rows",
            fix=f"leave {name} out of target_modules",
        )
    return FrozenEmbedding.of(embedding)


def untie(model: Any, embedding: FrozenEmbedding) -> None:
    """Let the output head keep its weight when the rows of ``embedding`` change."""
    head = model.get_output_embeddings()
    if head is not None and head.weight is embedding.weight:
        model.config.tie_word_embeddings = False
        model.config.get_text_config().tie_word_embeddings = False
