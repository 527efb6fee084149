"""A reply over HTTP, not believed yet: its body within limits, its headers checked before they are used."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

from edgelora.errors import ReplyRefused, StoreUnreachable
from edgelora.store.endpoint import Endpoint, is_address, origin_of, printable


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

    endpoint: Endpoint
    """Which was asked first."""
    url: str
    """After redirects."""
    is_public: bool
    """Whether anybody may reach where it comes from; through a proxy, as far as its address says."""
    status: int
    headers: Message
    read1: Callable[[int], bytes]
    close: Callable[[], None]


def refused(url: str, problem: str, endpoint: Endpoint | None = None) -> ReplyRefused:
    """The error for a reply that breaks the protocol. Queries are left out: they may be signed.

    Args:
        url: Which reply.
        problem: What is wrong with it; foreign text in it went through ``shown``.
        endpoint: Whose token may be in the address.
    """
    show = endpoint.shown if endpoint else printable
    return ReplyRefused(
        f"the reply for {show(urlsplit(url)._replace(query='', fragment='').geturl())} {problem}",
        fix="use another store, or tell its operator: nothing of this reply was used",
    )


def too_slow(endpoint: Endpoint, size: int) -> StoreUnreachable:
    """The error for a server that sends, but hardly anything."""
    return StoreUnreachable(
        f"{endpoint.address} is too slow: only {size} bytes came in the time they had",
        fix="repeat the command on a better connection, or use another store: it goes on where it stopped",
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


def reader_of(response: Any, endpoint: Endpoint, url: str) -> Callable[[int], bytes]:
    """Reads what has arrived, so that a cut connection loses nothing."""

    def read1(limit: int) -> bytes:
        try:
            data: bytes = response.read1(limit)
        # ValueError: another thread closed the reply meanwhile.
        except (OSError, HTTPException, ValueError) as error:
            raise passing_trouble(error, endpoint, url) from error
        return data

    return read1


def passing_trouble(error: BaseException, endpoint: Endpoint, url: str) -> PassingTrouble:
    """What went wrong with a connection, in words that may be shown."""
    return PassingTrouble(endpoint.shown(f"{host_of(url)}: {error or type(error).__name__}"))


def body_of(reply: Reply, limit: int, *, time_s: float) -> bytes:
    """The whole body.

    Raises:
        ReplyRefused: It is longer than ``limit`` bytes.
        StoreUnreachable: It takes longer than ``time_s`` seconds.
        PassingTrouble: The connection was cut before its end.
    """
    expected = content_length(reply)
    data = bytearray()
    end_s = time.monotonic() + time_s
    while len(data) <= limit and (piece := reply.read1(min(2**16, limit + 1 - len(data)))):
        data += piece
        if time.monotonic() > end_s:
            raise too_slow(reply.endpoint, len(data))
    if len(data) > limit:
        raise refused(reply.url, f"is longer than the {limit} bytes allowed there", reply.endpoint)
    if expected is not None and len(data) < expected:
        raise PassingTrouble(f"{reply.endpoint.shown(host_of(reply.url))}: the connection was cut")
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
        raise refused(reply.url, f"has the length {reply.endpoint.shown(text)!r}", reply.endpoint)
    return int(text)


def next_page(reply: Reply) -> str | None:
    """The address in ``Link: <…>; rel="next"``, which must be of the same origin."""
    for link in reply.headers.get("Link", "").split(","):
        address, _, relation = link.strip().partition(">")
        if address.startswith("<") and 'rel="next"' in relation:
            target = address_in(reply, address[1:], "goes on at")
            if origin_of(target) != origin_of(reply.url):
                raise refused_target(reply, target, "goes on at")
            return target
    return None


def address_in(reply: Reply, given: str, verb: str) -> str:
    """The whole address that one in a header means.

    Args:
        reply: Whose header.
        given: As the header has it, relative or not.
        verb: What the reply does with it, for the message.

    Raises:
        ReplyRefused: It is none that can be asked. What it says instead is not shown: it may hold a password.
    """
    target = ""
    with suppress(ValueError):
        target = urldefrag(urljoin(reply.url, given)).url
    # The parser drops blanks and line ends, so the given text is looked at as well.
    if not given or any(not "!" <= character <= "~" for character in given) or not is_address(target):
        raise refused(reply.url, f"{verb} what is no address", reply.endpoint)
    return target


def refused_target(reply: Reply, target: str, verb: str) -> ReplyRefused:
    """The error for a reply that leads where nothing is fetched from."""
    host = reply.endpoint.shown(host_of(target))
    return refused(reply.url, f"{verb} {host}, where nothing is fetched from", reply.endpoint)


def asked_wait_s(headers: Message) -> float | None:
    """Seconds the server asks to be left alone, or until the moment it names; None if it says neither."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 7:
        return float(text)
    moment = _moment(text)
    if moment is None:
        return None
    # By its own clock, where it shows that: those of devices are often wrong.
    now = _moment(headers.get("Date", "")) or datetime.now(UTC)
    return max(0.0, (moment - now).total_seconds())


def host_of(url: str) -> str:
    """Host and port of an address."""
    return urlsplit(url).netloc


def _moment(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    # Of a text that is no date, the parser raises one or the other.
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
