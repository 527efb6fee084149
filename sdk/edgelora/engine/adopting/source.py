"""A directory that PEFT's ``save_pretrained`` wrote: its configuration, tensors, card and licences."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from edgelora.about import UNSPECIFIED_LICENSE, license_expression
from edgelora.engine.adopting.front_matter import front_matter
from edgelora.engine.adopting.reading import open_source_file, read_source_file, repository_of
from edgelora.engine.peft_format import CONFIG_NAME, WEIGHTS_NAME
from edgelora.errors import MissingFile, NotAdoptable, TensorFileError, UnsafeFile
from edgelora.manifest.tensors import header_of

MAX_CONFIG_BYTES = 4 * 2**20
MAX_TEXT_BYTES = 2**20
"""Of the card and of each file with a licence."""
MAX_WEIGHTS_BYTES = 8 * 2**30
"""It is read into the memory; adapters are far smaller."""
CARD_NAME = "README.md"
PICKLE = "adapter_model.bin"
LICENSE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.txt", "NOTICE.md")
_KIND = re.compile(r"[A-Za-z0-9_]{1,40}")
_TAG = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


@dataclass(frozen=True, slots=True)
class PeftSource:
    """An adapter as PEFT saved it."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    digests: tuple[tuple[str, int, str], ...]
    """Path, size and SHA-256 of the configuration and the weights."""
    card: str | None
    about: dict[str, Any]
    """The front matter of the card."""
    licenses: dict[str, bytes]
    """Files with the words of licences, by name."""

    @property
    def kind(self) -> str:
        """PEFT's name of the method, such as ``LORA``."""
        return str(self.config.get("peft_type") or "")

    def license(self) -> str:
        """The card's licence as an SPDX expression; ``LicenseRef-…`` where SPDX has no name for it."""
        given = self.about.get("license")
        name = given[0] if isinstance(given, list) and given else given
        if not isinstance(name, str) or not name.strip():
            return UNSPECIFIED_LICENSE
        try:
            return license_expression(name)
        except ValueError:
            other = self.about.get("license_name")
            words = other if name.lower() == "other" and isinstance(other, str) else name
            own = re.sub(r"[^A-Za-z0-9.]+", "-", words).strip("-.")[:100]
            return f"LicenseRef-{own}" if own else UNSPECIFIED_LICENSE

    def languages(self) -> tuple[str, ...]:
        """The card's languages that are BCP 47 tags."""
        given = self.about.get("language")
        tags = [given] if isinstance(given, str) else given if isinstance(given, list) else []
        return tuple(dict.fromkeys(tag for tag in tags if isinstance(tag, str) and _TAG.fullmatch(tag)))

    def author(self) -> str | None:
        """Who made it: as the card says, or the owner of the repository in the Hub's cache."""
        for member in ("author", "authors", "model_author", "developers"):
            given = self.about.get(member)
            names = given if isinstance(given, list) else [given]
            said = ", ".join(name for name in names if isinstance(name, str))
            if said.strip() and said.isprintable():
                return said[:200]
        repository = repository_of(self.folder.resolve())
        return repository[0] if repository else None


def read_source(folder: Path) -> PeftSource:
    """Read such a directory, each file once; nothing in it is run.

    Raises:
        MissingFile: There is no such directory, or no configuration or weights in it.
        UnsafeFile: The weights are a pickle.
        PathError: A file is a link, a directory or a device.
        NotAdoptable: The configuration cannot be read, or a file is too long.
        TensorFileError: The weights file is malformed.
    """
    config_bytes = read_source_file(folder, CONFIG_NAME, MAX_CONFIG_BYTES)
    if config_bytes is None:
        raise MissingFile(
            f"{folder} holds no {CONFIG_NAME}", fix="pass a folder that PEFT's save_pretrained wrote"
        )
    weights = _weights(folder)
    try:
        # Sorted, because the reader's order differs from run to run.
        tensors = dict(sorted(load(weights).items()))
    except (SafetensorError, ValueError, KeyError) as error:
        raise TensorFileError(
            f"{folder / WEIGHTS_NAME} cannot be read: {error}", fix="fetch it again"
        ) from error
    card = read_source_file(folder, CARD_NAME, MAX_TEXT_BYTES)
    text = None if card is None else card.decode("utf-8", "replace")
    found = {name: read_source_file(folder, name, MAX_TEXT_BYTES) for name in LICENSE_FILES}
    described = ((CONFIG_NAME, config_bytes), (WEIGHTS_NAME, weights))
    return PeftSource(
        folder=folder,
        config=_config(config_bytes, folder),
        tensors=tensors,
        digests=tuple(
            (path, len(content), hashlib.sha256(content).hexdigest()) for path, content in described
        ),
        card=text,
        about=front_matter(text or ""),
        licenses={name: data for name, data in found.items() if data is not None},
    )


def _weights(folder: Path) -> bytes:
    try:
        file = open_source_file(folder, WEIGHTS_NAME)
    except MissingFile as error:
        if os.path.lexists(folder / PICKLE):
            raise UnsafeFile(
                f"{folder / PICKLE} is a pickle, which can run any code when it is opened",
                fix="where you trust it, load it with PEFT and save it again: "
                "model.save_pretrained(folder, safe_serialization=True)",
            ) from error
        raise MissingFile(
            f"{folder} holds no {WEIGHTS_NAME}", fix="fetch the adapter again, completely"
        ) from error
    with file:
        if os.fstat(file.fileno()).st_size > MAX_WEIGHTS_BYTES:
            raise NotAdoptable(
                f"{folder / WEIGHTS_NAME} is longer than {MAX_WEIGHTS_BYTES} bytes",
                fix="pass the folder of one adapter",
            )
        # The same open file, so that the bytes read are those whose header was found safe.
        header_of(file, str(folder / WEIGHTS_NAME))
        file.seek(0)
        return file.readall()


def _config(data: bytes, folder: Path) -> dict[str, Any]:
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NotAdoptable(f"{folder / CONFIG_NAME} is not JSON: {error}", fix="fetch it again") from error
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise NotAdoptable(
            f"{folder / CONFIG_NAME} names no peft_type",
            fix="pass a folder that PEFT's save_pretrained wrote",
        )
    return config
