"""Reading from one endpoint over HTTP: redirects, retries, limits, and where a token may go.

The standard library's client is used, not the Hub client's session: that one has no time limits, follows
redirects by itself, and takes 0.4 s to import on a fast machine, which a pull on a device need not pay.
"""

from __future__ import annotations

import json
import random
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, InvalidURL
from typing import Any, TypeVar
from urllib.error import URLError
from urllib.parse import urljoin

from edgelora.errors import OfflineNotCached, StoreError, StoreUnreachable
from edgelora.store.endpoint import (
    Endpoint,
    is_encrypted,
    is_loopback,
    is_offline,
    is_public,
    names_inside,
    origin_of,
)
from edgelora.store.http_connections import Connections, LeadsInside, is_through_proxy
from edgelora.store.http_reply import (
    NotThere,
    PassingTrouble,
    Reply,
    address_in,
    asked_wait_s,
    body_of,
    closer_of,
    host_of,
    next_page,
    passing_trouble,
    reader_of,
    refused,
    refused_target,
)
from edgelora.version import __version__

MAX_DOCUMENT_BYTES = 8 * 2**20
MAX_DOCUMENT_VALUES = 500_000
"""Small values take many times their bytes in memory."""

_MAX_REDIRECTS = 5
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for an answer, and how often to ask again."""

    timeout_s: float = 30.0
    """For a connection, for the head of a reply, and for each piece of its body."""
    attempts: int = 6
    """In a row without a byte of progress."""
    first_wait_s: float = 0.5
    """Doubled at each attempt, then shortened at random by up to half."""
    longest_wait_s: float = 30.0
    document_s: float = 300.0
    """For a document or a short file, and for all pages of a list together."""
    window_s: float = 300.0
    """In so much time, a file that is fetched must bring ``window_bytes``."""
    window_bytes: int = 2**16

    def wait_s(self, failures: int, asked_s: float | None) -> float:
        """Seconds before the next attempt; ``asked_s`` is what the server asked for."""
        wanted = self.first_wait_s * 2 ** (failures - 1) if asked_s is None else asked_s
        return min(wanted, self.longest_wait_s) * (random.uniform(0.5, 1.0) if asked_s is None else 1.0)


PATIENCE = Patience()


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON document, as it came."""

    value: Any
    size_bytes: int
    next_page: str | None
    """The address of the next page, if there is one."""


class HttpReader:
    """Reads from one endpoint. Threads may share it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._connections = Connections()

    @property
    def patience(self) -> Patience:
        """How long it waits."""
        return PATIENCE

    def document(self, path: str, *, time_s: float | None = None) -> Document:
        """A JSON document.

        Args:
            path: Below the endpoint, quoted; or the address of a next page.
            time_s: What is left for it; by default what a document has.

        Raises:
            NotThere: The endpoint holds no such thing.
            StoreUnreachable: It does not come, or not in time.
            EdgeloraError: As `open`; or it is not a JSON document, or holds too much.
        """

        def fetch(left_s: float) -> Document:
            reply = self.open(path, stays=True)
            try:
                data = body_of(reply, MAX_DOCUMENT_BYTES, time_s=left_s)
            finally:
                reply.close()
            if sum(data.count(mark) for mark in (b",", b"[", b"{")) > MAX_DOCUMENT_VALUES:
                problem = f"holds more than the {MAX_DOCUMENT_VALUES} values allowed there"
                raise refused(reply.url, problem, self.endpoint)
            try:
                return Document(json.loads(data), len(data), next_page(reply))
            except (ValueError, RecursionError) as error:
                raise refused(reply.url, "is not a JSON document", self.endpoint) from error

        return self._in_time(fetch, time_s)

    def read(self, path: str, limit: int) -> tuple[bytes, Message]:
        """A short file and the headers it came with.

        Raises:
            NotThere: The endpoint holds no such thing.
            StoreUnreachable: It does not come, or not in time.
            EdgeloraError: As `open`; or it is longer than ``limit`` bytes.
        """

        def fetch(left_s: float) -> tuple[bytes, Message]:
            reply = self.open(path)
            try:
                return body_of(reply, limit, time_s=left_s), reply.headers
            finally:
                reply.close()

        return self._in_time(fetch, None)

    def _in_time(self, fetch: Callable[[float], Result], time_s: float | None) -> Result:
        end_s = time.monotonic() + (PATIENCE.document_s if time_s is None else time_s)
        return self.patiently(lambda: fetch(end_s - time.monotonic()))

    def patiently(self, fetch: Callable[[], Result]) -> Result:
        """What ``fetch`` returns, tried again while its trouble may pass.

        Raises:
            StoreUnreachable: It did not pass.
        """
        failures = 0
        while True:
            try:
                return fetch()
            except PassingTrouble as trouble:
                failures += 1
                self.wait(trouble, failures)

    def wait(
        self, trouble: PassingTrouble, failures: int, *, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        """Sleep before the next attempt.

        Raises:
            StoreUnreachable: There were enough.
        """
        if failures >= PATIENCE.attempts:
            raise StoreUnreachable(
                f"{self.endpoint.address} does not answer: {trouble}, {failures} times in a row",
                fix="check the network and the address, then repeat the command: it goes on where it stopped",
            ) from trouble
        sleep(PATIENCE.wait_s(failures, trouble.wait_s))

    def open(self, path: str, headers: Mapping[str, str] | None = None, *, stays: bool = False) -> Reply:
        """Ask once, following redirects.

        Args:
            path: Below the endpoint, quoted; or a whole address.
            headers: Besides those every request has.
            stays: Follow no redirect to another origin.

        Raises:
            PassingTrouble: It may work at the next attempt.
            NotThere: The endpoint holds no such thing.
            OfflineNotCached: The network is forbidden.
            StoreError: Access is denied, or the request is refused.
            ReplyRefused: The reply breaks the protocol, or leads where nothing is fetched from.
        """
        url, only_public = urljoin(f"{self.endpoint.url}/", path), False
        for _ in range(_MAX_REDIRECTS):
            reply = self._ask(url, headers or {}, only_public=only_public)
            if reply.status not in (301, 302, 303, 307, 308):
                encoding = reply.headers.get("Content-Encoding", "identity")
                if encoding.lower() != "identity":
                    reply.close()
                    problem = f"is encoded as {self.endpoint.shown(encoding)!r}, which nobody asked for"
                    raise refused(url, problem, self.endpoint)
                return reply
            reply.close()
            url, only_public = self._redirected(reply, stays=stays), reply.is_public
        raise refused(url, "is one redirect too many", self.endpoint)

    def _ask(self, url: str, headers: Mapping[str, str], *, only_public: bool) -> Reply:
        if is_offline():
            raise OfflineNotCached(
                f"{self.endpoint.address} is on a network, and edgelora is told to stay offline",
                fix="leave --offline out, or unset HF_HUB_OFFLINE and EDGELORA_OFFLINE",
            )
        sent = {"User-Agent": f"edgelora/{__version__}", "Accept-Encoding": "identity", **headers}
        if self.endpoint.token and origin_of(url) == origin_of(self.endpoint.url) and is_encrypted(url):
            sent["Authorization"] = f"Bearer {self.endpoint.token}"
        try:
            response = self._connections.get(url, sent, timeout_s=PATIENCE.timeout_s, only_public=only_public)
        # Before the general one: its text is the address, with a query that may be signed.
        except (InvalidURL, UnicodeError):
            raise refused(url, "is at an address that cannot be asked", self.endpoint) from None
        except (OSError, HTTPException) as error:
            raise self._unanswered(url, error) from error
        reply = Reply(
            endpoint=self.endpoint,
            url=url,
            is_public=not names_inside(url) if is_through_proxy(url) else is_public(response.peer),
            status=response.status,
            headers=response.headers,
            read1=reader_of(response, self.endpoint, url),
            close=closer_of(response),
        )
        if reply.status not in (200, 206, 301, 302, 303, 307, 308):
            reply.close()
            self._refuse(reply)
        return reply

    def _unanswered(self, url: str, error: Exception) -> Exception:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, LeadsInside):
            problem = "would come from a private network, where a public address led"
            return refused(url, problem, self.endpoint)
        if isinstance(reason, ssl.SSLCertVerificationError):
            return StoreUnreachable(
                f"{self.endpoint.address} shows a certificate nobody here trusts: "
                f"{self.endpoint.shown(reason.verify_message)}",
                fix="check the address and the clock; a company's own certificates go into SSL_CERT_FILE",
            )
        return passing_trouble(reason if isinstance(reason, BaseException) else error, self.endpoint, url)

    def _refuse(self, reply: Reply) -> None:
        """Raise what a status means that is neither success nor redirect."""
        code = self.endpoint.shown(reply.headers.get("X-Error-Code", ""))
        if reply.status in _PASSING:
            raise PassingTrouble(
                f"{self.endpoint.shown(host_of(reply.url))} answers {reply.status}",
                wait_s=asked_wait_s(reply.headers),
            )
        if reply.status in (404, 410) or (reply.status == 401 and code == "RepoNotFound"):
            raise NotThere(code)
        if reply.status in (401, 403):
            raise StoreError(
                f"{self.endpoint.address} denies access ({reply.status}{f', {code}' if code else ''})",
                fix="for the Hub log in: hf auth login; for another store, also for one in HF_ENDPOINT, name "
                f"the variable that holds its token: edgelora stores add NAME {self.endpoint.url} "
                "--token-env VARIABLE",
            )
        raise refused(reply.url, f"is answered with {reply.status} {code}".rstrip(), self.endpoint)

    def _redirected(self, reply: Reply, *, stays: bool) -> str:
        target = address_in(reply, reply.headers.get("Location", ""), "redirects to")
        here, there = origin_of(reply.url), origin_of(target)
        is_safe = there[0] == "https" or (
            here[0] == "http" and is_loopback(reply.url) and is_loopback(target)
        )
        leads_inside = reply.is_public and names_inside(target)
        if here != there and (stays or not is_safe or leads_inside):
            raise refused_target(reply, target, "redirects to")
        return target
