"""Where a remote store is, and what may be sent there: an address, an endpoint, perhaps a token."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from edgelora.errors import StoreError

HUB = "hf://"
HUB_ENDPOINT = "https://huggingface.co"

_TRUE = ("1", "on", "yes", "true")
_PORTS = {"http": 80, "https": 443}
_LOOPBACK = ("localhost", "::1")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint that speaks the Hub's protocol."""

    address: str
    """As references and messages name the store: ``hf://`` or the endpoint itself."""
    url: str
    """``https://host[:port]``, without a slash at its end."""
    token: str | None = field(default=None, repr=False)
    """Sent to this origin and no other."""


def is_offline() -> bool:
    """Whether the user forbade this process the network: ``--offline``, or the Hub's own variables."""
    return any(
        os.environ.get(name, "").lower() in _TRUE
        for name in ("EDGELORA_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def endpoint_url(address: str) -> str:
    """The endpoint of a store's address; that of ``hf://`` may be moved by ``HF_ENDPOINT``."""
    url = (os.environ.get("HF_ENDPOINT") or HUB_ENDPOINT) if address == HUB else address
    return url.rstrip("/")


def is_official(address: str) -> bool:
    """Whether the user's Hub token belongs there: ``hf://``, or the Hub by its own address."""
    return address == HUB or origin_of(address) == origin_of(HUB_ENDPOINT)


def check_endpoint(address: str, *, is_configured: bool) -> str:
    """The endpoint of an address that may be used.

    Args:
        address: ``hf://``, ``https://…`` or ``http://…``.
        is_configured: The user added a store with exactly this address.

    Raises:
        StoreError: It is unencrypted, not on this machine, and was never named by the user.
    """
    url = endpoint_url(address)
    parts = urlsplit(url)
    if (
        parts.scheme not in _PORTS
        or not parts.hostname
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
    ):
        raise StoreError(
            f"{url!r} is not the address of an endpoint",
            fix="write https://host or https://host:port, without a password in it",
        )
    # What is configured as hf:// says nothing of the endpoint that HF_ENDPOINT puts in its place.
    is_accepted = is_configured and address != HUB
    if parts.scheme == "http" and not (is_accepted or is_loopback(url)):
        raise StoreError(
            f"{url} is not encrypted: whoever is on the way can read and change what is sent",
            fix=f"use https, or accept it for this store: edgelora stores add NAME {url}",
        )
    return url


def has_good_port(url: str) -> bool:
    """Whether the address names no port, or one there can be."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def is_encrypted(url: str) -> bool:
    """Whether nobody on the way can read what is sent: https, or it never leaves this machine."""
    return urlsplit(url).scheme == "https" or is_loopback(url)


def is_loopback(url: str) -> bool:
    """Whether the address is this machine."""
    host = urlsplit(url).hostname or ""
    return host in _LOOPBACK or (host.startswith("127.") and host.replace(".", "").isdigit())


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what must be equal for a token to be sent.

    Raises:
        ValueError: The port is not a number.
    """
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme, 0)
