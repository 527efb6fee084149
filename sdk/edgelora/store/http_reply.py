"""A reply over HTTP, not believed yet: its body within limits, its headers checked before they are used."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from typing import Any
from urllib.parse import urljoin, urlsplit

from edgelora.errors import ReplyRefused
from edgelora.store.endpoint import origin_of


class PassingTrouble(Exception):
    """Something that may be over at the next attempt: a cut connection, a busy server."""

    def __init__(self, problem: str, *, wait_s: float | None = None) -> None:
        super().__init__(problem)
        self.wait_s = wait_s


class NotThere(Exception):
    """The endpoint says it holds no such thing; ``str()`` is the code it gives."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply whose body is still to be read. It must be closed."""

    url: str
    """After redirects."""
    status: int
    headers: Message
    read1: Callable[[int], bytes]
    close: Callable[[], None]


def refused(url: str, problem: str) -> ReplyRefused:
    """The error for a reply that breaks the protocol. Queries are left out: they may be signed."""
    return ReplyRefused(
        f"the reply for {urlsplit(url)._replace(query='').geturl()} {problem}",
        fix="use another store, or tell its operator: nothing of this reply was used",
    )


def closer_of(response: Any) -> Callable[[], None]:
    """Closes a response, also while another thread waits for its next byte."""

    def close() -> None:
        # AttributeError: read to its end, a response has no connection any more.
        with (
            suppress(OSError, ValueError, AttributeError),
            socket.socket(fileno=os.dup(response.fileno())) as connection,
        ):
            connection.shutdown(socket.SHUT_RDWR)
        response.close()

    return close


def reader_of(response: Any, url: str) -> Callable[[int], bytes]:
    """Reads what has arrived, so that a cut connection loses nothing."""

    def read1(limit: int) -> bytes:
        try:
            data: bytes = response.read1(limit)
        # ValueError: another thread closed the reply meanwhile.
        except (OSError, HTTPException, ValueError) as error:
            raise PassingTrouble(f"{host_of(url)}: {error or type(error).__name__}") from error
        return data

    return read1


def body_of(reply: Reply, limit: int) -> bytes:
    """The whole body.

    Raises:
        ReplyRefused: It is longer than ``limit`` bytes.
        PassingTrouble: The connection was cut before its end.
    """
    expected = content_length(reply)
    data = bytearray()
    while len(data) <= limit and (piece := reply.read1(min(2**16, limit + 1 - len(data)))):
        data += piece
    if len(data) > limit:
        raise refused(reply.url, f"is longer than the {limit} bytes allowed there")
    if expected is not None and len(data) < expected:
        raise PassingTrouble(f"{host_of(reply.url)}: the connection was cut")
    return bytes(data)


def content_length(reply: Reply) -> int | None:
    """The announced length of a reply.

    Raises:
        ReplyRefused: It is not a number.
    """
    text = reply.headers.get("Content-Length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise refused(reply.url, f"has the length {printable(text)!r}")
    return int(text)


def next_page(reply: Reply) -> str | None:
    """The address in ``Link: <…>; rel="next"``, which must be of the same origin."""
    for link in reply.headers.get("Link", "").split(","):
        address, _, relation = link.strip().partition(">")
        if address.startswith("<") and 'rel="next"' in relation:
            target = urljoin(reply.url, address[1:])
            if origin_of(target) != origin_of(reply.url):
                raise refused(reply.url, f"goes on at {host_of(target)}, where nothing is fetched from")
            return target
    return None


def asked_wait_s(headers: Message) -> float | None:
    """Seconds the server asks to be left alone; None if it does not say, or names a date."""
    text = headers.get("Retry-After", "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else None


def host_of(url: str) -> str:
    """Host and port of an address, to be shown."""
    return printable(urlsplit(url).netloc)


def printable(text: str) -> str:
    """Foreign text, to be shown in one line."""
    return "".join(character if character.isprintable() else "?" for character in text)[:200]
