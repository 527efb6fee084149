"""Rows are no longer than what a model has positions for."""

import pytest
from tiny_models import save_gpt2, save_llama, save_tokenizer, write_rows

from edgelora.engine.report import QuietReporter
from edgelora.errors import PlanError
from edgelora.run import run


class Told(QuietReporter):
    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


@pytest.fixture
def long_rows(recipe, registry, tmp_path):
    """Runs two steps on rows of more than 16 tokens over a model with 16 positions."""

    def train(save, **changes):
        folder = tmp_path / "base"
        save_tokenizer(folder)
        save(folder, **changes)
        rows, told = write_rows(tmp_path / "rows.jsonl", 20), Told()
        asked = recipe({"max_steps": 2}, base=str(folder), data=[{"path": str(rows)}], evaluators=[])
        run(asked, registry, reporter=told)
        return told.messages

    return train


def test_positions_that_are_looked_up_have_an_end(long_rows):
    words = r"the longest row has \d+ tokens, and the base has positions for 16\n"
    with pytest.raises(PlanError, match=words) as caught:
        long_rows(save_gpt2, n_positions=16)
    assert "train.max_length=16" in caught.value.fix


def test_positions_that_are_computed_have_none_and_it_is_said(long_rows):
    messages = long_rows(save_llama, max_position_embeddings=16)
    assert any("positions for 16: it was not trained on longer ones" in line for line in messages)
