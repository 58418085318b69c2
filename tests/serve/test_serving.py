"""The server as a whole: tokens, limits, who goes away, what a restart leaves, how it stops."""

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from longtake.errors import OptionError
from longtake.serve.app import FILES, WEB
from longtake.serve.limits import Limits
from longtake.serve.run import Place
from tests.clips import write_clip
from tests.serve.running import Running, files_in, question_about, running, until

TOKEN = "a-long-word-that-nobody-guesses"
HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n"
WORD = "What word is on the card?"


# -- who may come ---------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org"])
def test_other_machines_need_a_token(host: str) -> None:
    with pytest.raises(OptionError, match="a token is needed"):
        Place(host=host)
    assert Place(host=host, token=TOKEN).token == TOKEN


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    assert host in Place(host=host).called


def test_tokens_that_are_no_secret() -> None:
    with pytest.raises(OptionError, match="too short"):
        Place(token="short")
    with pytest.raises(OptionError, match="printable"):
        Place(token="a word with an \u00e9 in it, long")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Running:
    with running(tmp_path_factory.mktemp("locked"), token=TOKEN) as server:
        yield server


@pytest.mark.parametrize(
    "sent", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN]
)
def test_without_the_token_nothing_is_told(locked: Running, sent: str) -> None:
    for path in ("/v1/videos", "/v1/models", "/v1/server", "/metrics", "/openapi.json", "/none"):
        got = locked.ask("GET", path, headers={"Authorization": sent})
        assert (got.status, got.error["code"]) == (401, "invalid_token"), path
        assert got.headers["www-authenticate"].startswith("Bearer")
    for path in ("/", "/health", "/web/main.js"):
        assert locked.ask("GET", path, headers={"Authorization": sent}).status == 200


def test_the_token_opens(locked: Running) -> None:
    assert locked.ask("GET", "/v1/models").status == 200


def test_a_session_reads_and_does_nothing_else(locked: Running) -> None:
    given = locked.ask("POST", "/v1/session")
    cookie = given.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    name = {"Cookie": cookie.partition(";")[0], "Authorization": ""}
    assert locked.ask("GET", "/v1/videos", headers=name).status == 200
    assert locked.ask("POST", "/v1/videos", b"x", headers=name).status == 401
    last = "1" if name["Cookie"].endswith("0") else "0"
    bent = {"Cookie": name["Cookie"][:-1] + last, "Authorization": ""}
    later = {"Cookie": name["Cookie"].replace("=1", "=9"), "Authorization": ""}
    for forged in (bent, later, {"Cookie": "longtake_session=;", "Authorization": ""}):
        assert locked.ask("GET", "/v1/videos", headers=forged).status == 401


# -- limits ---------------------------------------------------------------------------------------


def test_a_full_line_says_when_to_come_back(tmp_path: Path, clip: Path) -> None:
    with running(tmp_path, limits=Limits(waiting=2, rows=1, drain_seconds=1.0)) as server:
        video = server.watched(clip, max_frames=8)
        held = hold(server)
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(server.chat, video, WORD) for _ in range(2)]
            until(lambda: server.service.line.waiting + server.service.line.answering == 2)
            got = server.chat(video, WORD)
            assert (got.status, got.error["code"]) == (429, "queue_full")
            assert int(got.headers["retry-after"]) >= 1
            held.set()
            assert [one.result().status for one in asked] == [200, 200]
        assert server.chat(video, WORD).status == 200


def hold(server: Running) -> threading.Event:
    """Keep the engine thread from taking steps until the event is set."""
    go, step = threading.Event(), server.service.engine._turn

    def turn() -> bool:
        go.wait(20)
        return step()

    server.service.engine._turn = turn
    return go


def test_too_long_too_many_too_much(tmp_path: Path, clip: Path) -> None:
    limits = Limits(
        video_seconds=3.0, frames=10, watching=1, stored_bytes=600_000, drain_seconds=1.0
    )
    with running(tmp_path, limits=limits) as server:
        got = server.send(clip)
        assert (got.status, got.error["code"]) == (413, "video_too_long")
        short = write_clip(tmp_path / "short.mp4", 10)
        got = server.send(short, max_frames=11)
        assert (got.status, got.error["code"]) == (400, "too_many_frames")
        got = server.send(short, fps=100)
        assert (got.status, got.error["code"]) == (400, "too_many_frames")
        assert server.service.inbox.stored == 0
        got = server.ask("POST", "/v1/videos", b"x" * 700_000, {"Content-Type": "video/mp4"})
        assert (got.status, got.error["code"]) == (507, "storage_full")
        held = hold(server)
        first = server.send(short, max_frames=2)
        assert first.status == 202
        until(lambda: server.service.videos.get(first.json["id"]).state == "queued")
        got = server.send(short, max_frames=3)
        assert (got.status, got.error["code"]) == (429, "watching_full")
        held.set()
        server.settled(first.json["id"])
        assert server.ask("GET", "/v1/videos").json["data"][0]["frames"] == 2


def test_an_answer_takes_only_so_long(tmp_path: Path, clip: Path) -> None:
    with running(tmp_path, limits=Limits(answer_seconds=0.3, drain_seconds=1.0)) as server:
        video = server.watched(clip, max_frames=8)
        held = hold(server)
        got = server.chat(video, WORD)
        assert (got.status, got.error["code"]) == (504, "timeout")
        events = server.chat(video, WORD, stream=True).body.decode().strip().split("\n\n")
        assert json.loads(events[-1][6:])["error"]["code"] == "timeout"
        held.set()
        until(lambda: server.service.line.waiting + server.service.line.answering == 0)


# -- who goes away --------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_decoding_stops_when_the_client_goes(live: Running, video: str, stream: bool) -> None:
    cancelled = live.service.metrics.answers.labels("cancelled")._value
    written = live.service.metrics.tokens._value
    before, tokens = cancelled.get(), written.get()
    # a hot enough temperature never ends by itself
    body = json.dumps(
        question_about(f"longtake:{video}", WORD, stream=stream, temperature=90, max_tokens=4000)
    ).encode()
    with socket.create_connection(("127.0.0.1", live.port)) as line:
        line.sendall(HEAD.format(len(body)).encode() + body)
        until(lambda: live.service.line.answering == 1)
        time.sleep(0.05)
    until(lambda: cancelled.get() == before + 1)
    assert live.service.line.answering == 0
    assert written.get() - tokens < 4000


def test_a_video_that_nobody_waits_for_any_more_is_not_watched(
    live: Running, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "long.mp4", 200)
    left = live.service.metrics.watches.labels("left")._value
    before, kept = left.get(), live.service.inbox.stored
    url = "data:video/mp4;base64," + base64.b64encode(clip.read_bytes()).decode()
    body = json.dumps(question_about(url, WORD, longtake={"max_frames": 200})).encode()
    with socket.create_connection(("127.0.0.1", live.port)) as line:
        line.sendall(HEAD.format(len(body)).encode() + body)
        until(lambda: any(job.state == "watching" for job in live.service.videos.all()))
    until(lambda: left.get() == before + 1)
    until(lambda: live.service.line.videos == 0)
    assert all(job.state == "ready" for job in live.service.videos.all())
    until(lambda: live.service.inbox.stored == kept)


def test_questions_are_answered_while_a_video_is_watched(
    live: Running, video: str, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "longer.mp4", 300)
    sent = live.send(clip, max_frames=300).json["id"]
    until(lambda: live.service.videos.get(sent).state == "watching")
    got = live.chat(video, WORD)
    state = live.service.videos.get(sent)
    assert got.json["choices"][0]["message"]["content"] == "RIVER"
    assert state.state == "watching" and state.part < 1
    live.ask("DELETE", f"/v1/videos/{sent}")
    until(lambda: live.service.line.videos == 0)
    assert live.ask("GET", f"/v1/videos/{sent}").status == 404


# -- side by side ---------------------------------------------------------------------------------


def test_many_clients_get_what_one_gets(live: Running, video: str) -> None:
    questions = [
        WORD,
        "What number is on the card?",
        "What colour is the card?",
        "Which word is shown?",
    ]
    alone = {
        one: live.chat(video, one).json["choices"][0]["message"]["content"] for one in questions
    }
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda one: (one, live.chat(video, one)), questions * 6))
    for question, reply in got:
        assert reply.json["choices"][0]["message"]["content"] == alone[question]
    rows = live.ask("GET", "/metrics").body.decode()
    single = float(rows.split('longtake_batch_rows_bucket{le="1.0"} ')[1].split()[0])
    every = float(rows.split("longtake_batch_rows_count ")[1].split()[0])
    assert single < every, "some were answered side by side"


# -- videos ---------------------------------------------------------------------------------------


def test_forms_and_raw_bodies_are_the_same_video(live: Running, video: str, clip: Path) -> None:
    form = b"".join(
        [
            b'--cut\r\nContent-Disposition: form-data; name="max_frames"\r\n\r\n16\r\n',
            b'--cut\r\nContent-Disposition: form-data; name="file"; filename="other.mp4"\r\n\r\n',
            clip.read_bytes(),
            b"\r\n--cut--\r\n",
        ]
    )
    kind = {"Content-Type": "multipart/form-data; boundary=cut"}
    got = live.ask("POST", "/v1/videos", form, kind)
    assert (got.status, got.json["id"], got.json["status"]) == (200, video, "ready")
    assert (got.json["name"], got.json["sent_as"]) == ("card.mp4", "other.mp4")
    assert live.send(clip, max_frames=16).json["sent_as"] is None, "under the name it has"


def test_what_is_told_of_a_video(live: Running, video: str) -> None:
    told = live.ask("GET", f"/v1/videos/{video}").json
    assert (told["name"], told["frames"], told["playable"]) == ("card.mp4", 16, True)
    assert told["bytes"] > 0 and told["tokens"] > 16 and told["error"] is None
    assert told["id"] in [one["id"] for one in live.ask("GET", "/v1/videos").json["data"]]


def test_frames_and_strips_are_pictures(live: Running, video: str) -> None:
    frame = live.ask("GET", f"/v1/videos/{video}/frame?at=3.4&width=80")
    assert Image.open(io.BytesIO(frame.body)).width == 80
    strip = live.ask("GET", f"/v1/videos/{video}/strip?count=5&height=40")
    assert Image.open(io.BytesIO(strip.body)).size == (200, 40)
    for bad in (
        "frame?at=-1",
        "frame?at=x",
        "frame?width=9999",
        "strip?count=0",
        "strip?count=999",
    ):
        assert live.ask("GET", f"/v1/videos/{video}/{bad}").status == 400


def test_after_a_restart_everything_is_there_and_deleting_takes_it_away(
    tmp_path: Path, clip: Path
) -> None:
    with running(tmp_path) as server:
        video = server.watched(clip, max_frames=8)
        first = server.chat(video, WORD).json
        lone = tmp_path / "files" / ("0" * 64)
        lone.mkdir()
        (lone / "left-over.mp4").write_bytes(b"x")
    with running(tmp_path) as server:
        assert not lone.exists(), "files that belong to no video are swept"
        told = server.ask("GET", "/v1/videos").json["data"]
        assert [one["id"] for one in told] == [video]
        assert server.chat(video, WORD).json["choices"] == first["choices"]
        assert server.ask("GET", f"/v1/videos/{video}").json["watch_seconds"] > 0
        assert server.ask("DELETE", f"/v1/videos/{video}").json["deleted"] is True
        assert server.ask("GET", "/v1/videos").json["data"] == []
        assert server.chat(video, WORD).status == 404
        assert files_in(tmp_path / "files") == []
        assert list((tmp_path / "library").glob("*.longtake")) == []


def test_a_memory_that_went_is_made_again(tmp_path: Path, clip: Path) -> None:
    url = "data:video/mp4;base64," + base64.b64encode(clip.read_bytes()).decode()
    body = question_about(url, WORD, longtake={"max_frames": 8})
    with running(tmp_path) as server:
        first = server.ask("POST", "/v1/chat/completions", body).json
    with running(tmp_path) as server:
        for path in (tmp_path / "library").glob("*.longtake"):
            path.unlink()  # as another process that needs room would
        again = server.ask("POST", "/v1/chat/completions", body).json
        assert again["choices"] == first["choices"]


def test_bodies_in_memory_are_bounded(tmp_path: Path) -> None:
    with running(tmp_path, limits=Limits(held_bytes=1000, drain_seconds=1.0)) as server:
        got = server.ask("POST", "/v1/chat/completions", b" " * 2000)
        assert (got.status, got.error["code"]) == (429, "bodies_full")
        assert server.ask("POST", "/v1/chat/completions", b"{").status == 400
        assert server.service.inbox._held == 0


def test_memories_beyond_the_room_are_read_again(tmp_path: Path, clip: Path) -> None:
    with running(tmp_path, limits=Limits(memory_bytes=1, drain_seconds=1.0)) as server:
        videos = [server.watched(clip, max_frames=count) for count in (8, 9, 10)]
        assert len(server.service.memories._held) == 1
        for video in (*videos, *videos):
            assert server.chat(video, WORD).json["choices"][0]["message"]["content"] == "RIVER"


# -- how it stops ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_after_the_answer(
    sent: signal.Signals, tmp_path: Path, clip: Path
) -> None:
    root = Path(__file__).resolve().parents[2]
    environment = {
        "PYTHONPATH": str(root / "src"),
        "PATH": os.environ["PATH"],
        "OMP_NUM_THREADS": "1",
    }
    words = [
        "serve",
        "--port",
        "0",
        "--data",
        str(tmp_path / "d"),
        "--library",
        str(tmp_path / "l"),
    ]
    command = [sys.executable, "-m", "longtake", *words]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stderr.readline()
            assert "serving default at http://127.0.0.1:" in line
            port = int(line.partition("http://127.0.0.1:")[2].split()[0])
            server = Running(service=None, port=port)
            until(lambda: reachable(port))
            video = server.watched(clip, max_frames=8)
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(server.chat, video, WORD, temperature=90, max_tokens=40)
                busy = b"questions_answering 1.0"
                until(lambda: busy in server.ask("GET", "/metrics").body or asked.done())
                process.send_signal(sent)
                assert asked.result().status == 200
            assert process.wait(30) == 0
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


def reachable(port: int) -> bool:
    try:
        return Running(service=None, port=port).ask("GET", "/health").status == 200
    except OSError:
        return False


# -- the page's files -----------------------------------------------------------------------------


def test_every_file_of_the_page_has_an_address_and_asks_for_no_other_host(live: Running) -> None:
    assert {path.name for path in WEB.iterdir()} == {*FILES, "index.html"}
    for path in WEB.iterdir():
        text = path.read_text(encoding="utf-8")
        assert text.isascii()
        assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", "")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|style=", text
        )
    for name, kind in FILES.items():
        got = live.ask("GET", f"/web/{name}")
        assert (got.status, got.body) == (200, (WEB / name).read_bytes())
        assert got.headers["content-type"].startswith(kind)
    page = live.ask("GET", "/")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"


def test_the_schema_is_told(live: Running) -> None:
    told = live.ask("GET", "/openapi.json").json
    body = told["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    assert "messages" in json.dumps(body)
