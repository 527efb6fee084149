"""Replies that lead astray, never end, or say too much: each is refused by name, soon, and without a bug."""

from __future__ import annotations

import itertools
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub
from raw_server import Answer, RawServer, asked_path, proxy_to, reply, write_certificate

from edgelora.errors import AdapterNotFound, ReplyRefused, StoreError, StoreUnreachable
from edgelora.store import http_reading, open_store
from edgelora.store.endpoint import Endpoint, check_endpoint, is_public
from edgelora.store.http_reading import HttpReader, Patience
from edgelora.store.http_reply import Reply, asked_wait_s
from edgelora.store.hub_repository import HubRepository, pages
from edgelora.store.remote_file import RemoteFile
from edgelora.transfer import pull

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FOREIGN = [
    "",
    "/\xe9",
    "http://127.0.0.1:1/\xe9",
    "https://ex\xe9mple.org/x",
    "https://cdn.example/a b?X-Amz-Signature=SECRET",
    "https://cdn.example/a\tb?X-Amz-Signature=SECRET",
    "https://user:SECRET@127.0.0.1/x",
    "https://SECRET@cdn.example/x",
    "https://",
    "http://[::1",
    "http://[SECRET]/",
    "https://127.0.0.1:99999/SECRET",
    "https://127.0.0.1:0/",
    "https://127.0.0.1:port/",
    "file:///etc/passwd",
    "\x00",
    "https://a..b/x?SECRET",
    "https://" + "a" * 64 + ".example/",
    "https://" + "a." * 200 + "example/",
    "https://cdn.example\\@evil.example/",
    "https://cdn.example/" + "a" * 9000,
]


@pytest.fixture(autouse=True)
def online(hub: LoopbackHub) -> None:
    """This process may use the network, and never waits between attempts."""


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def be(**limits: float) -> None:
        given: dict[str, float] = {"timeout_s": 5.0, "first_wait_s": 0.0, "longest_wait_s": 0.0, **limits}
        monkeypatch.setattr(http_reading, "PATIENCE", Patience(attempts=2, **given))

    return be


def reader_of(server: RawServer) -> HttpReader:
    return HttpReader(Endpoint(server.url, server.url))


@pytest.mark.parametrize("location", FOREIGN, ids=lambda text: repr(text[:24]))
def test_a_redirect_to_what_is_no_address_is_refused_without_repeating_it(location: str) -> None:
    with RawServer(reply(f"Location: {location}", status="302 Found")) as server:
        with pytest.raises(ReplyRefused, match="redirects to what is no address") as caught:
            reader_of(server).read("x/resolve/y", 100)
        assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("link", FOREIGN[1:], ids=lambda text: repr(text[:24]))
def test_a_next_page_at_what_is_no_address_is_refused(link: str) -> None:
    with RawServer(reply(f'Link: <{link}>; rel="next"', body=b"[]")) as server:
        with pytest.raises(ReplyRefused, match="goes on at what is no address") as caught:
            list(pages(reader_of(server), "api/models"))
        assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("host", ["a..b", "a" * 64, "ex\xe9mple.org", "a b", "x@y", "[::1", "a\\b", "a:0"])
def test_an_endpoint_at_what_is_no_address_is_refused(host: str) -> None:
    with pytest.raises(StoreError, match="is not the address of a"):
        open_store(f"https://{host}")
    with pytest.raises(StoreError, match="is not the address of an endpoint"):
        check_endpoint(f"https://{host}", is_configured=True)


def redirected(url: str, target: str, *, is_public: bool) -> str:
    headers = Message()
    headers["Location"] = target
    endpoint = Endpoint(url, url)
    given = Reply(endpoint, url, is_public, 302, headers, lambda _: b"", lambda: None)
    return HttpReader(endpoint)._redirected(given, stays=False)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://mirror.example", "http://mirror.example/x"),
        ("https://mirror.example", "http://127.0.0.1/x"),
        ("https://127.0.0.1", "http://127.0.0.1/x"),
        ("http://127.0.0.1:1", "http://10.0.0.1/x"),
        ("http://mirror.example", "http://127.0.0.1/x"),
        ("http://mirror.example", "http://other.example/x"),
    ],
)
def test_https_leads_to_https_and_http_stays_on_loopback(url: str, target: str) -> None:
    with pytest.raises(ReplyRefused, match="where nothing is fetched from"):
        redirected(url, target, is_public=False)
    assert redirected(url, "https://cdn.example/x", is_public=False) == "https://cdn.example/x"


INSIDE = ["127.0.0.1", "localhost", "a.localhost", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.64.0.1"]
INSIDE += ["[::1]", "[fd00::1]", "[fe80::1]", "[::ffff:10.0.0.1]", "0.0.0.0"]


@pytest.mark.parametrize("host", INSIDE)
def test_a_public_address_leads_to_no_private_one(host: str) -> None:
    with pytest.raises(ReplyRefused, match="where nothing is fetched from"):
        redirected("https://mirror.example", f"https://{host}/x", is_public=True)
    assert redirected("https://10.0.0.7", f"https://{host}/x", is_public=False) == f"https://{host}/x"


def test_numeric_addresses_are_public_or_not() -> None:
    assert is_public("93.184.215.14") and is_public("2606:4700::1")
    assert not is_public("224.0.0.1") and not is_public("::ffff:127.0.0.1")


def test_a_public_endpoint_behind_a_proxy_leads_to_no_private_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = write_certificate(tmp_path / "certificate.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with (
        RawServer(reply(body=b"inside"), certificate=certificate) as inside,
        RawServer(
            reply(f"Location: {inside.url}/admin", status="302 Found"), certificate=certificate
        ) as mirror,
        RawServer(proxy_to(mirror.port)) as proxy,
    ):
        monkeypatch.setenv("https_proxy", proxy.url)
        reader = HttpReader(Endpoint("https://mirror.example", "https://mirror.example"))
        with pytest.raises(ReplyRefused, match=r"redirects to 127\.0\.0\.1:[0-9]+, where nothing is fetched"):
            reader.read("x", 100)
        assert len(mirror.heads) == 1 and inside.heads == []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_name_that_stands_for_a_private_address_is_left_before_a_word(host: str) -> None:
    with RawServer(reply(body=b"inside")) as inside:
        reader = reader_of(inside)
        url = f"http://{host}:{inside.port}/admin"
        with pytest.raises(ReplyRefused, match="would come from a private network"):
            reader._ask(url, {}, only_public=True)
        assert inside.heads == []
        reader._ask(url, {}, only_public=False).close()
        assert len(inside.heads) == 1


@pytest.mark.parametrize("status", ["103 Early Hints", "204 No Content", "226 IM Used", "304 Not Modified"])
def test_a_status_nobody_asked_for_is_refused(status: str) -> None:
    with RawServer(reply(status=status)) as server, pytest.raises(ReplyRefused, match="is answered with"):
        reader_of(server).read("x", 100)


def heads_without_end(first: bytes, piece: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: itertools.chain([first], itertools.repeat(piece))


NEVER_READY = {
    "a byte now and then": heads_without_end(b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "headers now and then": heads_without_end(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "ever continuing": heads_without_end(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize("pieces", NEVER_READY.values(), ids=NEVER_READY)
@pytest.mark.parametrize("every_s", [0.02, 0.0])
def test_a_head_that_never_ends_is_left_in_time(
    patience: Callable[..., None], pieces: Callable[[], Iterator[bytes]], every_s: float
) -> None:
    patience(timeout_s=0.3)
    server = RawServer(lambda connection, _: server.drip(connection, pieces(), every_s=every_s))
    start_s = time.monotonic()
    with server, pytest.raises(StoreUnreachable, match="does not answer"):
        reader_of(server).read("x", 100)
    assert time.monotonic() - start_s < 5


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
DRIPPING = {
    "a body": heads_without_end(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b" "),
    "chunks": heads_without_end(CHUNKED, b"1\r\n \r\n"),
    "the length of a chunk": heads_without_end(CHUNKED, b"0"),
    "trailers": heads_without_end(CHUNKED + b"0\r\n", b"X: y\r\n"),
}


@pytest.mark.parametrize("pieces", DRIPPING.values(), ids=DRIPPING)
def test_a_document_that_drips_is_left_in_time(
    patience: Callable[..., None], pieces: Callable[[], Iterator[bytes]]
) -> None:
    patience(timeout_s=0.4, document_s=0.4)
    server = RawServer(lambda connection, _: server.drip(connection, pieces()))
    start_s = time.monotonic()
    with server, pytest.raises(StoreUnreachable, match=r"is too slow: only \d+ bytes|timed out"):
        reader_of(server).document("x")
    assert time.monotonic() - start_s < 5


def test_pages_have_their_time_together(patience: Callable[..., None]) -> None:
    patience(document_s=0.3)
    page = b'HTTP/1.1 200 OK\r\nLink: </a>; rel="next"\r\nContent-Length: 2\r\n\r\n'
    server = RawServer(lambda connection, _: server.drip(connection, iter([page + b"[", b"]"]), every_s=0.1))
    with server, pytest.raises(StoreUnreachable, match="is too slow"):
        list(pages(reader_of(server), "a"))


def test_a_file_that_drips_is_left_and_what_came_is_kept(patience: Callable[..., None]) -> None:
    patience(window_s=1.0, window_bytes=1000)
    server = RawServer(lambda connection, _: server.drip(connection, DRIPPING["a body"]()))
    with server, RemoteFile(reader_of(server), "x", size=1_000_000) as file:
        came = b""
        with pytest.raises(StoreUnreachable, match="is too slow: only") as caught:
            while True:
                came += file.read(100)
    assert 0 < len(came) < 1000 and "goes on where it stopped" in caught.value.fix


def test_a_file_that_comes_in_a_byte_for_each_connection_is_left(patience: Callable[..., None]) -> None:
    patience(window_s=1.0, window_bytes=10_000)

    def one_byte(connection: object, head: str) -> None:
        start = int(head.partition("bytes=")[2].partition("-")[0] or 0)
        partial = [f"Content-Range: bytes {start}-99999/100000"] if start else []
        status = "206 Partial Content" if start else "200 OK"
        reply(*partial, f"Content-Length: {100_000 - start}", status=status, body=b"x")(connection, head)

    with RawServer(one_byte) as server, RemoteFile(reader_of(server), "x", size=100_000) as file:
        with pytest.raises(StoreUnreachable, match="is too slow: only"):
            while True:
                file.read()
        assert 1 < len(server.heads) < 10_000


def test_a_page_of_small_values_does_not_fill_the_memory() -> None:
    body = b"[" + b"{}," * 2_500_000 + b"{}]"
    with RawServer(reply(body=body)) as server:
        tracemalloc.start()
        try:
            with pytest.raises(ReplyRefused, match="holds more than the 500000 values allowed there"):
                HubRepository(reader_of(server), "alice/decimals").tree(COMMIT)
            assert tracemalloc.get_traced_memory()[1] < 48 * 2**20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    ("page", "most"),
    [
        ([{"type": "file", "path": f"f{number}", "size": 1} for number in range(9000)], 3),
        ([{"type": "directory", "path": "x" * (7 * 2**20)}], 5),
    ],
    ids=["entries", "bytes"],
)
def test_all_pages_together_are_limited(page: list[object], most: int) -> None:
    answer = reply('Link: </more>; rel="next"', body=json.dumps(page).encode())
    with RawServer(answer) as server:
        with pytest.raises(ReplyRefused, match="lists more than 20000 entries or 33554432 bytes"):
            HubRepository(reader_of(server), "alice/decimals").tree(COMMIT)
        assert len(server.heads) == most


def many_refs(tags: int) -> bytes:
    named = [{"name": f"1.0.{number}", "targetCommit": f"{number:040x}"} for number in range(tags)]
    branch = {"name": "edgelora-records", "targetCommit": COMMIT}
    return json.dumps({"branches": [branch], "tags": named}).encode()


def by_path(answers: dict[str, Answer]) -> Answer:
    def answer(connection: object, head: str) -> None:
        found = next((given for part, given in answers.items() if part in asked_path(head)), None)
        (found or reply(status="404 Not Found"))(connection, head)

    return answer


def test_not_every_tag_is_asked_for_a_digest() -> None:
    answers = {"/refs": reply(body=many_refs(3000)), "/tree/": reply(body=b"[]")}
    with RawServer(by_path(answers)) as server:
        with pytest.raises(AdapterNotFound, match="none of the 256 highest has sha256:000") as caught:
            pull(f"alice/decimals@sha256:{'0' * 64}", server.url)
        assert caught.value.fix == "name the version, as in alice/decimals@1.0.2999"
        assert len(server.heads) < 270


def test_not_every_record_is_asked_for_a_reason() -> None:
    tree = [{"type": "file", "path": f"yanked/1.0.{number}.json", "size": 1} for number in range(3000)]
    answers = {"/refs": reply(body=many_refs(3000)), "/tree/": reply(body=json.dumps(tree).encode())}
    with RawServer(by_path(answers)) as server:
        with pytest.raises(ReplyRefused, match="holds more than 1000 records of yanked versions"):
            pull("alice/decimals", server.url)
        assert len(server.heads) < 10


@pytest.mark.parametrize("ahead_s", [0, 7, -50])
def test_a_server_may_name_the_moment_to_come_again(ahead_s: int) -> None:
    now = datetime(2020, 1, 1, tzinfo=UTC)
    headers = Message()
    headers["Date"] = format_datetime(now, usegmt=True)
    headers["Retry-After"] = format_datetime(now + timedelta(seconds=ahead_s), usegmt=True)
    assert asked_wait_s(headers) == max(0, ahead_s)
    assert reader_patience(headers) == min(max(0, ahead_s), 30.0)


def reader_patience(headers: Message) -> float:
    return Patience().wait_s(1, asked_wait_s(headers))


@pytest.mark.parametrize(
    "text", ["soon", "-5", "1e3", "Fri, 99 Foo 2020", "Fri, 01 Jan 99999 00:00:00 GMT", "9" * 40]
)
def test_what_names_neither_seconds_nor_a_moment_is_no_wait(text: str) -> None:
    headers = Message()
    headers["Retry-After"] = text
    assert asked_wait_s(headers) is None


def test_a_moment_without_the_servers_date_is_taken_by_the_own_clock() -> None:
    headers = Message()
    headers["Retry-After"] = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    wait_s = asked_wait_s(headers)
    assert wait_s is not None and 3500 < wait_s <= 3600
