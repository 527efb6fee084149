"""Connections to endpoints: through a proxy where the environment names one, and within their time.

The standard library waits for each next byte, and reads on as long as any come: a server that sends one now
and then, or headers without end, would hold a reader for ever. Here the head of a reply, and each piece of
its body, has to be there within the time a connection has.

Proxies and certificates follow the usual variables: HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE, SSL_CERT_DIR.
"""

from __future__ import annotations

import io
import socket
import time
import urllib.request
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from edgelora.store.endpoint import is_loopback, is_public

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class LeadsInside(OSError):
    """A public address led to one of a private network."""


def is_through_proxy(url: str) -> bool:
    """Whether the environment names a proxy for this address. What goes to this machine needs none."""
    parts = urlsplit(url)
    named = parts.scheme in urllib.request.getproxies()
    return named and not is_loopback(url) and not urllib.request.proxy_bypass(parts.netloc)


def may_leave_by_proxy(url: str) -> bool:
    """Whether the Hub's client, which makes no exception for this machine, would go there through a proxy."""
    parts, proxies = urlsplit(url), urllib.request.getproxies()
    excepted = {name.strip() for name in proxies.get("no", "").split(",")}
    return bool({parts.scheme, "all"} & proxies.keys()) and not {parts.hostname, "*"} & excepted


class Connections:
    """Opens one connection for each request. Threads may share it."""

    def __init__(self) -> None:
        self._direct = _opener()
        self._through_proxy = _opener(urllib.request.ProxyHandler())

    def get(self, url: str, headers: Mapping[str, str], *, timeout_s: float, only_public: bool) -> TimedReply:
        """The reply to a request, whatever its status, with its body still to be read.

        Args:
            url: What to ask for.
            headers: All that are sent.
            timeout_s: For the connection, for the head of the reply, and for each piece of its body.
            only_public: Refuse a name that stands for an address of a private network. What a proxy connects
                to is not known here.

        Raises:
            OSError: There is no connection; `LeadsInside` where there may be none.
            HTTPException: The reply is not HTTP.
        """
        request = _Request(url, headers=dict(headers))
        if is_through_proxy(url):
            reply: TimedReply = self._through_proxy.open(request, timeout=timeout_s)
        else:
            request.only_public = only_public
            reply = self._direct.open(request, timeout=timeout_s)
        return reply


class TimedReply(HTTPResponse):
    """A reply whose head, and each piece of its body, is there in time or not at all."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.peer = str(sock.getpeername()[0])
        """The numeric address at the other end; the proxy's, if there is one."""
        self._stream = _TimedStream(self.fp.detach(), sock)
        self.fp = io.BufferedReader(self._stream)

    def read1(self, n: int = -1) -> bytes:
        """What has arrived, at most ``n`` bytes; waits for the first of them."""
        self._stream.restart()
        return super().read1(n)


class _TimedStream(io.RawIOBase):
    """Reads a connection until a time that no byte puts off."""

    def __init__(self, raw: io.RawIOBase, connection: socket.socket) -> None:
        super().__init__()
        self._raw = raw
        self._connection = connection
        self._limit_s = connection.gettimeout() or 0.0
        self.restart()

    def restart(self) -> None:
        self._end_s = time.monotonic() + self._limit_s

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._connection.settimeout(left_s)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Connection(HTTPConnection):
    response_class = TimedReply
    only_public = False

    def connect(self) -> None:
        super().connect()
        if self.only_public and not is_public(self.sock.getpeername()[0]):
            self.close()
            raise LeadsInside


class _EncryptedConnection(HTTPSConnection, _Connection):
    """The address is checked before anything is said, since the plain connection is made first."""


class _Request(urllib.request.Request):
    only_public = False

    def connection(self, host: str, **options: Any) -> HTTPConnection:
        made = (_EncryptedConnection if self.type == "https" else _Connection)(host, **options)
        made.only_public = self.only_public
        return made


class _Handler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(request.connection, request)  # type: ignore[attr-defined]  # it is given no other

    https_open = http_open
    https_request = urllib.request.HTTPHandler.http_request


def _opener(*handlers: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in (*handlers, _Handler()):
        opener.add_handler(handler)
    return opener
