"""Where a remote store is, and what may be sent there: an address, an endpoint, perhaps a token."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from edgelora.errors import StoreError

HUB = "hf://"
HUB_ENDPOINT = "https://huggingface.co"

_TRUE = ("1", "on", "yes", "true")
_PORTS = {"http": 80, "https": 443}
_LOOPBACK = ("localhost", "::1")
_HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
_QUOTED = re.compile(r"[!-\[\]-~]+")
_MAX_ADDRESS = 8192
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint that speaks the Hub's protocol."""

    address: str
    """As references and messages name the store: ``hf://`` or the endpoint itself."""
    url: str
    """``https://host[:port]``, without a slash at its end."""
    token: str | None = field(default=None, repr=False)
    """Sent to this origin and no other."""

    def shown(self, text: str) -> str:
        """Foreign text, to be shown in one line, short, and without the token, which it may repeat."""
        if self.token:
            text = re.sub(re.escape(self.token), "(the token)", text, flags=re.IGNORECASE)
        return printable(text)[:_SHOWN]


def printable(text: str) -> str:
    """Text in one line, without what a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)


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


def is_official(url: str) -> bool:
    """Whether the user's Hub token belongs there: it is the Hub, and nothing that is put in its place."""
    return origin_of(url) == origin_of(HUB_ENDPOINT)


def check_endpoint(address: str, *, is_configured: bool) -> str:
    """The endpoint of an address that may be used.

    Args:
        address: ``hf://``, ``https://…`` or ``http://…``.
        is_configured: The user added a store with exactly this address.

    Raises:
        StoreError: It is unencrypted, not on this machine, and was never named by the user.
    """
    url = endpoint_url(address)
    if not is_address(url) or "?" in url or "#" in url:
        raise StoreError(
            f"{url!r} is not the address of an endpoint",
            fix="write https://host or https://host:port, without a password in it",
        )
    # What is configured as hf:// says nothing of the endpoint that HF_ENDPOINT puts in its place.
    is_accepted = is_configured and address != HUB
    if not (is_accepted or is_encrypted(url)):
        raise StoreError(
            f"{url} is not encrypted: whoever is on the way can read and change what is sent",
            fix=f"use https, or accept it for this store: edgelora stores add NAME {url}",
        )
    return url


def is_address(text: str) -> bool:
    """Whether it can be asked: http or https, a host and a port there can be, no password, all quoted."""
    if len(text) > _MAX_ADDRESS or not _QUOTED.fullmatch(text):
        return False
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        is_host = isinstance(ip_address(host), IPv6Address) if ":" in host else bool(_HOST.fullmatch(host))
    except ValueError:
        return False
    return parts.scheme in _PORTS and is_host and len(host) <= 253 and port != 0 and "@" not in parts.netloc


def is_encrypted(url: str) -> bool:
    """Whether nobody on the way can read what is sent: https, or it never leaves this machine."""
    return urlsplit(url).scheme == "https" or is_loopback(url)


def is_loopback(url: str) -> bool:
    """Whether the address is this machine."""
    host = urlsplit(url).hostname or ""
    return host in _LOOPBACK or (host.startswith("127.") and host.replace(".", "").isdigit())


def is_public(host: str) -> bool:
    """Whether anybody may reach a numeric address: it is neither this machine's nor a private network's.

    Raises:
        ValueError: It is a name.
    """
    address = ip_address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_global and not address.is_multicast


def names_inside(url: str) -> bool:
    """Whether the address itself says that it is this machine's or a private network's."""
    host = urlsplit(url).hostname or ""
    try:
        return not is_public(host)
    except ValueError:
        return is_loopback(url) or host.rstrip(".").endswith("localhost")


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what must be equal for a token to be sent.

    Raises:
        ValueError: The port is not a number.
    """
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme, 0)
