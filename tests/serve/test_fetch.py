"""Fetching without being led into the network behind the server."""

import asyncio
import http.server
import ipaddress
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from longtake.errors import OptionError
from longtake.serve.faults import Refusal
from longtake.serve.fetch import Fetcher, checked_url, is_public, may_connect, networks
from tests.serve.running import Running, question_about

LOOPBACK = networks(["127.0.0.0/8"])
PUBLIC = ("93.184.216.34", "1.1.1.1", "2606:4700::1111")
PRIVATE = (
    *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.9.9.9", "169.254.169.254"),
    *("172.16.0.1", "172.31.255.255", "192.168.1.1", "192.0.2.1", "198.18.0.1", "224.0.0.1"),
    *("240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1", "::ffff:10.0.0.1", "fe80::1"),
    *("fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1", "64:ff9b::7f00:1"),
    *("64:ff9b::a00:1", "2002:7f00:1::", "2002:a00:1::", "2001:0:7f00:1::80ff:fffe"),
)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_addresses(name: str) -> None:
    assert is_public(ipaddress.ip_address(name))


@pytest.mark.parametrize("name", PRIVATE)
def test_private_addresses(name: str) -> None:
    assert not is_public(ipaddress.ip_address(name))


def test_allowed_networks_are_allowed_in_both_forms() -> None:
    allowed = networks(["10.0.0.0/8"])
    assert may_connect(ipaddress.ip_address("10.9.9.9"), allowed)
    assert may_connect(ipaddress.ip_address("::ffff:10.9.9.9"), allowed)
    assert not may_connect(ipaddress.ip_address("192.168.0.1"), allowed)
    with pytest.raises(OptionError, match="write a network as"):
        networks(["10.0.0.1/8"])


def test_addresses_that_may_be_asked_for() -> None:
    assert checked_url("HTTP://Example.org/a?b#c") == "http://Example.org/a?b"
    for url in (
        "ftp://a/",
        "http://",
        "http:///a",
        "//a/b",
        "http://u@a/",
        "http://a:0/",
        "http://a b/",
        "http://[::1/",
    ):
        with pytest.raises(Refusal):
            checked_url(url)


class Site(http.server.BaseHTTPRequestHandler):
    """What the tests fetch."""

    body = b"x" * 1000

    def do_GET(self) -> None:
        name = self.path.partition("?")[0]
        if name.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path[4:].replace("~", "/"))
            self.end_headers()
        elif name == "/round":
            self.send_response(307)
            self.send_header("Location", "/round")
            self.end_headers()
        elif name == "/long":
            self.reply(200, b"x" * 5000, 5000)
        elif name == "/endless":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * 5000)
        elif name == "/short":
            self.reply(200, b"abc", 900)
        elif name == "/packed":
            self.reply(200, b"abc", 3, ("Content-Encoding", "gzip"))
        elif name == "/stuck":
            self.send_response(200)
            self.end_headers()
            self.wfile.flush()
            self.server.stop.wait(10)
        elif name == "/film.mp4":
            self.reply(200, self.body, len(self.body))
        else:
            self.reply(404, b"", 0)

    def reply(self, status: int, body: bytes, said: int, *more: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Length", str(said)), *more):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.stop = threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.stop.set()
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(url: str, *, allowed: tuple = LOOPBACK, seconds: float = 5.0) -> tuple[str, bytes]:
    got = bytearray()
    fetcher = Fetcher(limit_bytes=2000, seconds=seconds, allowed=allowed)
    return asyncio.run(fetcher.into(url, got.extend)), bytes(got)


def test_a_file_and_its_name(site: str) -> None:
    assert fetch(f"{site}/film.mp4?key=1") == ("film.mp4", Site.body)
    assert fetch(f"{site}/to/~to~~film.mp4") == ("film.mp4", Site.body)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/none", 400, "media_unreachable"),
        ("/round", 400, "media_unreachable"),
        ("/long", 413, "media_too_large"),
        ("/endless", 413, "media_too_large"),
        ("/short", 400, "media_unreachable"),
        ("/packed", 400, "media_unreachable"),
        ("/to/ftp:~~127.0.0.1~a", 400, "media_forbidden"),
        ("/to/file:~~~etc~passwd", 400, "media_forbidden"),
        ("/to/http:~~192.168.0.1~a", 400, "media_forbidden"),
        ("/to/http:~~[::1]:1~a", 400, "media_forbidden"),
        ("/to/http:~~[::ffff:10.0.0.1]~a", 400, "media_forbidden"),
        ("/to/http:~~167772161~a", 400, "media_forbidden"),
        ("/to/http:~~[", 400, "media_unreachable"),
    ],
)
def test_what_is_refused(site: str, path: str, status: int, code: str) -> None:
    with pytest.raises(Refusal) as told:
        fetch(site + path)
    assert (told.value.status, told.value.code) == (status, code)


def test_without_leave_even_the_first_address_is_refused(site: str) -> None:
    with pytest.raises(Refusal, match="private network"):
        fetch(f"{site}/film.mp4", allowed=())


def test_a_name_is_resolved_once_and_the_checked_address_is_used(
    site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that changes its mind between check and connection gains nothing."""
    asked = []

    async def changing(self: object, host: str, port: int, **_: object) -> list:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "10.0.0.1"
        return [(2, 1, 6, "", (address, port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", changing)
    port = site.rpartition(":")[2]
    assert fetch(f"http://films.example:{port}/film.mp4")[1] == Site.body
    assert asked[0] == "films.example"
    assert "films.example" not in asked[1:]


def test_one_private_address_among_public_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    async def both(self: object, host: str, port: int, **_: object) -> list:
        return [(2, 1, 6, "", (address, port)) for address in ("93.184.216.34", "10.0.0.1")]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", both)
    with pytest.raises(Refusal, match="private network"):
        fetch("http://films.example/a")


def test_time_runs_out(site: str) -> None:
    with pytest.raises(Refusal, match="did not come within"):
        fetch(f"{site}/stuck", seconds=0.3)


def test_the_server_fetches_what_it_may(
    live: Running, site: str, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Site, "body", clip.read_bytes())
    body = question_about(
        f"{site}/film.mp4", "What word is on the card?", longtake={"max_frames": 8}
    )
    refused = live.ask("POST", "/v1/chat/completions", body)
    assert (refused.status, refused.error["code"]) == (400, "media_forbidden")
    open_one = Fetcher(limit_bytes=10**6, seconds=5.0, allowed=LOOPBACK)
    monkeypatch.setattr(live.service.media, "_fetcher", open_one)
    assert live.ask("POST", "/v1/chat/completions", body).json["choices"][0]["message"]["content"]
    told = live.ask("POST", "/v1/videos", {"url": f"{site}/film.mp4", "max_frames": 8})
    assert (told.status, told.json["status"]) == (200, "ready")
