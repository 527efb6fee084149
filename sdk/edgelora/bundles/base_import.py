"""Placing a base model of a bundle below edgelora's home, where it is found by its digest."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgelora.bases import base_place
from edgelora.bundles.index import BundledBase, NamedBlob
from edgelora.bundles.reading import Bundle
from edgelora.errors import DigestMismatch, EdgeloraError, TargetExists, UnsafeFile
from edgelora.files import disk_full_is_an_error, exclusive_lock, fsync_dir, make_dirs, publish_directory
from edgelora.locations import home
from edgelora.manifest.base_identity import INDEX_NAME, identify_base
from edgelora.manifest.pickles import HEAD_BYTES, reason_to_refuse
from edgelora.prepared import RECORD_NAME

_PIECE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class StagedBase:
    """A base whose files lie beside its place, checked; or that is there already."""

    staging: Path
    place: Path
    copied_bytes: int
    """That were not there before."""

    def publish(self) -> None:
        """Let it be found."""
        if not self.staging.exists():
            return
        with disk_full_is_an_error(self.place):
            publish_directory(self.staging, self.place)
        if self.staging.exists():
            shutil.rmtree(self.staging)


@contextmanager
def staged_base(bundle: Bundle, base: BundledBase) -> Iterator[StagedBase]:
    """Gather the files of a base, and check that it has the weights it is named for; others wait meanwhile.

    Raises:
        TargetExists: The base is there with other files beside its weights: those are never replaced.
        DigestMismatch: A file, or the base as a whole, is another than the index says.
        UnsafeFile: It is a prepared base, whose weights nobody can tell to be those it is named for.
        DiskFull: No space is left.
        EdgeloraError: The files make no base model.
    """
    if any(file.path.casefold() == RECORD_NAME for file in base.files):
        # Its weights would be taken for those of the model it names, whatever they are.
        raise UnsafeFile(
            f"the base {base.repo!r} of the bundle is a prepared one, which may name any model as its source",
            fix="do not use this bundle; prepare the base from the unquantized model here",
        )
    place = base_place(base.tensors_digest)
    staging = _staging_of(place)
    with exclusive_lock(home() / "locks" / f"base-{place.name[:32]}.lock"):
        copied = 0
        if _is_there(place, base):
            shutil.rmtree(staging, ignore_errors=True)
        else:
            with disk_full_is_an_error(place):
                copied = _gather(bundle, base, staging)
        yield StagedBase(staging, place, copied)


def _staging_of(place: Path) -> Path:
    return place.with_name(f".{place.name}.importing")


def _is_there(place: Path, base: BundledBase) -> bool:
    """Whether a base is there, whole; one whose weights are damaged is not, and may be replaced."""
    if not os.path.lexists(place):
        return False
    # Only the weights follow from the digest. Nobody who has them gets to choose the rest a second time.
    beside = [file for file in base.files if not _is_weights(file.path)]
    if other := [file.path for file in beside if not _is_intact(place / file.path, file)]:
        raise TargetExists(
            f"the base {base.tensors_digest} is on this machine with another {other[0]} than the bundle has",
            fix=f"keep yours and leave the base out of the bundle; or, if it is damaged: rm -r {place}",
        )
    try:
        return identify_base(place, rehash=True).tensors_digest == base.tensors_digest
    except EdgeloraError:
        return False


def _is_weights(path: str) -> bool:
    # How the same tensors are spread over files is no choice either: the index of the shards is checked.
    return path.endswith(".safetensors") or path == INDEX_NAME


def _gather(bundle: Bundle, base: BundledBase, staging: Path) -> int:
    make_dirs(staging)
    _delete_others(staging, base)
    copied = sum(_copy(bundle, file, staging) for file in base.files)
    fsync_dir(staging)
    _check(staging, base)
    return copied


def missing_base_bytes(base: BundledBase) -> int:
    """How much an import of this base still has to write, at most."""
    place = base_place(base.tensors_digest)
    folders = (place, _staging_of(place))
    return sum(
        file.size for file in base.files if not any((folder / file.path).is_file() for folder in folders)
    )


def _check(staging: Path, base: BundledBase) -> None:
    try:
        found = identify_base(staging, rehash=True).tensors_digest
        if found != base.tensors_digest:
            raise DigestMismatch(
                f"the base {base.repo!r} of the bundle has the tensors {found}, not {base.tensors_digest}",
                fix="do not use this bundle: it carries another base than it says",
            )
    except EdgeloraError:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _copy(bundle: Bundle, file: NamedBlob, staging: Path) -> int:
    target = staging / file.path
    if _is_intact(target, file):
        return 0
    part = staging / f"{file.sha256}.part"
    part.unlink(missing_ok=True)
    with bundle.open(file) as source, open(part, "xb") as out:
        _copy_hashed(source, out, file)
        out.flush()
        os.fsync(out.fileno())
    os.replace(part, target)
    return file.size


def _copy_hashed(source: BinaryIO, out: BinaryIO, file: NamedBlob) -> None:
    digest, size = hashlib.sha256(), 0
    while piece := source.read(_PIECE_BYTES):
        if size == 0 and not file.path.endswith(".safetensors"):
            _refuse_program(file.path, piece[:HEAD_BYTES])
        digest.update(piece)
        out.write(piece)
        size += len(piece)
    if (size, digest.hexdigest()) != (file.size, file.sha256):
        raise DigestMismatch(
            f"{file.path} of the bundle holds other bytes than its index says",
            fix="get the bundle again, or ask whoever made it for another copy",
        )


def _refuse_program(path: str, head: bytes) -> None:
    if reason := reason_to_refuse(path, head):
        raise UnsafeFile(f"{path} of a base in the bundle is refused: {reason}", fix="do not use this bundle")


def _is_intact(path: Path, file: NamedBlob) -> bool:
    if not path.is_file() or path.is_symlink() or path.stat().st_size != file.size:
        return False
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256


def _delete_others(staging: Path, base: BundledBase) -> None:
    wanted = {file.path for file in base.files}
    for path in staging.iterdir():
        if path.name not in wanted:
            path.unlink()
