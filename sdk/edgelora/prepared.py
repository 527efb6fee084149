"""``edgelora-base.json``: what a prepared base is made from, and how. spec/v1/prepared-base.md.

A prepared base is a folder with a base model that was quantized once, tensor by tensor. Beside the record it
holds ``config.json``, the tokenizer's files, an index of the tensors and the shards that it names:
``model-00001-of-0000n.safetensors``, one for each decoder block, and others for the embeddings, the head and
the rest, in the order of the model. In a shard wider dtypes come first; its data start at a multiple of 64.

What a loader finds there, by the names of the model's ``state_dict``:

- of a quantized linear ``X``, in the form ``"own"``: ``X.<name>`` for each name of the layer's ``state_dict``
  (``X.codes``, ``X.absmax``, …, ``X.bias``), as `edgelora.protocols.Quantizer.restore` takes them;
- in the form ``"stock"``: the names `edgelora.capabilities.StockTensors` gives, as transformers and
  bitsandbytes read them (``X.weight``, ``X.weight.absmax``, …), and ``X.bias``;
- all else (embeddings, norms, the head, linears of ``skip_modules``) under its own name and in the dtype of
  the source. A head tied to the embeddings is left out.

A linear is quantized if it is neither the output head nor named by ``skip_modules``. Its shape is that of the
linear in the model that ``config.json`` describes; the dtype to restore it with is the record's.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from edgelora.errors import ModelError, PathError, SpecVersionUnsupported
from edgelora.manifest.base import Base, BaseFile
from edgelora.manifest.components import Dtype, PartRef
from edgelora.manifest.fields import Array, Digest, Text, Wire
from edgelora.manifest.paths import check_paths
from edgelora.manifest.reader import explain
from edgelora.manifest.strict_json import NotStrict, parse

RECORD_NAME = "edgelora-base.json"
FORMAT_VERSION = "1.0"
MAX_RECORD_BYTES = 4 * 1024 * 1024
_FIX = "prepare the base again: edgelora bases prepare"

Form = Literal["own", "stock"]
"""Whose names the tensors of quantized linears have: the quantizer's, or those of stock transformers."""
INDEX_NAMES: Mapping[Form, str] = MappingProxyType(
    {"own": "edgelora.safetensors.index.json", "stock": "model.safetensors.index.json"}
)
"""The index by form. A folder without its own is refused by transformers, which passes over tensors of names
it does not know and goes on with random weights."""


class PreparedBase(Wire):
    """The record of a prepared base."""

    format_version: Text = FORMAT_VERSION
    source: Base
    """The unquantized model, whole: an adapter trained on the one fits the other."""
    quantizer: PartRef
    """With every option it was built with."""
    skip_modules: Array[Text] = ()
    """Linears left unquantized, by name or suffix, besides the output head."""
    dtype: Dtype
    """Of the weights that were quantized, as safetensors spells it."""
    form: Form
    files: Array[BaseFile] = Field(min_length=1)
    """Every file of the folder but the record."""
    tensors_digest: Digest
    """Of the prepared tensors; by the rule of `edgelora.manifest.tensor_digest.digest_of_tensors`."""

    @field_validator("files")
    @classmethod
    def _have_plain_names(cls, files: tuple[BaseFile, ...]) -> tuple[BaseFile, ...]:
        check_paths(file.path for file in files)
        if nested := [file.path for file in files if "/" in file.path or file.path == RECORD_NAME]:
            raise ValueError(f"{nested[0]!r} is no file beside the record")
        return files

    @property
    def weights(self) -> tuple[BaseFile, ...]:
        """The shards, in the order of the model."""
        return tuple(file for file in self.files if file.path.endswith(".safetensors"))

    @property
    def size_bytes(self) -> int:
        """Of all files but the record."""
        return sum(file.size for file in self.files)


def preparing_again(folder: Path, record: PreparedBase) -> str:
    """What to type to have a prepared base anew, as its record has it."""
    words = ["edgelora", "bases", "prepare", "MODEL", "--quantizer", record.quantizer.name]
    for name, value in record.quantizer.options.items():
        words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    for name in record.skip_modules:
        words += ["--skip-modules", name]
    command = shlex.join([*words, "--out", str(folder), "--overwrite"])
    return f"prepare it again: {command} (MODEL being {record.source.repo})"


def prepared_base(folder: Path) -> PreparedBase | None:
    """The record of a prepared base; None where the folder is none. Files are not looked at.

    Raises:
        ModelError: There is a record, and it is malformed.
        SpecVersionUnsupported: It is of a format this edgelora does not read.
        PathError: It names a file outside the folder.
    """
    path = folder / RECORD_NAME
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_RECORD_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", fix="make it a readable file") from error
    return parse_record(data, str(path))


def parse_record(data: bytes, where: str = RECORD_NAME) -> PreparedBase:
    """Read the bytes of a record. Members it does not know are kept and otherwise ignored.

    Raises:
        EdgeloraError: As `prepared_base`.
    """
    if len(data) > MAX_RECORD_BYTES:
        raise ModelError(f"{where} is larger than {MAX_RECORD_BYTES} bytes", fix=_FIX)
    try:
        document = parse(data)
    except NotStrict as error:
        raise ModelError(f"{where} is refused: {error}", fix=_FIX) from error
    if not isinstance(document, dict) or not isinstance(document.get("formatVersion"), str):
        raise ModelError(f"{where} is no record of a prepared base: it has no formatVersion", fix=_FIX)
    _refuse_other_major(document["formatVersion"], where)
    try:
        return PreparedBase.model_validate(document, context="file", by_alias=True, by_name=False)
    except ValidationError as error:
        raise ModelError(f"{where}: {explain(error)}", fix=_FIX) from error
    except PathError as error:
        raise PathError(f"{where}: {error.problem}", fix="do not use this base") from error


def record_bytes(record: PreparedBase) -> bytes:
    """UTF-8 JSON with sorted keys, two spaces of indent and one newline: equal records give equal bytes."""
    document: dict[str, Any] = record.model_dump(mode="json", by_alias=True)
    text = json.dumps(document, ensure_ascii=False, sort_keys=True, indent=2, allow_nan=False)
    data = f"{text}\n".encode()
    parse_record(data, "the record to be written")
    return data


def _refuse_other_major(version: str, where: str) -> None:
    if version.partition(".")[0] != FORMAT_VERSION.partition(".")[0]:
        raise SpecVersionUnsupported(
            f"{where} is of format {ascii(version)[:40]}, and this edgelora reads {FORMAT_VERSION}",
            fix="install an edgelora that reads it, or prepare the base again",
        )
