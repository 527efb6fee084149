from pathlib import Path

import pytest
from tiny_models import save_llama, save_tokenizer


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in bfloat16 with tied embeddings; nobody writes to it."""
    folder = tmp_path_factory.mktemp("source")
    save_tokenizer(folder)
    save_llama(folder, dtype="bfloat16")
    return folder
