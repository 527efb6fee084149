"""The container of a bundle: the part of ustar that leaves nothing to choose (spec/v1/bundle.md).

Every header is a function of a name and a size, so a reader compares it with the one it would have written:
links, devices, other owners, extensions and other spellings of a number are all the same refusal.
"""

from __future__ import annotations

from edgelora.errors import BundleError

BLOCK = 512
END = bytes(2 * BLOCK)
INDEX_NAME = "index.json"
SIGNATURE_NAME = "index.sig.json"
MAX_MEMBER_BYTES = 8**11 - 1
"""What eleven octal digits can say: 8 GiB less one byte."""

_FIX = "get the bundle again, or ask whoever made it for another copy"


def blob_name(sha256: str) -> str:
    """The name of the member that holds a blob."""
    return f"blobs/sha256/{sha256}"


def header(name: str, size: int) -> bytes:
    """The 512 bytes before a member's data."""
    fields = [
        name.encode("ascii").ljust(100, b"\0"),
        b"0000644\0",
        b"0000000\0",
        b"0000000\0",
        b"%011o\0" % size,
        b"00000000000\0",
        b" " * 8,
        b"0",
        bytes(100),
        b"ustar\x0000",
        bytes(64),
        b"0000000\0",
        b"0000000\0",
        bytes(167),
    ]
    block = b"".join(fields)
    checksum = b"%06o\0 " % sum(block)
    return block[:148] + checksum + block[156:]


def padding(size: int) -> int:
    """Zero bytes after ``size`` bytes of data."""
    return -size % BLOCK


def member_bytes(size: int) -> int:
    """What a member takes up: header, data and padding."""
    return BLOCK + size + padding(size)


def size_in(block: bytes, name: str) -> int:
    """The size a member's header gives, when the header is that of ``name``.

    Raises:
        BundleError: It is any other block.
    """
    digits = block[124:135]
    if len(block) == BLOCK and all(digit in b"01234567" for digit in digits):
        size = int(digits, 8)
        if header(name, size) == block:
            return size
    raise refused(f"where {name} should start, there is something else")


def refused(problem: str) -> BundleError:
    """The error for a file that is no bundle."""
    return BundleError(f"this is no bundle that can be read: {problem}", fix=_FIX)
