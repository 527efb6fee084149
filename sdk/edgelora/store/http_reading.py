"""Reading from one endpoint over HTTP: redirects, retries, limits, and where a token may go.

The standard library's client is used, not the Hub client's session: that one has no time limits, follows
redirects by itself, and takes 0.4 s to import on a fast machine, which a pull on a device need not pay.
Proxies and certificates follow the usual variables: HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE, SSL_CERT_DIR.
"""

from __future__ import annotations

import json
import random
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin

from edgelora.errors import OfflineNotCached, StoreError, StoreUnreachable
from edgelora.store.endpoint import Endpoint, is_loopback, is_offline, origin_of
from edgelora.store.http_reply import (
    NotThere,
    PassingTrouble,
    Reply,
    asked_wait_s,
    body_of,
    closer_of,
    host_of,
    next_page,
    printable,
    reader_of,
    refused,
)
from edgelora.version import __version__

MAX_DOCUMENT_BYTES = 16 * 2**20

_MAX_REDIRECTS = 5
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for an answer, and how often to ask again."""

    timeout_s: float = 30.0
    """For a connection, and for each next byte."""
    attempts: int = 6
    """In a row without a byte of progress."""
    first_wait_s: float = 0.5
    """Doubled at each attempt, then shortened at random by up to half."""
    longest_wait_s: float = 30.0

    def wait_s(self, failures: int, asked_s: float | None) -> float:
        """Seconds before the next attempt; ``asked_s`` is what the server asked for."""
        wanted = self.first_wait_s * 2 ** (failures - 1) if asked_s is None else asked_s
        return min(wanted, self.longest_wait_s) * (random.uniform(0.5, 1.0) if asked_s is None else 1.0)


PATIENCE = Patience()


class HttpReader:
    """Reads from one endpoint. Threads may share it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
        ):
            self._opener.add_handler(handler)

    def document(self, path: str) -> tuple[Any, str | None]:
        """A JSON document and the address of the next page, if there is one.

        Args:
            path: Below the endpoint, quoted; or an address this method returned.

        Raises:
            NotThere: The endpoint holds no such thing.
            EdgeloraError: As `open`; or it is not a JSON document.
        """

        def fetch() -> tuple[Any, str | None]:
            reply = self.open(path, stays=True)
            try:
                data = body_of(reply, MAX_DOCUMENT_BYTES)
            finally:
                reply.close()
            try:
                return json.loads(data), next_page(reply)
            except (ValueError, RecursionError) as error:
                raise refused(reply.url, "is not a JSON document") from error

        return self.patiently(fetch)

    def read(self, path: str, limit: int) -> tuple[bytes, Message]:
        """A short file and the headers it came with.

        Raises:
            NotThere: The endpoint holds no such thing.
            EdgeloraError: As `open`; or it is longer than ``limit`` bytes.
        """

        def fetch() -> tuple[bytes, Message]:
            reply = self.open(path)
            try:
                return body_of(reply, limit), reply.headers
            finally:
                reply.close()

        return self.patiently(fetch)

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
        url = urljoin(f"{self.endpoint.url}/", path)
        for _ in range(_MAX_REDIRECTS):
            reply = self._ask(url, headers or {})
            if reply.status not in (301, 302, 303, 307, 308):
                encoding = reply.headers.get("Content-Encoding", "identity").lower()
                if encoding != "identity":
                    reply.close()
                    raise refused(url, f"is encoded as {encoding[:40]!r}, which nobody asked for")
                return reply
            reply.close()
            url = self._redirected(url, reply.headers.get("Location", ""), stays=stays)
        raise refused(url, "is one redirect too many")

    def _ask(self, url: str, headers: Mapping[str, str]) -> Reply:
        if is_offline():
            raise OfflineNotCached(
                f"{self.endpoint.address} is on a network, and edgelora is told to stay offline",
                fix="leave --offline out, or unset HF_HUB_OFFLINE and EDGELORA_OFFLINE",
            )
        sent = {"User-Agent": f"edgelora/{__version__}", "Accept-Encoding": "identity", **headers}
        if self.endpoint.token and origin_of(url) == origin_of(self.endpoint.url):
            sent["Authorization"] = f"Bearer {self.endpoint.token}"
        try:
            response = self._opener.open(
                urllib.request.Request(url, headers=sent), timeout=PATIENCE.timeout_s
            )
        except HTTPError as error:
            response = error
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise StoreUnreachable(
                    f"{self.endpoint.address} shows a certificate nobody here trusts: "
                    f"{reason.verify_message}",
                    fix="check the address and the clock; a company's own certificates go into SSL_CERT_FILE",
                ) from error
            raise PassingTrouble(f"{host_of(url)}: {reason or type(reason).__name__}") from error
        reply = Reply(url, response.status, response.headers, reader_of(response, url), closer_of(response))
        if reply.status >= 400:
            reply.close()
            self._refuse(reply)
        return reply

    def _refuse(self, reply: Reply) -> None:
        """Raise what an error status means."""
        code = printable(reply.headers.get("X-Error-Code", ""))
        if self.endpoint.token and self.endpoint.token in code:
            code = "(it repeats the token)"
        if reply.status in _PASSING:
            raise PassingTrouble(
                f"{host_of(reply.url)} answers {reply.status}", wait_s=asked_wait_s(reply.headers)
            )
        if reply.status in (404, 410) or (reply.status == 401 and code == "RepoNotFound"):
            raise NotThere(code)
        if reply.status in (401, 403):
            raise StoreError(
                f"{self.endpoint.address} denies access ({reply.status}{f', {code}' if code else ''})",
                fix="for hf:// log in: hf auth login; for another store, name the variable that holds its "
                "token: edgelora stores add NAME ADDRESS --token-env VARIABLE",
            )
        raise refused(reply.url, f"is answered with {reply.status} {code}".rstrip())

    def _redirected(self, url: str, location: str, *, stays: bool) -> str:
        try:
            target = urljoin(url, location)
            here, there = origin_of(url), origin_of(target)
        except ValueError as error:
            raise refused(url, "redirects to what is no address") from error
        is_safe = there[0] == "https" or (is_loopback(target) and is_loopback(self.endpoint.url))
        if here != there and (stays or not is_safe or there[0] not in ("http", "https")):
            raise refused(url, f"redirects to {host_of(target)}, where nothing is fetched from")
        return target
