"""A model of three blocks, and what it is once prepared."""

import pytest
from prepared_bases import prepare
from tiny_models import save_llama, save_tokenizer


@pytest.fixture(scope="session")
def make_base():
    """A function that saves a model of three blocks in a new folder."""

    def make(folder, **changes):
        folder.mkdir()
        save_tokenizer(folder)
        save_llama(folder, **{"num_hidden_layers": 3} | changes)
        return folder

    return make


@pytest.fixture(scope="session")
def three_blocks(make_base, tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("bases") / "three")


@pytest.fixture(scope="session")
def prepared(three_blocks, tmp_path_factory):
    """A function that gives the model, prepared with a quantizer; made once each."""
    made = {}

    def of(quantizer):
        if quantizer not in made:
            folder = tmp_path_factory.mktemp("prepared") / "base"
            made[quantizer] = prepare(three_blocks, folder, quantizer)
        return made[quantizer]

    return of
