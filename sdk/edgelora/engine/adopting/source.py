"""A directory that PEFT's ``save_pretrained`` wrote: its configuration, tensors, card and licences."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from edgelora.about import UNSPECIFIED_LICENSE, license_expression
from edgelora.engine.peft_format import CONFIG_NAME, WEIGHTS_NAME
from edgelora.errors import MissingFile, NotAdoptable, TensorFileError, UnsafeFile
from edgelora.manifest.tensors import read_header

MAX_CONFIG_BYTES = 4 * 2**20
MAX_CARD_BYTES = 2**20
PICKLE = "adapter_model.bin"
_FRONT = re.compile(r"\A---\r?\n(.*?)^---\s*$", re.DOTALL | re.MULTILINE)
LICENSE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.txt", "NOTICE.md")
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
        kind, *names = self.folder.resolve().parent.parent.name.split("--")
        return names[0] if kind == "models" and len(names) == 2 else None

    def license_files(self) -> list[str]:
        """Files with the words of licences."""
        return [name for name in LICENSE_FILES if (self.folder / name).is_file()]


def read_source(folder: Path) -> PeftSource:
    """Read such a directory; nothing in it is run.

    Raises:
        MissingFile: There is no such directory, or no configuration or weights in it.
        UnsafeFile: The weights are a pickle.
        NotAdoptable: The configuration cannot be read.
        TensorFileError: The weights file is malformed.
    """
    config_bytes = _read(folder / CONFIG_NAME, MAX_CONFIG_BYTES)
    if config_bytes is None:
        raise MissingFile(
            f"{folder} holds no {CONFIG_NAME}", fix="pass a folder that PEFT's save_pretrained wrote"
        )
    if not (folder / WEIGHTS_NAME).is_file():
        if (folder / PICKLE).exists():
            raise UnsafeFile(
                f"{folder / PICKLE} is a pickle, which can run any code when it is opened",
                fix="where you trust it, load it with PEFT and save it again: "
                "model.save_pretrained(folder, safe_serialization=True)",
            )
        raise MissingFile(f"{folder} holds no {WEIGHTS_NAME}", fix="fetch the adapter again, completely")
    read_header(folder / WEIGHTS_NAME)
    data = (folder / WEIGHTS_NAME).read_bytes()
    try:
        # Sorted, because the reader's order differs from run to run.
        tensors = dict(sorted(load(data).items()))
    except (SafetensorError, ValueError, KeyError) as error:
        raise TensorFileError(
            f"{folder / WEIGHTS_NAME} cannot be read: {error}", fix="fetch it again"
        ) from error
    card = _read(folder / "README.md", MAX_CARD_BYTES)
    text = None if card is None else card.decode("utf-8", "replace")
    described = ((CONFIG_NAME, config_bytes), (WEIGHTS_NAME, data))
    return PeftSource(
        folder=folder,
        config=_config(config_bytes, folder),
        tensors=tensors,
        digests=tuple(
            (path, len(content), hashlib.sha256(content).hexdigest()) for path, content in described
        ),
        card=text,
        about=_front_matter(text or ""),
    )


def matching_key(keys: Iterable[str], site: str) -> str | None:
    """The first of PEFT's patterns that names a site: a regular expression for its end."""
    for key in keys:
        try:
            if re.match(rf"(.*\.)?({key})$", site):
                return key
        except re.error:
            continue
    return None


def _config(data: bytes, folder: Path) -> dict[str, Any]:
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NotAdoptable(f"{folder / CONFIG_NAME} is not JSON: {error}", fix="fetch it again") from error
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise NotAdoptable(
            f"{folder / CONFIG_NAME} names no peft_type",
            fix="pass a folder that PEFT's save_pretrained wrote",
        )
    return config


def _front_matter(card: str) -> dict[str, Any]:
    match = _FRONT.match(card)
    try:
        front = yaml.safe_load(match[1]) if match else None
    # ValueError: PyYAML reads 2024-13-45 as a date and fails.
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return front if isinstance(front, dict) else {}


def _read(path: Path, limit: int) -> bytes | None:
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    if len(data) > limit:
        raise NotAdoptable(f"{path} is longer than {limit} bytes", fix="pass the folder of one adapter")
    return data
