"""Where a token may go, and where it must not be read: not by proxies, other endpoints, or in messages."""

from __future__ import annotations

from pathlib import Path

import pytest
from adapter_folders import write_adapter
from loopback_hub import LoopbackHub
from raw_server import Answer, RawServer, proxy_to, reply, write_certificate

from edgelora.errors import EdgeloraError, StoreError
from edgelora.store import add_store
from edgelora.store.endpoint import Endpoint
from edgelora.store.http_reading import HttpReader
from edgelora.store.remote_file import RemoteFile
from edgelora.transfer import list_published, pull, push

TOKEN = "tok_SECRET_123"
LONG = "eyJ" + "aB3." * 100


@pytest.fixture
def fleet(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoopbackHub:
    """A hub with an adapter, added as a store with a token."""
    push(write_adapter(tmp_path / "adapter"), "alice/decimals", to=hub.url)
    monkeypatch.setenv("FLEET_TOKEN", TOKEN)
    add_store("fleet", hub.url, token_variable="FLEET_TOKEN")
    hub.log.clear()
    return hub


def sent(hub: LoopbackHub) -> set[str | None]:
    return {
        each.headers.get("Authorization", each.headers.get("authorization"))
        for each in hub.log
        if "/lfs" not in each.path
    }


def use_proxy(monkeypatch: pytest.MonkeyPatch, proxy: RawServer) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_no_proxy_sees_what_is_asked_of_this_machine(
    fleet: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(reply()) as proxy:
        use_proxy(monkeypatch, proxy)
        assert pull("fleet:alice/decimals").manifest.identity.version == "1.0.0"
    assert sent(fleet) == {f"Bearer {TOKEN}"} and proxy.heads == []


def test_no_proxy_sees_what_is_pushed_to_this_machine(
    fleet: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import close_session

    newer = write_adapter(tmp_path / "newer", version="1.1.0", seed=2)
    with RawServer(reply()) as proxy:
        use_proxy(monkeypatch, proxy)
        close_session()
        with pytest.raises(StoreError, match="would go to a proxy") as caught:
            push(newer, "fleet:alice/decimals")
        assert caught.value.fix.endswith("export NO_PROXY=localhost,127.0.0.1,::1")
        monkeypatch.setenv("no_proxy", "localhost,127.0.0.1,::1")
        push(newer, "fleet:alice/decimals")
    close_session()
    assert proxy.heads == [] and sent(fleet) == {f"Bearer {TOKEN}"}


def test_another_endpoint_is_asked_through_the_proxy_and_no_token_is_readable_there(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = write_certificate(tmp_path / "certificate.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with LoopbackHub(certificate=certificate) as mirror:
        port = int(mirror.url.rpartition(":")[2])
        with RawServer(proxy_to(port)) as proxy:
            use_proxy(monkeypatch, proxy)
            assert (
                HttpReader(Endpoint("https://mirror.example", "https://mirror.example", TOKEN))
                .document("api/models")
                .value
                == []
            )
        assert sent(mirror) == {f"Bearer {TOKEN}"}
        assert [head.split("\r\n")[0] for head in proxy.heads] == ["CONNECT mirror.example:443 HTTP/1.0"]
        assert TOKEN not in str(proxy.heads)
    with RawServer(reply(body=b"[]")) as proxy:
        use_proxy(monkeypatch, proxy)
        reader = HttpReader(Endpoint("http://mirror.example", "http://mirror.example", TOKEN))
        assert reader.document("api/models").value == []
        assert proxy.heads and TOKEN not in str(proxy.heads)


def test_the_hubs_token_does_not_go_to_what_hf_endpoint_puts_in_its_place(
    fleet: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with LoopbackHub() as other:
        other.repos, other.blobs = fleet.repos, fleet.blobs
        monkeypatch.setenv("HF_ENDPOINT", other.url)
        assert pull("hf://alice/decimals").reference == "hf://alice/decimals@1.0.0"
        push(write_adapter(tmp_path / "newer", version="1.1.0", seed=2), "hf://alice/decimals")
        assert "hf_secret" not in str(other.log) and TOKEN not in str(other.log)


def test_what_hf_endpoint_names_gets_the_token_that_is_named_for_it(
    fleet: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", fleet.url)
    pull("hf://alice/decimals")
    list_published("hf://")
    assert sent(fleet) == {f"Bearer {TOKEN}"}


REPEATING: dict[str, Answer] = {
    "Content-Encoding": reply(f"Content-Encoding: {TOKEN}"),
    "Content-Encoding, lower case": reply(f"Content-Encoding: {TOKEN.lower()}"),
    "Content-Length": reply(f"Content-Length: {TOKEN}"),
    "Content-Range": reply(f"Content-Range: bytes 0-1/{TOKEN}", status="206 Partial Content"),
    "X-Error-Code": reply(f"X-Error-Code: x{TOKEN}x", status="403 Forbidden"),
    "X-Error-Code, refused": reply(f"X-Error-Code: {TOKEN.upper()}", status="418 Teapot"),
    "X-Error-Code, not there": reply(f"X-Error-Code: {TOKEN}", status="404 Not Found"),
    "redirect to a host": reply(f"Location: http://{TOKEN}.example/", status="302 Found"),
    "redirect to a path": lambda connection, head: (
        reply(f"Location: /{TOKEN}", status="302 Found")(connection, head)
        if TOKEN not in head.split("\r\n")[0]
        else reply(status="418 Teapot")(connection, head)
    ),
    "no HTTP": lambda connection, _: connection.sendall(f"{TOKEN} {TOKEN}\r\n\r\n".encode()),
    "next page": reply(f'Link: <http://{TOKEN}.example/>; rel="next"', body=b"[]"),
}


@pytest.mark.parametrize("answer", REPEATING.values(), ids=REPEATING)
def test_a_token_is_in_no_message_wherever_the_server_repeats_it(hub: LoopbackHub, answer: Answer) -> None:
    with RawServer(answer) as server:
        reader = HttpReader(Endpoint(server.url, server.url, TOKEN))
        for read in (
            lambda: reader.document("a"),
            lambda: RemoteFile(reader, "a", size=10, offset=5).read(),
        ):
            try:
                read()
            except EdgeloraError as error:
                assert TOKEN.lower() not in f"{error} {error.fix} {reader.endpoint!r}".lower()
            except Exception as error:
                assert TOKEN.lower() not in str(error).lower()
        assert f"Bearer {TOKEN}" in str(server.heads)


@pytest.mark.parametrize("before", ["", "x" * 150])
def test_of_a_long_token_not_even_the_beginning_is_shown(hub: LoopbackHub, before: str) -> None:
    with RawServer(reply(f"X-Error-Code: {before}{LONG}", status="403 Forbidden")) as server:
        reader = HttpReader(Endpoint(server.url, server.url, LONG))
        with pytest.raises(StoreError, match=r"denies access \(403, x*\(the token\)\)") as caught:
            reader.read("a", 10)
    assert LONG[:8] not in str(caught.value)
