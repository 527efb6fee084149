"""The bytes of a remote file from an offset on, through cut connections and busy servers."""

from __future__ import annotations

import io
import re
import threading
import time

from edgelora.errors import FileSetMismatch
from edgelora.store.http_reading import HttpReader
from edgelora.store.http_reply import (
    NotThere,
    PassingTrouble,
    Reply,
    content_length,
    refused,
    too_slow,
)
from edgelora.store.protocol import SourceChanged

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_PIECE_BYTES = 2**16


class RemoteFile(io.RawIOBase):
    """A stream that asks again for the rest when its connection is cut, and never reads past the listed size.

    Reads return what has arrived, so that whoever writes it down has it when the process dies.

    Args:
        reader: Of the endpoint.
        path: Of the file below the endpoint, quoted.
        size: As listed; a reply of another length is refused.
        offset: Where to begin.
    """

    def __init__(self, reader: HttpReader, path: str, *, size: int, offset: int = 0) -> None:
        super().__init__()
        self._reader = reader
        self._path = path
        self._size = size
        self._position = offset
        self._skip = 0
        self._etag: str | None = None
        self._reply: Reply | None = None
        self._failures = 0
        self._since_s = 0.0
        self._waited_s = 0.0
        self._arrived_bytes = 0
        self._closing = threading.Event()

    def readable(self) -> bool:
        """Yes."""
        return True

    def read(self, limit: int = -1) -> bytes:
        """At most ``limit`` bytes, as they come; empty at the end.

        Raises:
            SourceChanged: The file is another one than when it was opened.
            StoreUnreachable: The connection was cut again and again without a byte in between, or hardly
                anything comes for a long time.
            ReplyRefused: The reply breaks the protocol.
        """
        left = self._size - self._position
        self._since_s = time.monotonic()
        while left > 0:
            if self._closing.is_set():
                raise ValueError("read of a closed file")
            try:
                if self._reply is None:
                    self._reply = self._open()
                piece = self._read_piece(left if limit < 0 else min(limit, left))
            except PassingTrouble as trouble:
                self._hang_up()
                self._failures += 1
                self._reader.wait(trouble, self._failures, sleep=self._closing.wait)
                continue
            self._position += len(piece)
            self._failures = 0
            return piece
        return b""

    def close(self) -> None:
        """Drop the connection. Another thread may do so: a read that waits then ends."""
        self._closing.set()
        self._hang_up()
        super().close()

    def _read_piece(self, limit: int) -> bytes:
        while self._skip:
            self._skip -= len(self._arrived(min(_PIECE_BYTES, self._skip)))
        return self._arrived(min(_PIECE_BYTES, limit))

    def _arrived(self, limit: int) -> bytes:
        # Another thread may have hung up meanwhile.
        reply = self._reply
        piece = reply.read1(limit) if reply else b""
        if not piece:
            raise PassingTrouble("the connection was cut")
        now_s = time.monotonic()
        self._waited_s += now_s - self._since_s
        self._since_s = now_s
        self._arrived_bytes += len(piece)
        # Over all connections: a server may also cut each after a byte.
        patience = self._reader.patience
        if self._waited_s > patience.window_s:
            if self._arrived_bytes < patience.window_bytes:
                raise too_slow(self._reader.endpoint, self._arrived_bytes)
            self._waited_s, self._arrived_bytes = 0.0, 0
        return piece

    def _hang_up(self) -> None:
        if self._reply is not None:
            self._reply.close()
            self._reply = None

    def _open(self) -> Reply:
        headers = {}
        if self._position:
            headers["Range"] = f"bytes={self._position}-"
            if self._etag:
                headers["If-Range"] = self._etag
        try:
            reply = self._reader.open(self._path, headers)
        except NotThere as error:
            raise FileSetMismatch(
                f"{self._reader.endpoint.address} lists {self._path}, and does not hold it",
                fix="publish the adapter there again, or use another store",
            ) from error
        try:
            self._check(reply)
        except BaseException:
            reply.close()
            raise
        return reply

    def _check(self, reply: Reply) -> None:
        etag = reply.headers.get("ETag")
        if self._etag and etag and etag != self._etag:
            raise SourceChanged
        # A weak one does not promise equal bytes, so it cannot be compared in a range request.
        self._etag = etag if etag and not etag.startswith("W/") else self._etag
        length = content_length(reply)
        if reply.status == 206:
            self._skip = 0
            self._check_range(reply)
            expected = self._size - self._position
        else:
            # The server does not know ranges: what is there already goes by once more.
            self._skip = self._position
            expected = self._size
        if length is not None and length != expected:
            problem = f"has {length} bytes where {expected} are listed"
            raise refused(reply.url, problem, reply.endpoint)

    def _check_range(self, reply: Reply) -> None:
        given = reply.headers.get("Content-Range", "")
        match = _CONTENT_RANGE.fullmatch(given)
        expected = (self._position, self._size - 1)
        if not match or (int(match[1]), int(match[2])) != expected or match[3] not in (str(self._size), "*"):
            raise refused(
                reply.url,
                f"has the range {reply.endpoint.shown(given)!r} where bytes {expected[0]} to {expected[1]} "
                "were asked for",
                reply.endpoint,
            )
