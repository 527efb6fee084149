"""Which base model a folder holds: the digests that an adapter's manifest records and `apply` compares."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgelora.errors import DigestMismatch, EdgeloraError, MissingFile, ModelError
from edgelora.manifest.base import Base, BaseFile
from edgelora.manifest.canonical_json import canonical_json
from edgelora.manifest.paths import check_path
from edgelora.manifest.tensor_digest import (
    HashedFile,
    digest_of_tensors,
    hash_weights,
    remembered_hash,
)
from edgelora.prepared import RECORD_NAME, PreparedBase, prepared_base, preparing_again

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
READ_SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""Of the files a model or its tokenizer is read from."""
_REWRITTEN_ON_SAVE = frozenset({"transformers_version", "_name_or_path", "torch_dtype", "dtype"})
_TOKENIZER_PARTS = ("merges.txt", "spiece.model", "tokenizer.model", "vocab.json", "vocab.txt")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def identify_base(
    folder: Path, *, repo: str | None = None, revision: str | None = None, rehash: bool = False
) -> Base:
    """Describe the base model in a folder, reading each weights file once.

    A prepared base is the model it was made from, once all its files are those its record lists: that they
    were made from it is the record's word, which ``edgelora bases verify --source`` puts to the test.

    Args:
        folder: With ``config.json`` and safetensors weights; a snapshot of the Hub's cache will do.
        repo: Its name for people; the folder's name, or the cached repository's, where not given.
        revision: The commit it was fetched at, where known.
        rehash: Ignore cached digests.

    Raises:
        MissingFile: There is no such folder.
        ModelError: Files are missing, unreadable or only pickles.
        TensorFileError: A weights file is malformed.
        DigestMismatch: A file of a prepared base is not the one its record lists.
    """
    if not folder.is_dir():
        raise MissingFile(f"there is no base model folder {folder}", fix="pass the folder of a base model")
    if record := prepared_base(folder):
        for problem in prepared_problems(folder, record, rehash=rehash):
            raise DigestMismatch(problem, fix=preparing_again(folder, record))
        return record.source if repo is None else record.source.model_copy(update={"repo": repo})
    cached_repo, cached_revision = _cached_name(folder)
    files = {name: hash_weights(folder / name, rehash=rehash) for name in weights_files(folder)}
    _check_index(folder, files)
    config = _object(_read(folder / "config.json"), folder / "config.json")
    config_digest, semantic_digest = describe_config(folder)
    weights = tuple(BaseFile(path=name, size=file.size, sha256=file.sha256) for name, file in files.items())
    return Base(
        repo=repo or cached_repo or folder.resolve().name or str(folder),
        revision=revision or cached_revision,
        architecture=_architecture(config, folder),
        tensors_digest=digest_of_tensors(files),
        weights=weights,
        config_digest=config_digest,
        config_semantic_digest=semantic_digest,
        tokenizer_digest=_tokenizer_digest(folder),
        chat_template_digest=_chat_template_digest(folder),
    )


def remembered_tensors_digest(folder: Path) -> str | None:
    """``tensorsDigest`` of an unquantized base whose files were hashed before; None where some were not.

    Raises:
        ModelError: Files are missing.
    """
    files = {name: remembered_hash(folder / name) for name in weights_files(folder)}
    known = {name: file for name, file in files.items() if file is not None}
    return digest_of_tensors(known) if known.keys() == files.keys() else None


def describe_config(folder: Path) -> tuple[str, str | None]:
    """``configDigest`` and ``configSemanticDigest`` of the base model in a folder; its weights are not read.

    Raises:
        ModelError: There is no configuration that can be read.
    """
    data = _read(folder / "config.json")
    return _digest(data), _semantic_digest(_object(data, folder / "config.json"))


def read_base_config(folder: Path) -> dict[str, Any]:
    """The members of a base's ``config.json``.

    Raises:
        ModelError: There is none, or it is no JSON object.
    """
    return _object(_read(folder / "config.json"), folder / "config.json")


def weights_files(folder: Path) -> list[str]:
    """The safetensors files of a base model, in order: ``model.safetensors``, or those its index names.

    Raises:
        ModelError: There are none, or the index is wrong.
    """
    if record := prepared_base(folder):
        return [file.path for file in record.weights]
    if (folder / SINGLE_NAME).is_file():
        return [SINGLE_NAME]
    if (folder / INDEX_NAME).is_file():
        names = sorted(set(_weight_map(folder).values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing or not names:
            raise ModelError(
                f"{folder / INDEX_NAME} names {missing[0] if missing else 'no file'}, which is not there",
                fix="fetch the base model again, completely",
            )
        return names
    pickles = sorted(path.name for path in folder.glob("*.bin")) + sorted(
        path.name for path in folder.glob("*.pt*")
    )
    if pickles:
        raise ModelError(
            f"{folder} holds weights only as pickles ({pickles[0]}), which can run code when loaded",
            fix="fetch the safetensors form, or convert it on a machine you can afford to lose",
        )
    raise ModelError(
        f"{folder} holds neither {SINGLE_NAME} nor {INDEX_NAME}", fix="pass the folder of a base model"
    )


def _weight_map(folder: Path) -> dict[str, str]:
    path = folder / INDEX_NAME
    weight_map = _object(_read(path), path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ModelError(f"{path} has no weight_map of file names", fix="fetch the base model again")
    for name in set(weight_map.values()):
        try:
            check_path(name)
        except EdgeloraError as error:
            raise ModelError(f"{path}: {error.problem}", fix="do not use this base model") from error
    return weight_map


def _check_index(folder: Path, files: dict[str, HashedFile]) -> None:
    if list(files) == [SINGLE_NAME]:
        return
    for name, file in _weight_map(folder).items():
        if name not in files[file].tensors:
            raise ModelError(
                f"{folder / INDEX_NAME} places {name!r} in {file}, which does not hold it",
                fix="fetch the base model again, completely",
            )


def prepared_problems(folder: Path, record: PreparedBase, *, rehash: bool = False) -> Iterator[str]:
    """What a prepared base has otherwise than its record says, file by file; nothing if it is sound.

    Raises:
        ModelError: The folder cannot be read.
    """
    listed = {file.path: file for file in record.files}
    try:
        names = {name for name in os.listdir(folder) if name.endswith(READ_SUFFIXES)} - {RECORD_NAME}
    except OSError as error:
        raise ModelError(f"{folder} cannot be read: {error.strerror}", fix="make it readable") from error
    for name in sorted(names - listed.keys()):
        yield f"{folder / name} is not listed in {RECORD_NAME}"
    for name, file in listed.items():
        if problem := _file_problem(folder / name, file, rehash):
            yield f"{folder / name} {problem}"
    stated = record.source.tokenizer_digest
    if stated is not None and _tokenizer_digest(folder) != stated:
        yield f"{folder} holds another tokenizer than {record.source.repo}, which it is made from"


def _file_problem(path: Path, file: BaseFile, rehash: bool) -> str | None:
    if not path.is_file():
        return "is not there"
    if (size := path.stat().st_size) != file.size:
        return f"has {size} bytes, and {RECORD_NAME} lists {file.size}"
    try:
        is_weights = path.suffix == ".safetensors"
        sha256 = hash_weights(path, rehash=rehash).sha256 if is_weights else file_sha256(path)
    except EdgeloraError as error:
        return f"is damaged: {error.problem}"
    return (
        None if sha256 == file.sha256 else f"has the digest {sha256}, and {RECORD_NAME} lists {file.sha256}"
    )


def _cached_name(folder: Path) -> tuple[str | None, str | None]:
    if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name):
        kind, *names = folder.parent.parent.name.split("--")
        return ("/".join(names) if kind == "models" and names else None), folder.name
    return None, None


def _architecture(config: dict[str, Any], folder: Path) -> str:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else config.get("model_type")
    if not isinstance(name, str) or not name:
        raise ModelError(
            f"{folder / 'config.json'} names neither architectures nor model_type",
            fix="fetch the base model again, or add 'architectures' to its config.json",
        )
    return name


def _semantic_digest(config: dict[str, Any]) -> str | None:
    try:
        return _digest(canonical_json(_without_rewritten(config)))
    except (ValueError, RecursionError):
        return None


def _without_rewritten(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_rewritten(item) for key, item in value.items() if key not in _REWRITTEN_ON_SAVE}
    return [_without_rewritten(item) for item in value] if isinstance(value, list) else value


def _tokenizer_digest(folder: Path) -> str | None:
    if (folder / "tokenizer.json").is_file():
        return f"sha256:{file_sha256(folder / 'tokenizer.json')}"
    parts = [name for name in _TOKENIZER_PARTS if (folder / name).is_file()]
    lines = [f"{file_sha256(folder / name)} {name}\n" for name in parts]
    return _digest("".join(["edgelora-tokenizer-v1\n", *lines]).encode()) if lines else None


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a file that a tokenizer is read from."""
    return any((folder / name).is_file() for name in ("tokenizer.json", *_TOKENIZER_PARTS))


def _chat_template_digest(folder: Path) -> str | None:
    if (folder / "chat_template.jinja").is_file():
        return _digest(_read(folder / "chat_template.jinja"))
    path = folder / "tokenizer_config.json"
    template = _object(_read(path), path).get("chat_template") if path.is_file() else None
    return _digest(template.encode("utf-8", "surrogatepass")) if isinstance(template, str) else None


def _object(data: bytes, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON: {error}", fix="fetch the base model again") from error
    if not isinstance(document, dict):
        raise ModelError(f"{path} holds no JSON object", fix="fetch the base model again")
    return document


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror}", fix="fetch the base model again"
        ) from error


def file_sha256(path: Path) -> str:
    """In pieces: a file may be larger than memory."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror}", fix="fetch the base model again"
        ) from error


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
