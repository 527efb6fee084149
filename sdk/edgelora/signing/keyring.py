"""The keys on this machine: private ones to sign with, and the public keys of everyone known by name."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from edgelora.confined import read_regular
from edgelora.errors import EdgeloraError, KeyFileError, KeyNotFound, MissingFile
from edgelora.files import atomic_write, fsync_dir, make_dirs, write_new
from edgelora.locations import config_dir
from edgelora.signing.envelope import FINGERPRINT
from edgelora.signing.keys import (
    MAX_KEY_BYTES,
    KeyType,
    PrivateKey,
    PublicKey,
    is_encrypted,
    new_private_key,
    read_private_pem,
    read_public_pem,
)

_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class NamedKey:
    """One key of the keyring."""

    name: str
    public: PublicKey
    can_sign: bool
    """Its private half is here."""
    is_locked: bool = False
    """The private half is encrypted."""


def new_key(name: str, kind: KeyType = "ed25519", *, passphrase: bytes | None = None) -> NamedKey:
    """Make a key pair and keep it under a name.

    Raises:
        KeyFileError: The name is taken or not allowed.
    """
    return _keep(name, new_private_key(kind), passphrase)


def import_key(name: str, file: Path, *, passphrase: bytes | None = None) -> NamedKey:
    """Keep a key from a PEM file under a name: a private one to sign with, or a public one to know.

    Args:
        name: For commands.
        file: PEM.
        passphrase: Opens the file, and protects the copy in the same way.

    Raises:
        MissingFile: There is no such file.
        KeyFileError: It holds no key that can be used, or the name is taken or not allowed.
    """
    data = read_key_file(file)
    if b"PRIVATE KEY" in data:
        protect = passphrase if is_encrypted(data) else None
        return _keep(name, read_private_pem(data, str(file), passphrase), protect)
    public = read_public_pem(data, str(file))
    _check_free(name)
    atomic_write(_public_path(name), public.pem)
    return NamedKey(name, public, can_sign=False)


def list_keys() -> list[NamedKey]:
    """Every key that is kept here, by name; files that hold none are left out."""
    found = []
    for path in sorted(_folder("public").glob("*.pem")):
        try:
            found.append(find_key(path.stem))
        except EdgeloraError:
            continue
    return found


def find_key(name: str) -> NamedKey:
    """A key by its name or fingerprint.

    Raises:
        KeyNotFound: There is none; says which there are.
        KeyFileError: Its file is damaged.
    """
    if FINGERPRINT.fullmatch(name):
        for key in list_keys():
            if key.public.fingerprint == name:
                return key
        raise _unknown(name)
    if not _NAME.fullmatch(name) or not _public_path(name).is_file():
        raise _unknown(name)
    public = read_public_pem(read_key_file(_public_path(name)), f"the key {name}")
    private = _private_path(name)
    can_sign = private.is_file()
    locked = can_sign and is_encrypted(read_key_file(private))
    return NamedKey(name, public, can_sign, locked)


def open_private(name: str, passphrase: bytes | None = None) -> PrivateKey:
    """The private half of a named key.

    Raises:
        KeyNotFound: There is no such key, or only its public half.
        KeyFileError: It is damaged, others can read or write it, or it is encrypted and the passphrase is
            missing or wrong.
    """
    key = find_key(name)
    if not key.can_sign:
        raise KeyNotFound(
            f"only the public half of the key {key.name} is on this machine",
            fix="sign where the private half is, or keep it here: edgelora keys new OTHERNAME --from FILE",
        )
    _refuse_shared(_private_path(key.name))
    private = read_private_pem(read_key_file(_private_path(key.name)), f"the key {key.name}", passphrase)
    if private.public != key.public:
        raise KeyFileError(
            f"the private and the public half of the key {key.name} do not belong together",
            fix=f"remove the wrong one in {_folder('public').parent}, or restore the folder from a backup",
        )
    return private


def _refuse_shared(private: Path) -> None:
    """Whoever reads a key signs with it, and whoever writes it chooses who signs."""
    for path, others, mode in ((private.parent, 0o022, "700"), (private, 0o077, "600")):
        if path.stat().st_mode & others:
            raise KeyFileError(
                f"others than you can use the private key {private}: its permissions are too wide",
                fix=f"chmod {mode} {path}; if others had access to this machine, make a new key",
            )


def read_key_file(path: Path) -> bytes:
    """The bytes of a PEM file.

    Raises:
        MissingFile: There is none.
        KeyFileError: It cannot be read, or is too long for a key.
    """
    place = path.resolve()
    try:
        return read_regular(place.parent, place.name, limit=MAX_KEY_BYTES)
    except MissingFile as error:
        raise MissingFile(f"there is no key file {path}", fix="correct the path") from error
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}", fix="make it readable") from error


def _keep(name: str, private: PrivateKey, passphrase: bytes | None) -> NamedKey:
    _check_free(name)
    folder = _folder("private")
    make_dirs(folder)
    folder.chmod(0o700)
    try:
        write_new(_private_path(name), private.pem(passphrase), mode=0o600)
    except FileExistsError as error:
        raise _taken(name) from error
    fsync_dir(folder)
    atomic_write(_public_path(name), private.public.pem)
    return NamedKey(name, private.public, can_sign=True, is_locked=passphrase is not None)


def _check_free(name: str) -> None:
    if len(name) > 64 or not _NAME.fullmatch(name):
        raise KeyFileError(
            f"{name[:80]!r} cannot be the name of a key",
            fix="use lower-case letters and digits, joined by single '.', '_' or '-'",
        )
    if _public_path(name).exists() or os.path.lexists(_private_path(name)):
        raise _taken(name)


def _taken(name: str) -> KeyFileError:
    return KeyFileError(
        f"there is a key {name} already, and keys are never replaced", fix="choose another name"
    )


def _unknown(name: str) -> KeyNotFound:
    known = ", ".join(path.stem for path in sorted(_folder("public").glob("*.pem")))
    return KeyNotFound(
        f"no key {name[:80]!r} is kept on this machine",
        fix=f"use one of {known}" if known else "make one: edgelora keys new NAME",
    )


def _folder(half: str) -> Path:
    return config_dir() / "keys" / half


def _public_path(name: str) -> Path:
    return _folder("public") / f"{name}.pem"


def _private_path(name: str) -> Path:
    return _folder("private") / f"{name}.pem"
