"""Sixty and more requests that mean harm, or are broken.

Each gets the right status and a JSON error, no traceback, and the server goes on serving.
"""

import json
import logging
import socket
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest

from longtake.serve.limits import Limits
from tests.serve.running import Running, files_in, question_about, running

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
RAW = {"Content-Type": "application/octet-stream"}
TEXT = [{"role": "user", "content": "What?"}]
LIMITS = Limits(
    upload_bytes=300_000,
    body_bytes=200_000,
    video_seconds=60.0,
    words=2_000,
    header_seconds=0.3,
    body_seconds=0.3,
    transfer_seconds=1.5,
    fetch_seconds=2.0,
    drain_seconds=1.0,
)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Running:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "root").mkdir()
    with running(folder, limits=LIMITS, roots=(folder / "root",)) as server:
        yield server


def chat(**fields: object) -> bytes:
    return json.dumps({"messages": TEXT, **fields}).encode()


def about(url: str, **fields: object) -> bytes:
    return json.dumps(question_about(url, "What?", **fields)).encode()


def video_part(**fields: object) -> bytes:
    body = question_about("longtake:x", "What?")
    body["messages"][0]["content"][0]["video_url"] |= fields
    return json.dumps(body).encode()


FORM = {"Content-Type": "multipart/form-data; boundary=cut"}
PART = b'--cut\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'

BODIES = {
    # malformed JSON
    "empty": (b"", 400, "invalid_json"),
    "no json": (b"{", 400, "invalid_json"),
    "not utf-8": (b'{"messages": "\xff"}', 400, "invalid_json"),
    "deep": (b'{"messages":' + b"[" * 90_000, 400, "invalid_json"),
    "a list": (b"[]", 400, "invalid_value"),
    "null": (b"null", 400, "invalid_value"),
    "a number": (b"1e999", 400, "invalid_value"),
    # wrong types
    "no messages": (b"{}", 400, "invalid_value"),
    "messages empty": (chat(messages=[]), 400, "invalid_value"),
    "messages text": (chat(messages="hello"), 400, "invalid_value"),
    "message null": (chat(messages=[None]), 400, "invalid_value"),
    "content number": (chat(messages=[{"role": "user", "content": 3}]), 400, "invalid_value"),
    "content null": (chat(messages=[{"role": "user", "content": None}]), 400, "invalid_value"),
    "role tool": (chat(messages=[{"role": "tool", "content": "x"}]), 400, "invalid_value"),
    "assistant first": (
        chat(messages=[{"role": "assistant", "content": "x"}]),
        400,
        "invalid_value",
    ),
    "assistant last": (
        chat(messages=[*TEXT, {"role": "assistant", "content": "x"}]),
        400,
        "invalid_value",
    ),
    "two users": (chat(messages=TEXT * 2), 400, "invalid_value"),
    "part unknown": (
        chat(messages=[{"role": "user", "content": [{"type": "audio"}]}]),
        400,
        "invalid_value",
    ),
    "url number": (video_part(url=7), 400, "invalid_value"),
    "url empty": (video_part(url=""), 400, "invalid_value"),
    "url object": (video_part(url={"a": 1}), 400, "invalid_value"),
    "frames negative": (video_part(max_frames=-1), 400, "invalid_value"),
    "frames text": (video_part(max_frames="9"), 400, "invalid_value"),
    "frames huge": (video_part(max_frames=10**9), 400, "too_many_frames"),
    "frames beyond": (video_part(max_frames=10**40), 400, "invalid_value"),
    "fps zero": (video_part(fps=0), 400, "invalid_value"),
    "start after end": (video_part(video_start=5, video_end=2), 400, "invalid_value"),
    "start negative": (video_part(video_start=-5), 400, "invalid_value"),
    "start nan": (b'{"messages":[],"longtake":{"start":NaN}}', 400, "invalid_value"),
    "temperature text": (chat(temperature="hot"), 400, "invalid_value"),
    "temperature negative": (chat(temperature=-1), 400, "invalid_value"),
    "temperature infinite": (b'{"messages":[],"temperature":1e999}', 400, "invalid_value"),
    "top_p two": (chat(top_p=2), 400, "invalid_value"),
    "tokens zero": (chat(max_tokens=0), 400, "invalid_value"),
    "tokens huge": (chat(max_tokens=10**7), 400, "invalid_value"),
    "tokens true": (chat(max_tokens=True), 400, "invalid_value"),
    "n two": (chat(n=2), 400, "invalid_value"),
    "seed beyond": (chat(seed=2**70), 400, "invalid_value"),
    "stop numbers": (chat(stop=[1]), 400, "invalid_value"),
    "stop empty": (chat(stop=[""]), 400, "invalid_value"),
    "tools": (chat(tools=[{"type": "function"}]), 400, "unknown_parameter"),
    "unknown": (chat(exec="rm"), 400, "unknown_parameter"),
    "model other": (chat(model="../../etc/passwd"), 404, "model_not_found"),
    "placeholder": (
        about("longtake:x", messages=[{"role": "user", "content": "<image> <image>"}]),
        400,
        "prompt_unusable",
    ),
    # sizes
    "text long": (chat(messages=[{"role": "user", "content": "x" * 3_000}]), 413, "text_too_long"),
    "messages many": (chat(messages=TEXT * 1_000), 400, "too_many_messages"),
    "body huge": (b" " * 250_000, 413, "body_too_large"),
    # addresses
    "no scheme": (about("film.mp4"), 400, "media_forbidden"),
    "ftp": (about("ftp://example.org/a.mp4"), 400, "media_forbidden"),
    "gopher": (about("gopher://127.0.0.1:6379/_INFO"), 400, "media_forbidden"),
    "loopback": (about("http://127.0.0.1:1/a.mp4"), 400, "media_forbidden"),
    "localhost": (about("http://localhost:1/a.mp4"), 400, "media_forbidden"),
    "decimal": (about("http://2130706433/a.mp4"), 400, "media_forbidden"),
    "hexadecimal": (about("http://0x7f000001/a.mp4"), 400, "media_forbidden"),
    "octal": (about("http://0177.0.0.1/a.mp4"), 400, "media_forbidden"),
    "short": (about("http://127.1/a.mp4"), 400, "media_forbidden"),
    "zero": (about("http://0.0.0.0/a.mp4"), 400, "media_forbidden"),
    "metadata": (about("http://169.254.169.254/latest"), 400, "media_forbidden"),
    "private": (about("http://10.0.0.1/a.mp4"), 400, "media_forbidden"),
    "v6 loopback": (about("http://[::1]/a.mp4"), 400, "media_forbidden"),
    "v6 mapped": (about("http://[::ffff:127.0.0.1]/a.mp4"), 400, "media_forbidden"),
    "v6 local": (about("http://[fe80::1]/a.mp4"), 400, "media_forbidden"),
    "password": (about("http://me:secret@example.org/a.mp4"), 400, "media_forbidden"),
    "line break": (about("http://example.org/a\r\nX: y"), 400, "media_forbidden"),
    "bad port": (about("http://example.org:99999/a"), 400, "media_forbidden"),
    "long address": (about("http://example.org/" + "a" * 9_000), 400, "media_forbidden"),
    "file": (about("file:///etc/passwd"), 403, "media_forbidden"),
    "file of a host": (about("file://other/etc/passwd"), 403, "media_forbidden"),
    "file nul": (about("file:///etc/pass%00wd"), 403, "media_forbidden"),
    "file climbing": (about("file:///root/../../../etc/passwd"), 403, "media_forbidden"),
    "data no base64": (about("data:video/mp4,abc"), 400, "media_forbidden"),
    "data broken": (about("data:video/mp4;base64,@@@@"), 400, "media_forbidden"),
    "data html": (about("data:text/html;base64,PGI+"), 400, "media_forbidden"),
    "data empty": (about("data:video/mp4;base64,"), 400, "empty_file"),
    "data nonsense": (about("data:video/mp4;base64,AAAA"), 400, "video_unusable"),
    "file of no host": (about("file://["), 403, "media_forbidden"),
    "file of odd words": (about("file:///root/\udc00"), 400, "invalid_json"),
    "no such video": (about("longtake:../../etc"), 404, "video_unknown"),
}

UPLOADS = {
    "nothing": ("/v1/videos", b"", RAW, 400, "empty_file"),
    "text": ("/v1/videos?name=a.mp4", b"hello", RAW, 400, "video_unusable"),
    "page": ("/v1/videos?name=a.html", b"<script>alert(1)</script>", RAW, 400, "video_unusable"),
    "playlist": (
        "/v1/videos",
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        RAW,
        400,
        "video_unusable",
    ),
    "concat": (
        "/v1/videos",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        RAW,
        400,
        "video_unusable",
    ),
    "postscript": (
        "/v1/videos",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        RAW,
        400,
        "video_unusable",
    ),
    "too large": ("/v1/videos", b"x" * 400_000, RAW, 413, "body_too_large"),
    "frames": ("/v1/videos?max_frames=many", b"x", RAW, 400, "invalid_value"),
    "frames nan": ("/v1/videos?max_frames=nan", b"x", RAW, 400, "invalid_value"),
    "unknown field": ("/v1/videos?run=rm", b"x", RAW, 400, "unknown_parameter"),
    "no boundary": (
        "/v1/videos",
        b"x",
        {"Content-Type": "multipart/form-data"},
        400,
        "invalid_form",
    ),
    "no form": ("/v1/videos", b"hello", FORM, 400, "invalid_form"),
    "form breaks off": ("/v1/videos", PART + b"abc", FORM, 400, "body_incomplete"),
    "form of no file": (
        "/v1/videos",
        b'--cut\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--cut--\r\n',
        FORM,
        400,
        "invalid_form",
    ),
    "form too large": (
        "/v1/videos",
        PART + b"x" * 350_000 + b"\r\n--cut--\r\n",
        FORM,
        413,
        "media_too_large",
    ),
    "form field long": (
        "/v1/videos",
        b'--cut\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + b"1" * 5_000,
        FORM,
        400,
        "invalid_form",
    ),
    "form header long": ("/v1/videos", b"--cut\r\nX: " + b"1" * 5_000, FORM, 400, "invalid_form"),
    "json no url": ("/v1/videos", b"{}", JSON, 400, "invalid_value"),
    "json list": ("/v1/videos", b"[1]", JSON, 400, "invalid_value"),
    "json broken": ("/v1/videos", b"{", JSON, 400, "invalid_json"),
    "json odd key": ("/v1/videos", b'{"url":"x","\\ud800":1}', JSON, 400, "unknown_parameter"),
    "json odd file": ("/v1/videos", b'{"url":"file:///\\ud800"}', JSON, 403, "media_forbidden"),
    "json number long": (
        "/v1/videos",
        b'{"url":"x","start":' + b"9" * 5_000 + b"}",
        JSON,
        400,
        "invalid_json",
    ),
    "json private": ("/v1/videos", b'{"url":"http://192.168.0.1/"}', JSON, 400, "media_forbidden"),
    "chat as text": (CHAT, b"{}", {"Content-Type": "text/plain"}, 415, "wrong_type"),
}

PATHS = {
    "climb": ("GET", "/web/../../../../etc/passwd", 404),
    "climb escaped": ("GET", "/web/%2e%2e%2f%2e%2e%2fetc/passwd", 404),
    "climb slash": ("GET", "/web/..%2fapp.py", 404),
    "sources": ("GET", "/web/../app.py", 404),
    "content climb": ("GET", "/v1/videos/..%2f..%2fetc/content", 404),
    "frame unknown": ("GET", "/v1/videos/x/frame?at=nan", 404),
    "not there": ("GET", "/admin", 404),
    "method": ("PUT", CHAT, 405),
    "delete unknown": ("DELETE", "/v1/videos/x", 404),
    "docs": ("GET", "/docs", 404),
}


@pytest.mark.parametrize("case", BODIES)
def test_bodies(target: Running, case: str) -> None:
    body, status, code = BODIES[case]
    got = target.ask("POST", CHAT, body, JSON)
    assert (got.status, got.error["code"]) == (status, code), got.body[:300]
    assert b"passwd" not in got.body or b"model" in got.body


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("model other", 'not "../../etc/passwd"'),
        ("no such video", 'there is no video "../../etc" here; list them first'),
    ],
)
def test_what_is_not_known_here_is_named(target: Running, case: str, told: str) -> None:
    assert told in target.ask("POST", CHAT, BODIES[case][0], JSON).error["message"]


@pytest.mark.parametrize("case", UPLOADS)
def test_uploads(target: Running, case: str) -> None:
    path, body, headers, status, code = UPLOADS[case]
    got = target.ask("POST", path, body, headers)
    assert (got.status, got.error["code"]) == (status, code), got.body[:300]
    assert files_in(target.service.inbox.folder) == [], "nothing of it stays"


@pytest.mark.parametrize("case", PATHS)
def test_paths(target: Running, case: str) -> None:
    method, path, status = PATHS[case]
    got = target.ask(method, path)
    assert got.status == status
    assert got.error["code"]
    assert b"root:" not in got.body


def test_there_are_sixty() -> None:
    assert len(BODIES) + len(UPLOADS) + len(PATHS) >= 60


def raw(target: Running, data: bytes, *, wait: float = 5.0) -> bytes:
    """What comes back for these bytes, up to the end of headers or until the server closes."""
    with socket.create_connection(("127.0.0.1", target.port), timeout=wait) as line:
        line.sendall(data)
        got = b""
        while b"\r\n\r\n" not in got and (block := line.recv(65536)):
            got += block
        return got


def test_slow_headers_are_cut_off(target: Running) -> None:
    began = time.monotonic()
    assert raw(target, b"GET /health HTTP/1.1\r\nHost: loc") == b""
    assert time.monotonic() - began < 4


def test_a_client_that_says_nothing_is_cut_off(target: Running) -> None:
    assert raw(target, b"") == b""


def test_a_body_that_stops_coming_is_given_up(target: Running) -> None:
    head = b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc"
    assert b" 408 " in raw(target, head).partition(b"\r\n")[0]
    assert files_in(target.service.inbox.folder) == []


def test_a_body_that_drips_is_given_up(target: Running) -> None:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", target.port), timeout=5) as line:
        line.sendall(b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        line.settimeout(0.1)
        got = b""
        while not got and time.monotonic() - began < 5:
            line.sendall(b"x")
            with suppress(TimeoutError):
                got = line.recv(65536)
    assert b" 408 " in got.partition(b"\r\n")[0]
    assert files_in(target.service.inbox.folder) == []


def test_long_names_and_unreadable_files(
    target: Running, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = quote("\u6f22" * 110 + ".mp4")
    got = target.ask("POST", f"/v1/videos?name={name}&max_frames=4", clip.read_bytes(), RAW)
    assert got.status == 202 and got.json["name"].endswith("\u6f22.mp4")
    target.settled(got.json["id"])
    assert target.ask("DELETE", f"/v1/videos/{got.json['id']}").status == 200
    root = target.service.files.roots[0]
    (root / "closed.mp4").write_bytes(b"x")

    def closed(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(target.service.files, "_identify", closed)
    got = target.ask("POST", CHAT, about(f"file://{root}/closed.mp4"), JSON)
    assert (got.status, got.error["code"]) == (400, "video_unusable")
    assert str(root) not in got.error["message"]


def test_an_upload_that_is_broken_off_leaves_nothing(target: Running) -> None:
    with socket.create_connection(("127.0.0.1", target.port)) as line:
        line.sendall(
            b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\nabc"
        )
    until = time.monotonic() + 5
    while files_in(target.service.inbox.folder) and time.monotonic() < until:
        time.sleep(0.01)
    assert files_in(target.service.inbox.folder) == []


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000,
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: x\r\n\r\nabc",
    ],
)
def test_what_is_no_http(target: Running, data: bytes) -> None:
    assert raw(target, data).startswith(b"HTTP/1.1 4")


def test_other_sites_pages_are_not_served(target: Running) -> None:
    got = target.ask("GET", "/v1/videos", headers={"Host": "evil.example"})
    assert (got.status, got.error["code"]) == (403, "wrong_host")
    got = target.ask("POST", "/v1/videos", b"x", {"Origin": "https://evil.example"})
    assert (got.status, got.error["code"]) == (403, "wrong_origin")
    assert target.ask("GET", "/health", headers={"Origin": target.base}).status == 200


def test_it_still_serves_and_logged_no_traceback(
    target: Running, clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="longtake.serve"):
        target.ask("POST", CHAT + "?token=hush", about("http://x:hush@10.0.0.1/hush"), JSON)
        assert target.ask("GET", "/health").json == {"status": "ok"}
        video = target.watched(clip, max_frames=8)
        assert target.chat(video, "What word is on the card?").status == 200
    assert "hush" not in caplog.text
    assert "Traceback" not in caplog.text
    counted = target.ask("GET", "/metrics").body.decode()
    assert 'status="500"' not in counted


def test_ranges(target: Running, clip: Path) -> None:
    path = f"/v1/videos/{target.watched(clip, max_frames=8)}/content"
    whole = clip.read_bytes()
    assert target.ask("GET", path).body == whole
    for said, expected in {
        "bytes=0-9": whole[:10],
        "bytes=10-": whole[10:],
        "bytes=-7": whole[-7:],
        f"bytes=5-{len(whole) + 99}": whole[5:],
    }.items():
        got = target.ask("GET", path, headers={"Range": said})
        assert (got.status, got.body) == (206, expected), said
    for said in (
        f"bytes={len(whole)}-",
        "bytes=9-3",
        "bytes=-0",
        "bytes=-",
        "bytes=a-b",
        "lines=1-2",
        "bytes=0-1,3-4",
        "bytes=" + "9" * 99 + "-",
        "bytes=" + "9" * 5_000 + "-",
        "bytes=-" + "9" * 5_000,
    ):
        got = target.ask("GET", path, headers={"Range": said})
        assert (got.status, got.error["code"]) == (416, "invalid_range"), said
    assert (
        target.ask("GET", path).headers["content-security-policy"].startswith("default-src 'none'")
    )
    assert target.ask("GET", path).headers["content-type"] == "video/mp4"
