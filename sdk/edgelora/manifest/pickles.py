"""Recognising files that can run code: pickles by extension or content, and programs by extension."""

from __future__ import annotations

import os
import re

HEAD_BYTES = 512

_ARCHIVES = (".7z", ".tar", ".tgz", ".whl", ".zip")
_PICKLES = (
    ".bin",
    ".ckpt",
    ".dill",
    ".joblib",
    ".mar",
    ".npy",
    ".npz",
    ".pickle",
    ".pkl",
    ".pt",
    ".pt2",
    ".pth",
)
_SCRIPTS = (".bat", ".cmd", ".js", ".ps1", ".py", ".pyc", ".sh")
_BINARIES = (".com", ".dll", ".dylib", ".exe", ".jar", ".msi", ".pyd", ".so", ".wasm")
_CONTENT = (
    (re.compile(rb"PK(\x03\x04|\x05\x06|\x07\x08)"), "a zip archive, the form of PyTorch's pickles"),
    (re.compile(rb"\x80[\x00-\x05]"), "a pickle"),
    (re.compile(rb"c[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n(\(|p[0-9]+\n)"), "a pickle of protocol 0"),
    (re.compile(rb"\(([dl]p[0-9]+|[SV][^\n]*\ni[A-Za-z_]\w*\n\w+)\n"), "a pickle of protocol 0"),
    (re.compile(rb"[\]})]q\x00"), "a pickle of protocol 1"),
    (re.compile(rb"\x93NUMPY"), "a NumPy array, which can hold pickles"),
    (
        re.compile(rb"\x1f\x8b|BZh[1-9]1AY|\xfd7zXZ\x00|\x28\xb5\x2f\xfd"),
        "compressed, so it cannot be judged",
    ),
    (re.compile(rb"\x7fELF|MZ[\x00-\xff]{2}\x00|\xcf\xfa\xed\xfe|\xca\xfe\xba\xbe"), "a program"),
)


def reason_to_refuse(path: str, head: bytes) -> str | None:
    """Why a file must not be in an adapter, by its name and its first `HEAD_BYTES`; None if it may.

    A file whose safetensors header is well formed is no pickle: the first bytes of one are not valid
    opcodes. Judge safetensors files by their header instead, for a length of 640 looks like a pickle's start.
    """
    suffix = os.path.splitext(path.lower())[1]
    if suffix in _PICKLES or suffix in _ARCHIVES:
        return f"files that end in {suffix} are loaded with pickle, or unpacked"
    return next((f"it is {what}" for pattern, what in _CONTENT if pattern.match(head)), None)


def is_program(path: str) -> bool:
    """Whether a file's name is that of code. edgelora never runs it; other tools may."""
    suffix = os.path.splitext(path.lower())[1]
    return suffix in _SCRIPTS or suffix in _BINARIES
