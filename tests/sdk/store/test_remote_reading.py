"""A hub that cuts, stalls and lies: what is pulled from it goes on, or is refused, and nothing leaks."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from adapter_folders import write_adapter
from loopback_hub import Faults, LoopbackHub, Repo
from raw_server import write_certificate

from edgelora.errors import (
    AdapterNotFound,
    DigestMismatch,
    OfflineNotCached,
    ReplyRefused,
    StoreError,
    StoreUnreachable,
)
from edgelora.locations import home
from edgelora.store import add_store, http_reading, open_store, parse_reference
from edgelora.store.http_reading import Patience
from edgelora.store.hub_store import HubStore
from edgelora.transfer import list_published, pull, push

WEIGHTS = "adapter_model.safetensors"
SIZE = 2 * 4096 * 64


@pytest.fixture
def published(hub: LoopbackHub, tmp_path: Path) -> LoopbackHub:
    """With an adapter of half a megabyte, and nothing asked so far."""
    push(write_adapter(tmp_path / "adapter", rows=4096), "alice/decimals", to=hub.url)
    hub.log.clear()
    hub.sent_bytes = 0
    return hub


def ranges(hub: LoopbackHub) -> list[str]:
    return [each.headers.get("Range", "") for each in hub.asked("GET", WEIGHTS)]


def test_a_cut_connection_goes_on_at_the_byte_where_it_was_cut(published: LoopbackHub) -> None:
    published.faults = Faults(cut_after=200_000, only=WEIGHTS)
    pulled = pull("alice/decimals", published.url)
    assert ranges(published) == ["", "bytes=200000-", "bytes=400000-"]
    conditional = published.asked("GET", WEIGHTS)[1].headers["If-Range"]
    assert conditional.startswith('"') and len(conditional) == 66
    assert published.sent_bytes <= 1.01 * sum(path.stat().st_size for path in pulled.folder.iterdir()) + 4096


def test_a_pull_that_gave_up_goes_on_where_it_stopped_the_next_time(published: LoopbackHub) -> None:
    published.faults = Faults(cut_after=200_000, cuts_left=1, only=WEIGHTS)
    published.faults.on_cut = lambda: published.faults.statuses.extend([503] * 9)
    with pytest.raises(
        StoreUnreachable, match=r"does not answer: .* answers 503, 4 times in a row"
    ) as caught:
        pull("alice/decimals", published.url)
    assert "it goes on where it stopped" in caught.value.fix
    published.faults = Faults()
    pulled = pull("alice/decimals", published.url)
    assert ranges(published)[-1] == "bytes=200000-"
    assert pulled.fetched_bytes == (pulled.folder / WEIGHTS).stat().st_size - 200_000


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_that_is_busy_for_a_while_is_asked_again(published: LoopbackHub, status: int) -> None:
    published.faults = Faults(statuses=[status, status], only=WEIGHTS)
    pull("alice/decimals", published.url)
    assert len(ranges(published)) == 3


def test_waits_grow_and_what_a_server_asks_for_is_honoured_within_bounds() -> None:
    patience = Patience()
    waits = [patience.wait_s(failures, None) for failures in range(1, 8)]
    assert all(0.25 * 2**n <= wait <= 0.5 * 2**n for n, wait in enumerate(waits[:6]))
    assert waits[-1] <= 30
    assert patience.wait_s(1, 7.0) == 7.0
    assert patience.wait_s(1, 86_400.0) == 30.0


def test_the_wait_a_busy_server_asks_for_is_the_one_taken(
    published: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float | None] = []
    monkeypatch.setattr(Patience, "wait_s", lambda self, failures, wait_s: asked.append(wait_s) or 0.0)
    published.faults = Faults(statuses=[429, 503], retry_after="7", only=WEIGHTS)
    pull("alice/decimals", published.url)
    assert asked == [7.0, 7.0]


def test_a_server_without_ranges_is_read_from_the_start_and_the_beginning_skipped(
    published: LoopbackHub,
) -> None:
    published.faults = Faults(cut_after=300_000, cuts_left=1, ignores_ranges=True, only=WEIGHTS)
    pulled = pull("alice/decimals", published.url)
    assert ranges(published) == ["", "bytes=300000-"]
    assert pulled.fetched_bytes == sum(
        path.stat().st_size for path in pulled.folder.iterdir() if path.name != "edgelora.json"
    )


def test_a_file_that_changed_meanwhile_is_fetched_again_from_its_start(published: LoopbackHub) -> None:
    published.faults = Faults(cut_after=300_000, cuts_left=1, changes_etag=True, only=WEIGHTS)
    pull("alice/decimals", published.url)
    assert ranges(published) == ["", "bytes=300000-", ""]


@pytest.mark.parametrize(
    ("faults", "problem"),
    [
        (Faults(cut_after=300_000, range_shift=1), "has the range 'bytes 300001-"),
        (Faults(encoding="gzip"), "is encoded as 'gzip', which nobody asked for"),
        (Faults(statuses=[416]), "is answered with 416"),
    ],
)
def test_a_reply_that_breaks_the_protocol_is_refused(
    published: LoopbackHub, faults: Faults, problem: str
) -> None:
    faults.only = WEIGHTS
    published.faults = faults
    with pytest.raises(ReplyRefused, match=problem) as caught:
        pull("alice/decimals", published.url)
    assert caught.value.exit_code == 5 and "nothing of this reply was used" in caught.value.fix
    assert not (home() / "adapters/alice/decimals/1.0.0").exists()


def test_an_endless_body_is_read_to_the_listed_size_and_no_further(published: LoopbackHub) -> None:
    published.faults = Faults(endless=True, only=WEIGHTS)
    pulled = pull("alice/decimals", published.url)
    assert pulled.fetched_bytes < SIZE + 4096
    published.faults = Faults(endless=True, only="edgelora.json")
    with pytest.raises(ReplyRefused, match="is longer than the 1048576 bytes allowed there"):
        pull("alice/decimals", published.url)


def test_changed_bytes_are_refused_and_nothing_is_kept(published: LoopbackHub) -> None:
    published.faults = Faults(flips=WEIGHTS, only=WEIGHTS)
    with pytest.raises(DigestMismatch, match=WEIGHTS):
        pull("alice/decimals", published.url)
    assert os.listdir(home() / "adapters/alice/decimals") == []


def test_a_hub_that_would_send_another_manifest_the_second_time_is_asked_once(published: LoopbackHub) -> None:
    pull("alice/decimals", published.url)
    assert len(published.asked("GET", "edgelora.json")) == 1


def test_the_manifest_of_another_adapter_is_refused(published: LoopbackHub, tmp_path: Path) -> None:
    other = write_adapter(tmp_path / "other", name="bob/other")
    published.faults = Faults(manifests=[(other / "edgelora.json").read_bytes()])
    with pytest.raises(DigestMismatch, match="with the manifest of bob/other"):
        pull("alice/decimals", published.url)


def test_redirects_in_a_circle_end(published: LoopbackHub) -> None:
    published.faults = Faults(redirect_to=published.url, only=WEIGHTS)
    with pytest.raises(ReplyRefused, match="is one redirect too many"):
        pull("alice/decimals", published.url)


def test_a_redirect_to_another_origin_is_followed_without_the_token(
    published: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEET_TOKEN", "fleet-secret")
    add_store("fleet", published.url, token_variable="FLEET_TOKEN")
    with LoopbackHub() as other:
        other.repos, other.blobs = published.repos, published.blobs
        published.faults = Faults(redirect_to=other.url, only=WEIGHTS)
        pull("fleet:alice/decimals")
        assert [each.headers.get("Authorization") for each in other.log] == [None]
    sent = {each.headers.get("Authorization") for each in published.log}
    assert sent == {"Bearer fleet-secret"}


@pytest.mark.parametrize(
    "target", ["http://elsewhere.example", "ftp://127.0.0.1", "file:///etc", "http://127.0.0.1:port"]
)
def test_a_redirect_to_where_nothing_is_fetched_from_is_refused(published: LoopbackHub, target: str) -> None:
    published.faults = Faults(redirect_to=target, only=WEIGHTS)
    with pytest.raises(ReplyRefused, match="redirects to"):
        pull("alice/decimals", published.url)


def test_the_users_hub_token_goes_to_no_other_endpoint(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    push(write_adapter(tmp_path / "adapter", rows=4096), "alice/decimals", to=hub.url)
    assert hub.asked("PUT") and hub.asked("POST", "lfs-verify")
    pull("alice/decimals", hub.url)
    assert not any("hf_secret" in str(each) for each in hub.log)
    assert not any("Authorization" in each.headers for each in hub.log if each.method == "GET")


def test_a_token_that_is_not_set_or_would_be_readable_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    add_store("fleet", "https://mirror.example", token_variable="FLEET_TOKEN")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    with pytest.raises(StoreError, match="needs the token in FLEET_TOKEN, which is not set"):
        open_store("fleet")
    with pytest.raises(StoreError, match="not encrypted, so no token is sent"):
        add_store("plain", "http://mirror.example", token_variable="FLEET_TOKEN")
    with pytest.raises(StoreError, match="not the name of an environment variable") as caught:
        add_store("typo", "https://mirror.example", token_variable="hf_abcDEF")
    assert "never the token itself" in caught.value.fix
    with pytest.raises(StoreError, match="takes no token of its own"):
        add_store("disk", "/srv/mirror", token_variable="FLEET_TOKEN")


def test_plain_http_is_for_loopback_and_for_what_the_user_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    with pytest.raises(StoreError, match="not encrypted") as caught:
        open_store("http://mirror.example")
    assert caught.value.fix.endswith("edgelora stores add NAME http://mirror.example")
    add_store("plain", "http://mirror.example")
    assert open_store("plain").address == "http://mirror.example"
    assert open_store("http://[::1]:8080").address == "http://[::1]:8080"
    for address in ("http://127.0.0.1.example", "http://localhost.example", "http://1270.0.0.1"):
        with pytest.raises(StoreError, match="not encrypted"):
            open_store(address)
    with pytest.raises(StoreError, match="not the address"):
        open_store("https://mirror.example:port")


def test_a_next_page_elsewhere_is_refused(published: LoopbackHub) -> None:
    for number in range(60):
        repo = published.repos.setdefault(f"carol/empty-{number}", Repo(private=False))
        repo.commit("main", {"README.md": b"edgelora"}, "a card")
    address, published.url = published.url, "http://127.0.0.1:9"
    with pytest.raises(ReplyRefused, match=r"goes on at 127\.0\.0\.1:9"):
        list_published(address)


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "EDGELORA_OFFLINE"])
def test_offline_opens_no_socket(
    published: LoopbackHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    online = open_store(published.url)
    monkeypatch.setenv(variable, "1")
    opened: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: opened.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **options: opened.append(given))
    for store in (published.url, "hf://", "https://mirror.example"):
        for attempt in (
            lambda store=store: pull("alice/decimals", store),
            lambda store=store: list_published(store),
            lambda store=store: push(tmp_path / "adapter", "alice/decimals", to=store),
        ):
            with pytest.raises(OfflineNotCached, match="told to stay offline"):
                attempt()
    with pytest.raises(OfflineNotCached):
        online.resolve(parse_reference("alice/decimals"))
    assert opened == []


def test_only_the_endpoint_is_contacted(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts: list[object] = []
    connect = socket.socket.connect

    def count(self: socket.socket, address: tuple[str, int]) -> None:
        hosts.append(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", count)
    push(write_adapter(tmp_path / "adapter", rows=4096), "alice/decimals", to=hub.url)
    pull("alice/decimals", hub.url)
    assert {f"http://{host}:{port}" for host, port in hosts} == {hub.url}


def test_a_server_that_is_not_there_is_told_as_such(hub: LoopbackHub) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StoreUnreachable, match="Connection refused, 4 times in a row") as caught:
            pull("alice/decimals", address)
    assert caught.value.exit_code == 9
    with pytest.raises(AdapterNotFound, match="holds no adapter alice/decimals"):
        pull("alice/decimals", hub.url)


@pytest.fixture
def keyboard() -> Iterator[None]:
    """SIGINT interrupts, also where whoever started the tests has it ignored, as background jobs have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_keyboard_stops_a_pull_though_the_server_stalls(
    published: LoopbackHub, monkeypatch: pytest.MonkeyPatch, keyboard: None
) -> None:
    monkeypatch.setattr(http_reading, "PATIENCE", Patience(timeout_s=60.0))
    goes_on = threading.Event()

    def stall() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        goes_on.wait(60)

    published.faults = Faults(cut_after=200_000, stalls=stall, only=WEIGHTS)
    start_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pull("alice/decimals", published.url)
    goes_on.set()
    assert time.monotonic() - start_s < 30
    published.faults = Faults()
    assert pull("alice/decimals", published.url).folder.is_dir()


def test_a_server_that_stalls_is_left_after_a_while(
    monkeypatch: pytest.MonkeyPatch, hub: LoopbackHub
) -> None:
    monkeypatch.setattr(http_reading, "PATIENCE", Patience(0.05, 2, 0.0, 0.0))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(StoreUnreachable, match="timed out"):
            pull("alice/decimals", f"http://127.0.0.1:{silent.getsockname()[1]}")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return write_certificate(tmp_path / "certificate.pem")


def test_certificates_are_checked_and_a_companys_own_can_be_trusted(
    hub: LoopbackHub, tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import close_session

    with LoopbackHub(certificate=certificate) as encrypted:
        with pytest.raises(StoreUnreachable, match=r"certificate nobody here trusts: self.signed") as caught:
            pull("alice/decimals", encrypted.url)
        assert "SSL_CERT_FILE" in caught.value.fix and encrypted.log == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        close_session()
        push(write_adapter(tmp_path / "adapter"), "alice/decimals", to=encrypted.url)
        assert pull("alice/decimals", encrypted.url).fetched_bytes > 0
    close_session()


@pytest.mark.parametrize(
    ("address", "token"),
    [
        ("hf://", "hf_secret"),
        ("https://huggingface.co", "hf_secret"),
        ("https://huggingface.co:443", "hf_secret"),
        ("https://huggingface.co:8443", None),
        ("https://huggingface.co.example", None),
        ("https://example/huggingface.co", None),
    ],
)
def test_the_hub_is_known_by_its_origin(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, address: str, token: str | None
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    store = open_store(address)
    assert isinstance(store, HubStore) and store.endpoint.token == token


def test_the_hub_token_is_where_its_client_keeps_it_and_stays_there_if_asked(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    (tmp_path / "token").write_text("hf_saved\n")
    store = open_store("hf://")
    assert isinstance(store, HubStore) and store.endpoint.token == "hf_saved"
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    store = open_store("hf://")
    assert isinstance(store, HubStore) and store.endpoint.token is None
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example")
    add_store("hub", "hf://")
    with pytest.raises(StoreError, match="not encrypted"):
        open_store("hub")
