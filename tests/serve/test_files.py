"""Files on the disk: what is swept, what stays while it is worked on, who may read it."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
from pathlib import Path

import pytest

from longtake import identity
from longtake.errors import OptionError
from longtake.library import Library
from longtake.serve import inbox as inbox_module
from longtake.serve import media as media_module
from longtake.serve.faults import Refusal
from longtake.serve.inbox import Inbox, harmless_name
from longtake.serve.limits import Limits
from tests.clips import write_clip
from tests.serve.running import (
    Running,
    bundled,
    data_url,
    files_in,
    question_about,
    running,
    until,
    watch_elsewhere,
)

CHAT = "/v1/chat/completions"
WORD = "What word is on the card?"


# -- the folder -----------------------------------------------------------------------------------


def test_a_folder_of_the_users_stays_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    for name in ("holiday/a.mp4", "0123/b.mp4", ".incoming-/c.mp4", "f" * 63 + "/d.mp4"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"x")
    (folder / ".incoming-abcd_123").write_bytes(b"x")
    before = files_in(folder)
    with running(tmp_path) as server:
        assert server.service.inbox.stored == 0
        assert files_in(folder) == [name for name in before if name != ".incoming-abcd_123"]


def test_files_of_other_models_memories_stay(tmp_path: Path, clip: Path) -> None:
    with running(tmp_path) as server:
        server.watched(clip, max_frames=8)
    kept = files_in(tmp_path / "files")
    assert len(kept) == 1
    fits = Library.fits
    try:
        Library.fits = lambda *_: False
        with running(tmp_path) as server:
            assert server.ask("GET", "/v1/videos").json["data"] == []
            assert server.send(write_clip(tmp_path / "x.mp4", 5), start=99).status == 400
            assert files_in(tmp_path / "files") == kept
    finally:
        Library.fits = fits


def test_a_second_server_is_refused_and_breaks_nothing(tmp_path: Path) -> None:
    first = Inbox(tmp_path, Limits(), lambda count: None)
    with first.arriving() as arrival:
        with pytest.raises(OptionError, match="another running server"):
            Inbox(tmp_path, Limits(), lambda count: None)
        arrival.write(b"x")
        assert arrival.path.exists()
    first.close()
    Inbox(tmp_path, Limits(), lambda count: None).close()


def test_files_under_way_are_counted_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox(tmp_path, Limits(stored_bytes=100), lambda count: None)
    with inbox.arriving() as one, inbox.arriving() as other:
        one.write(b"x" * 60)
        with pytest.raises(Refusal, match="storage is full"):
            other.write(b"y" * 60)
    with inbox.arriving() as one:
        one.write(b"x" * 60)
        with inbox.arriving() as other:
            other.write(b"y" * 30)
            inbox.keep(other, "y", lambda digest: None)
        with pytest.raises(Refusal, match="storage is full"):
            one.write(b"x" * 30)
    with inbox.arriving() as one:
        one.write(b"x" * 70)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with inbox.arriving() as one:
        monkeypatch.setattr(inbox_module.os, "write", full)
        with pytest.raises(Refusal) as told:
            one.write(b"x")
    assert (told.value.status, told.value.code) == (507, "storage_full")
    inbox.close()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("\u6f22" * 110 + ".mp4", "\u6f22" * 65 + ".mp4"),
        ("a" * 300 + ".mp4", "a" * 116 + ".mp4"),
        ("caf\udce9.mp4", "caf.mp4"),
        ("../../..", "video"),
        ("x." + "\u6f22" * 110, "x." + "\u6f22" * 66),
    ],
)
def test_names_fit_a_file_system(name: str, expected: str, tmp_path: Path) -> None:
    assert harmless_name(name) == expected
    (tmp_path / harmless_name(name)).write_bytes(b"x")


# -- how long files stay --------------------------------------------------------------------------


def test_what_is_refused_after_it_came_does_not_stay(live: Running, tmp_path: Path) -> None:
    clip, before = write_clip(tmp_path / "late.mp4", 7), files_in(live.service.inbox.folder)
    got = live.send(clip, start=99)
    assert (got.status, got.error["param"]) == (400, "start")
    parts = [
        {"type": "video_url", "video_url": {"url": data_url(clip)}},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}},
        {"type": "text", "text": WORD},
    ]
    got = live.ask("POST", CHAT, {"messages": [{"role": "user", "content": parts}]})
    assert (got.status, got.error["code"]) == (400, "video_unusable")
    assert files_in(live.service.inbox.folder) == before


def test_a_client_that_leaves_while_its_file_is_looked_at_leaves_nothing(
    live: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_in(live.service.inbox.folder)
    looking, go, look = threading.Event(), threading.Event(), media_module.look

    def slow(*what: object) -> object:
        looking.set()
        go.wait(20)
        return look(*what)

    monkeypatch.setattr(media_module, "look", slow)
    body = json.dumps(question_about(data_url(write_clip(tmp_path / "left.mp4", 8)), WORD)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", live.port)) as line:
        line.sendall(head.encode() + body)
        assert looking.wait(20)
    until(lambda: files_in(live.service.inbox.folder) == before)
    go.set()


def test_a_file_goes_with_the_memory_and_its_handle_with_it(tmp_path: Path, clip: Path) -> None:
    with running(tmp_path, limits=Limits(memory_bytes=1, drain_seconds=1.0)) as server:
        video = server.watched(clip, max_frames=8)
        assert server.ask("GET", f"/v1/videos/{video}/frame?at=1").status == 200
        assert len(server.service.stills._open) == 1
        server.watched(
            write_clip(tmp_path / "other.mp4", 9), max_frames=4
        )  # the first one is put away
        (tmp_path / "library" / f"{video}.longtake").unlink()
        server.service.videos._looked = -1.0
        assert len(server.ask("GET", "/v1/videos").json["data"]) == 1
        assert len(files_in(tmp_path / "files")) == 1
        assert len(server.service.stills._open) == 0
        assert all(key[0].exists() for key in server.service.stills._made)


def test_a_file_stays_while_another_request_works_on_it(live: Running, tmp_path: Path) -> None:
    clip, service = write_clip(tmp_path / "both.mp4", 11), live.service
    video = live.watched(clip, max_frames=4)
    digest = service.videos.get(video).films[0].digest
    with service.files.work() as work:
        work.pin(digest)
        assert live.ask("DELETE", f"/v1/videos/{video}").status == 200
        assert service.inbox.find(digest) is not None
    assert service.inbox.find(digest) is None


def test_several_videos_are_forgotten_with_their_memory(tmp_path: Path, clip: Path) -> None:
    other = write_clip(tmp_path / "other.mp4", 9)
    with running(tmp_path, limits=Limits(memory_bytes=1, drain_seconds=1.0)) as server:
        parts = [
            {"type": "video_url", "video_url": {"url": data_url(one)}} for one in (clip, other)
        ]
        content = [*parts, {"type": "text", "text": WORD}]
        body = {"messages": [{"role": "user", "content": content}], "longtake": {"max_frames": 8}}
        got = server.ask("POST", CHAT, body)
        assert got.status == 200 and got.json["longtake"]["video"].startswith("mix")
        assert len(files_in(tmp_path / "files")) == 2
        server.watched(write_clip(tmp_path / "third.mp4", 10), max_frames=4)
        assert [job.alone for job in server.service.videos.all()] == [True]
        assert len(files_in(tmp_path / "files")) == 1


def test_failures_that_are_forgotten_take_their_files_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longtake.serve.videos.KEPT_FAILURES", 1)
    with running(tmp_path) as server:
        monkeypatch.setattr(server.service.memories, "watch", lambda *_: 1 / 0)
        for count in (5, 6, 7):
            video = server.send(write_clip(tmp_path / f"{count}.mp4", count)).json["id"]
            until(lambda video=video: server.service.videos.get(video).state == "failed")
        until(lambda: len(files_in(tmp_path / "files")) == 1)


# -- who may have them ----------------------------------------------------------------------------


def test_files_outside_the_roots_are_not_read_by_way_of_a_memory(
    tmp_path: Path, clip: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    inside, outside = root / "inside.mp4", tmp_path / "outside.mp4"
    for path in (inside, outside):
        path.write_bytes(clip.read_bytes() + path.name.encode())
    (root / "link.mp4").symlink_to(outside)
    library = tmp_path / "library"
    keys = [watch_elsewhere(library, path, max_frames=8) for path in (inside, outside)]
    linked = watch_elsewhere(library, root / "link.mp4", max_frames=9)
    with running(tmp_path, roots=(root,)) as server:
        playable = {
            one["id"]: one["playable"] for one in server.ask("GET", "/v1/videos").json["data"]
        }
        assert playable == {keys[0]: True, keys[1]: False, linked: False}
        for key in (keys[1], linked):
            assert server.ask("GET", f"/v1/videos/{key}/content").status == 404
            assert server.chat(key, WORD).status == 200, "what was watched can be asked"
            got = server.ask("POST", "/v1/videos", {"url": f"longtake:{key}", "max_frames": 4})
            assert (got.status, got.error["code"]) == (403, "media_forbidden")
        assert server.ask("GET", f"/v1/videos/{keys[0]}/content").status == 200
        again = {"url": f"longtake:{keys[0]}", "max_frames": 4}
        server.settled(server.ask("POST", "/v1/videos", again).json["id"])
        inside.write_bytes(clip.read_bytes())  # another file takes its place
        assert server.ask("GET", f"/v1/videos/{keys[0]}/content").status == 404
        assert server.ask("GET", f"/v1/videos/{keys[0]}/strip").status == 404
        got = server.ask("POST", "/v1/videos", again | {"max_frames": 5})
        assert (got.status, got.error["code"]) == (403, "media_forbidden")


def test_a_file_that_changes_while_it_is_watched_is_not_kept(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    film = root / "film.mp4"
    film.write_bytes(clip.read_bytes())
    with running(tmp_path, roots=(root,)) as server:
        system, watch = server.service.memories._system, type(bundled()).watch

        def changed(self: object, *sources: object, **more: object) -> object:
            memory = watch(self, *sources, **more)
            film.write_bytes(clip.read_bytes() + b"more")
            return memory

        monkeypatch.setattr(type(system), "watch", changed)
        got = server.ask("POST", CHAT, question_about(f"file://{film}", WORD))
        assert (got.status, got.error["code"]) == (400, "video_unusable")
        assert "changed" in got.error["message"]
        assert list((tmp_path / "library").glob("*.longtake")) == []


def test_a_local_file_is_read_once(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    film, big = root / "film.mp4", root / "big.mp4"
    film.write_bytes(clip.read_bytes())
    os.utime(film, (1e9, 1e9))
    with big.open("wb") as file:
        file.truncate(2 << 20)
    read: list[str] = []
    hashed = identity.digest_of

    def counted(file: object) -> tuple[str, int]:
        read.append(file.name)
        return hashed(file)

    monkeypatch.setattr("longtake.identity.digest_of", counted)
    monkeypatch.setattr("longtake.identity.SETTLED_SECONDS", -1.0)
    with running(tmp_path, roots=(root,), limits=Limits(upload_bytes=1 << 20)) as server:
        for _ in range(3):
            assert server.ask("POST", CHAT, question_about(f"file://{film}", WORD)).status == 200
        assert read == [str(film)]
        got = server.ask("POST", CHAT, question_about(f"file://{big}", WORD))
        assert (got.status, got.error["code"]) == (413, "media_too_large")


def test_an_uploaded_file_is_not_read_again_for_its_digest(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longtake.identity.SETTLED_SECONDS", -1.0)
    monkeypatch.setattr("longtake.identity.digest_of", lambda file: 1 / 0)
    with running(tmp_path) as server:
        assert server.chat(server.watched(clip, max_frames=8), WORD).status == 200
