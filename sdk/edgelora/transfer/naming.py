"""Names and folders kept apart: what a reference finds has its name, and a folder is never taken for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgelora.errors import DigestMismatch, EdgeloraError
from edgelora.manifest import Identity
from edgelora.store import Reference, is_version


def check_identity(reference: Reference, identity: Identity, folder: Path) -> None:
    """Hold what was found by a reference against what that names; a branch or a digest names no version.

    Raises:
        DigestMismatch: It is another adapter.
    """
    version = reference.version if reference.version and is_version(reference.version) else identity.version
    wanted = f"{reference.adapter}@{version}"
    found = f"{identity.namespace}/{identity.name}@{identity.version}"
    if found != wanted:
        raise DigestMismatch(
            f"{folder} is the place of {wanted} and holds {found}",
            fix=f"edgelora remove {wanted}, then pull it again",
        )


@contextmanager
def telling_of_folder(text: str) -> Iterator[None]:
    """Whatever goes wrong with a reference, its fix names the folder of that name that is here, if any."""
    try:
        yield
    except EdgeloraError as error:
        if not Path(text).is_dir():
            raise
        raise type(error)(error.problem, fix=f"{error.fix}; the folder here is ./{text}") from error
