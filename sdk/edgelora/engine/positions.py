"""Whether rows are longer than what a model has positions for."""

from __future__ import annotations

from typing import Any

from torch import nn

from edgelora.engine.data import Dataset
from edgelora.errors import PlanError


def check_lengths(model: Any, dataset: Dataset) -> str | None:
    """Refuse rows that a model has no positions for; what to say of ones longer than any it was trained on.

    Positions that are computed, as rotary ones are, have no end. Those that are looked up have one.

    Args:
        model: A transformers causal language model.
        dataset: Its rows.

    Raises:
        PlanError: The positions are in an embedding that is shorter than a row.
    """
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    rows = (*dataset.train, *dataset.held_out)
    longest = max((len(row.input_ids) for row in rows), default=0)
    if limit is None or longest <= limit:
        return None
    problem = f"the longest row has {longest:,} tokens, and the base has positions for {limit:,}"
    if _looks_positions_up(model, limit):
        raise PlanError(problem, fix=f"set train.max_length={limit}, at which rows are cut, or shorten them")
    return f"{problem}: it was not trained on longer ones"


def _looks_positions_up(model: Any, limit: int) -> bool:
    """Whether an embedding beside that of the tokens has a row for each position; some add a few in front."""
    tokens = model.get_input_embeddings()
    others = (part for part in model.modules() if isinstance(part, nn.Embedding) and part is not tokens)
    return any(limit <= part.num_embeddings < limit + 8 for part in others)
