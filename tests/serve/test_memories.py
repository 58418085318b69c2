"""Memories of a server and its library: saved or not, in use, gone, made again."""

from __future__ import annotations

import gc
import json
import logging
import os
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from longtake.captions import Caption
from longtake.errors import StoreError
from longtake.library import Library
from longtake.serve.build import Choices, service
from longtake.serve.conversation import Sight
from longtake.serve.faults import Refusal
from longtake.serve.jobs import Facts, Film
from longtake.serve.limits import Limits
from longtake.serve.videos import Videos
from longtake.stored import Settings
from tests.clips import write_clip
from tests.serve.running import bundled, data_url, question_about, running, until, watch_elsewhere

CHAT = "/v1/chat/completions"
WORD = "What word is on the card?"


# -- the library ----------------------------------------------------------------------------------


def test_a_memory_that_is_held_is_in_use_and_not_the_oldest(tmp_path: Path, clip: Path) -> None:
    library = Library(tmp_path / "library")
    with running(tmp_path) as server:
        video = server.watched(clip, max_frames=8)
        file = tmp_path / "library" / f"{video}.longtake"
        with pytest.raises(StoreError, match="being asked"):
            library.remove(video)
        os.utime(file, (1e9, 1e9))
        assert server.chat(video, WORD).status == 200
        assert file.stat().st_mtime > 1e9 + 1
        assert server.ask("DELETE", f"/v1/videos/{video}").status == 200
        assert not file.exists()


def test_a_memory_that_cannot_be_saved_is_asked_all_the_same(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreError("the library cannot be written (No space left on device)")

    monkeypatch.setattr(Library, "save", full)
    limits = Limits(memory_bytes=1, drain_seconds=1.0)
    with running(tmp_path, limits=limits) as server, caplog.at_level(logging.WARNING):
        video = server.watched(clip, max_frames=8)
        assert "No space left" in caplog.text
        server.service.videos._looked = -1.0
        told = server.ask("GET", "/v1/videos").json["data"]
        assert [one["id"] for one in told] == [video]
        assert "cannot keep" in told[0]["warnings"][0]
        assert server.chat(video, WORD).json["choices"][0]["message"]["content"] == "RIVER"
        other = server.watched(write_clip(tmp_path / "other.mp4", 9), max_frames=4)
        assert [job.id for job in server.service.videos.all()] == [other], "it gave way"


def test_an_unreadable_library_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "library").write_bytes(b"no folder")
    library = Library(tmp_path / "library")
    choices = Choices(folder=tmp_path / "files", library=library, settings=Settings())
    with pytest.raises(StoreError) as told:
        service(bundled(), choices, Limits())
    assert "\n" not in str(told.value)


def test_names_and_settings_of_other_programs_are_shown(tmp_path: Path, clip: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    odd.write_bytes(clip.read_bytes())
    key = watch_elsewhere(tmp_path / "library", odd, max_frames=8)
    with running(tmp_path) as server:
        told = server.ask("GET", "/v1/videos")
        assert (told.status, told.json["data"][0]["name"]) == (200, "caf.mp4")
        assert server.chat(key, WORD).status == 200


def test_a_memory_whose_frames_are_called_auto_can_be_asked(tmp_path: Path, clip: Path) -> None:
    key = watch_elsewhere(tmp_path / "library", clip, max_frames="auto")
    with running(tmp_path) as server:
        shown = server.ask("GET", f"/v1/videos/{key}").json
        assert shown["max_frames"] is None or isinstance(shown["max_frames"], int)
        got = server.chat(key, WORD)
        assert (got.status, got.json["longtake"]["video"]) == (200, key)


def test_a_memory_with_captions_says_so_and_is_asked_by_its_name_only(
    tmp_path: Path, clip: Path
) -> None:
    captions = [Caption(seconds=0.5, text="RIVER"), Caption(seconds=1.5, text="BRIDGE")]
    key = watch_elsewhere(tmp_path / "library", clip, captions, max_frames=8)
    body = question_about(data_url(clip), WORD, longtake={"max_frames": 8})
    with running(tmp_path) as server:
        asked = server.chat(key, WORD)
        assert (asked.status, asked.json["longtake"]["video"]) == (200, key)
        plain = server.ask("POST", CHAT, body).json["longtake"]["video"]
        assert plain != key
        told = server.ask("GET", "/v1/videos").json["data"]
        assert {one["id"]: one["captions"] for one in told} == {key: True, plain: False}
        own = {"type": "video_url", "video_url": {"url": f"longtake:{key}"}}
        for parts, more in (([own], {"longtake": {"max_frames": 8}}), ([own, own], {})):
            content = [*parts, {"type": "text", "text": WORD}]
            got = server.ask(
                "POST", CHAT, {"messages": [{"role": "user", "content": content}]} | more
            )
            assert (got.status, got.json["error"]["code"]) == (409, "captions_unread")


def test_a_memory_that_another_process_took_is_made_again(tmp_path: Path, clip: Path) -> None:
    body = question_about(data_url(clip), WORD, longtake={"max_frames": 8})
    with running(tmp_path, limits=Limits(memory_bytes=1, drain_seconds=1.0)) as server:
        first = server.ask("POST", CHAT, body).json
        server.watched(write_clip(tmp_path / "other.mp4", 9), max_frames=4)
        Library(tmp_path / "library").remove(first["longtake"]["video"])
        again = server.ask("POST", CHAT, body)
        assert (again.status, again.json["choices"]) == (200, first["choices"])


# -- several videos -------------------------------------------------------------------------------


def test_videos_of_this_server_can_be_asked_together(tmp_path: Path, clip: Path) -> None:
    other = write_clip(tmp_path / "other.mp4", 9)
    with running(tmp_path) as server:
        ids = [server.watched(one, max_frames=8) for one in (clip, other)]
        own, more = [f"longtake:{one}" for one in ids], {"longtake": {"max_frames": 8}}
        for urls, said in ((own, {}), ([own[0], data_url(other)], more)):
            parts = [{"type": "video_url", "video_url": {"url": url}} for url in urls]
            content = [*parts, {"type": "text", "text": WORD}]
            body = {"messages": [{"role": "user", "content": content}], **said}
            got = server.ask("POST", CHAT, body)
            assert got.status == 200, got.body
            assert got.json["longtake"]["stats"]["frames"] == 16
            assert got.json["longtake"]["video"].startswith("mix")
        mix = got.json["longtake"]["video"]
        assert server.chat(mix, WORD).json["longtake"]["video"] == mix


def test_a_start_far_behind_the_end_leaves_one_frame() -> None:
    assert Sight(fps=1000, start=1e308).frames(0.0) == 1
    assert Sight(fps=2, start=1.0).frames(4.0) == 6


# -- what is refused before a video is watched ----------------------------------------------------


@pytest.mark.parametrize(
    ("question", "more", "code"),
    [
        (WORD, {"temperature": 0.0005}, "option_unusable"),
        ("What is in <image>?", {}, "prompt_unusable"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_is_watched(
    tmp_path: Path, clip: Path, question: str, more: dict, code: str
) -> None:
    with running(tmp_path) as server:
        got = server.ask("POST", CHAT, question_about(data_url(clip), question, **more))
        assert (got.status, got.error["code"]) == (400, code)
        assert server.service.videos.all() == []


def test_fetching_and_looking_count_as_time_to_an_answer(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path, limits=Limits(answer_seconds=0.3, drain_seconds=1.0)) as server:
        monkeypatch.setattr("longtake.serve.media.look", lambda *_: time.sleep(1.5))
        began = time.monotonic()
        got = server.ask("POST", CHAT, question_about(data_url(clip), WORD))
        assert (got.status, got.error["code"]) == (504, "timeout")
        assert time.monotonic() - began < 1.4


def test_what_was_sent_is_let_go_before_the_answer_is_waited_for(
    tmp_path: Path, clip: Path
) -> None:
    long = tmp_path / "long.mp4"
    spare = 8 << 20  # a box that readers skip
    long.write_bytes(clip.read_bytes() + spare.to_bytes(4, "big") + b"free" + bytes(spare - 8))
    more = {"stream": True, "longtake": {"max_frames": 4}}
    body = json.dumps(question_about(data_url(long), WORD, **more)).encode()
    with running(tmp_path) as server:
        go, turn = threading.Event(), server.service.engine._turn
        server.service.engine._turn = lambda: go.wait(30) and turn()
        tracemalloc.start()
        try:
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(server.ask, "POST", CHAT, body)
                until(lambda: any(job.waiters for job in server.service.videos.all()))
                gc.collect()
                held = tracemalloc.get_traced_memory()[0]
                go.set()
                assert b"[DONE]" in asked.result().body
        finally:
            go.set()
            tracemalloc.stop()
    assert held < 6 << 20, f"{held / 2**20:.1f} MiB"


# -- the engine thread ----------------------------------------------------------------------------


def test_a_fault_of_one_question_is_told_and_the_next_is_answered(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path) as server:
        video = server.watched(clip, max_frames=8)
        memories = server.service.memories
        for name in ("rows", "options"):
            with monkeypatch.context() as patch:
                patch.setattr(memories, "check", lambda *_: None)
                patch.setattr(memories, name, lambda *_, **__: 1 / 0)
                got = server.chat(video, WORD)
                assert (got.status, got.error["code"]) == (500, "server_error")
        assert server.chat(video, WORD).status == 200
        assert server.service.line.answering == 0


def test_without_its_thread_a_server_refuses(tmp_path: Path, clip: Path) -> None:
    with running(tmp_path) as server:
        video = server.watched(clip, max_frames=8)
        server.service.engine._turn = lambda: 1 / 0
        got = server.chat(video, WORD)
        assert (got.status, got.error["code"]) == (503, "stopping")
        until(lambda: not server.service.engine.alive)
        assert server.chat(video, WORD).status == 503
        assert server.send(write_clip(tmp_path / "more.mp4", 5)).status == 503
        assert server.ask("GET", "/health").status == 503


# -- the mirror of the library --------------------------------------------------------------------


class Shelf:
    """A library that can be changed while it is listed."""

    def __init__(self) -> None:
        self.found: list = []
        self.during = lambda: None

    def key(self, films: object, frames: object, part: object) -> str:
        return f"{films[0].digest} {frames} {part}"

    def all(self) -> list:
        listed = list(self.found)
        self.during()
        return listed

    def others(self, digest: str) -> bool:
        return False

    def holds(self, video: str) -> bool:
        return False

    def has(self, video: str) -> bool:
        return True


def film(digest: str) -> Film:
    return Film(path="x", name="x", digest=digest, still=False, seconds=9.0, mark=(1,))


def wanted(videos: Videos, digest: str = "a") -> object:
    films = (film(digest),)
    return videos.want(films, Sight(), videos.key(films, Sight()))[0]


def test_what_becomes_ready_while_the_library_is_listed_stays() -> None:
    shelf = Shelf()
    videos = Videos(shelf)
    job = wanted(videos)
    videos.begin(job.id)
    shelf.during = lambda: videos.ready(job, Facts())
    videos.refresh()
    assert videos.get(job.id) is job
    videos._looked, shelf.during = -1.0, lambda: None
    videos.refresh()
    with pytest.raises(Refusal):
        videos.get(job.id)


def test_what_is_deleted_while_the_library_is_listed_stays_deleted(
    tmp_path: Path, clip: Path
) -> None:
    watch_elsewhere(tmp_path, clip, max_frames=8)
    shelf = Shelf()
    shelf.found = Library(tmp_path).list()
    videos = Videos(shelf)
    videos.refresh()
    videos._looked = -1.0
    shelf.during = lambda: videos.drop(videos.all()[0])
    videos.refresh()
    assert videos.all() == []


def test_an_abandoned_job_wakes_nobody_who_waits_for_its_successor() -> None:
    videos, woken = Videos(Shelf()), []
    first = wanted(videos)
    videos.listen(first, lambda: woken.append("first"))
    videos.wait_for(first, 1)
    assert videos.wait_for(first, -1)
    second = wanted(videos)
    assert second is not first and second.id == first.id
    videos.listen(second, lambda: woken.append("second"))
    assert not videos.drop(first)
    assert woken == ["first"]
    assert videos.get(second.id) is second
