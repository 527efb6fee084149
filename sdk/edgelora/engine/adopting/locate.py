"""Where an adapter to adopt is: a folder, the Hub's cache on this machine, or an endpoint."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.utils import cached_file

from edgelora.engine.adopting.fetching import fetched_source
from edgelora.engine.peft_format import CONFIG_NAME
from edgelora.errors import MissingFile, ReferenceFormError

_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@contextmanager
def locate_source(adapter: str) -> Iterator[Path]:
    """The folder of an adapter that PEFT saved; one that was fetched is there while the block runs.

    Args:
        adapter: A folder; ``OWNER/NAME`` of the Hub's cache; or ``hf://OWNER/NAME``, ``STORE:OWNER/NAME`` or
            ``https://host#OWNER/NAME``, each with ``@revision`` or not, which are fetched.

    Raises:
        MissingFile: It is none of these, or not in the cache.
        EdgeloraError: What `fetched_source` raises.
    """
    folder = Path(os.path.expanduser(adapter))
    if folder.is_dir():
        yield folder
        return
    store, repository, revision = _split(adapter)
    if store is None:
        yield _cached(adapter, repository, revision)
        return
    with fetched_source(store, repository, revision) as fetched:
        yield fetched


def _cached(adapter: str, repository: str, revision: str | None) -> Path:
    try:
        found = cached_file(repository, CONFIG_NAME, revision=revision, local_files_only=True)
    except (OSError, ValueError):
        found = None
    if found is None:
        raise MissingFile(
            f"{adapter} is neither a folder nor in the Hub's cache on this machine",
            fix=f"correct the path, or fetch it from the Hub: edgelora adopt hf://{repository}",
        )
    return Path(found).parent


def _split(adapter: str) -> tuple[str | None, str, str | None]:
    """Store, ``owner/name`` and revision; a repository's name may hold capitals, unlike edgelora's own."""
    store: str | None
    if adapter.startswith("hf://"):
        store, rest = "hf://", adapter.removeprefix("hf://")
    elif "#" in adapter:
        store, _, rest = adapter.rpartition("#")
    elif ":" in adapter:
        store, _, rest = adapter.partition(":")
    else:
        store, rest = None, adapter
    repository, _, revision = rest.partition("@")
    if not _REPOSITORY.fullmatch(repository) or (revision and not _REVISION.fullmatch(revision)):
        raise ReferenceFormError(
            f"{adapter[:200]!r} is neither a folder nor a reference to a repository",
            fix="write a folder, OWNER/NAME, hf://OWNER/NAME or https://host#OWNER/NAME",
        )
    return store, repository, revision or None
