"""The base model an adapter was trained on, as the manifest records it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from edgelora.manifest.components import PartRef
from edgelora.manifest.fields import Array, Count, Digest, Sha256, Text, Wire
from edgelora.manifest.paths import check_paths


class BaseFile(Wire):
    """One weights file of the base: a fast path, for its digest changes when the base is resharded."""

    path: Text
    size: Count
    sha256: Sha256


class Base(Wire):
    """A base model. Two bases are the same if their tensors and tokenizers are."""

    repo: Text
    """Its name for people: a repository or a folder."""
    revision: Annotated[str, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")] | None = None
    architecture: Text
    """The class in ``config.json``: ``LlamaForCausalLM``."""
    tensors_digest: Digest
    """Of the unquantized weights; the same however they are split into files."""
    weights: Array[BaseFile] = ()
    config_digest: Digest
    """Of the bytes of ``config.json``."""
    config_semantic_digest: Digest | None = None
    """Of what ``config.json`` means; absent where it has no canonical form."""
    tokenizer_digest: Digest | None = None
    chat_template_digest: Digest | None = None
    quantization: PartRef | None = None
    """The quantizer the base was trained under."""

    @field_validator("weights")
    @classmethod
    def _have_names_of_their_own(cls, weights: tuple[BaseFile, ...]) -> tuple[BaseFile, ...]:
        check_paths(file.path for file in weights)
        return weights
