"""Reading is bounded: in memory, in threads, and it stops when nobody listens."""

from __future__ import annotations

import gc
import signal
import threading
from pathlib import Path
from types import FrameType

import numpy as np
import psutil
import pytest

from longtake.errors import VideoError
from longtake.video import reader as reader_module
from longtake.video.decode import open_video
from longtake.video.reader import Picture, Reader
from tests.video.makers import Clips, encode, number_of


def decoders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "longtake-decode"]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 pictures of 1280x720 in GOPs of ten."""
    return encode(
        tmp_path_factory.mktemp("wide") / "wide.mp4",
        "libx264",
        numbers=range(120),
        size=(1280, 720),
        options={"preset": "ultrafast", "x264-params": "keyint=10:min-keyint=10"},
    )


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_leaving_the_loop_ends_the_threads(wide: Path, threads: int) -> None:
    # pictures too large to be read to their end before the first of them is asked for
    with open_video(wide) as video:
        for _ in video.read(chunk=2, threads=threads):
            assert decoders()
            break
        gc.collect()
        assert decoders() == []

        def fail() -> None:
            for _ in video.read(chunk=2, threads=threads):
                raise KeyError("the consumer fails")

        with pytest.raises(KeyError):
            fail()
        gc.collect()
        assert decoders() == []
        iterator = video.read(chunk=2, threads=threads)
        next(iterator)
        iterator.close()
        assert decoders() == []
        assert number_of(next(video.read([17])).pixels_TCHW[0].permute(1, 2, 0).numpy()) == 17


def test_an_iterator_that_was_never_started_starts_no_thread(clips: Clips) -> None:
    with open_video(clips["short-gop.mp4"]) as video:
        iterator = video.read()
        assert decoders() == []
        del iterator


def test_an_interrupt_stops_everything(wide: Path) -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def read_for_ever() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        while True:
            list(video.read([119, 9, 99], threads=2))

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with open_video(wide) as video, pytest.raises(KeyboardInterrupt):
            read_for_ever()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    gc.collect()
    assert decoders() == []


def test_an_error_in_a_thread_reaches_the_consumer(
    clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_video(clips["short-gop.mp4"]) as video:

        def lose(self: Reader, wanted_N: np.ndarray) -> object:
            if wanted_N[0] > 20:
                raise VideoError("the disk is gone")
            yield from original(self, wanted_N)

        original = Reader.pictures
        monkeypatch.setattr(reader_module.Reader, "pictures", lose)
        with pytest.raises(VideoError, match="the disk is gone"):
            list(video.read(chunk=3))
        assert decoders() == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_in_a_thread_does_not_hang_the_consumer(
    clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(self: Reader, wanted_N: np.ndarray) -> object:
        raise ZeroDivisionError

    with open_video(clips["short-gop.mp4"]) as video:
        monkeypatch.setattr(reader_module.Reader, "pictures", stumble)
        with pytest.raises(RuntimeError, match="ended early"):
            list(video.read())


def test_a_slow_consumer_holds_the_workers_back(wide: Path) -> None:
    """While a chunk is held another is decoded, and a few pictures per worker beyond; then rest."""
    chunk, threads = 5, 2
    most = chunk + chunk + 32 * 2**20 // (3 * 1280 * 720)
    with open_video(wide) as video:
        decoded = []
        full, beyond = threading.Event(), threading.Event()
        report = video._health.report

        def count(picture: Picture) -> None:
            decoded.append(picture.index)
            if len(decoded) == most:
                full.set()
            elif len(decoded) > most + threads:  # one more is in the hands of each worker
                beyond.set()
            report(picture)

        video._health.report = count
        iterator = video.read(chunk=chunk, threads=threads)
        next(iterator)
        assert full.wait(timeout=300)
        assert not beyond.wait(timeout=0.5)
        assert [len(frames) for frames in iterator] == [chunk] * 23
        assert sorted(decoded) == list(range(120))  # each frame once


def test_memory_does_not_grow_with_the_number_of_frames(wide: Path) -> None:
    """1.3 GB of pixels pass through; what stays is the chunks in flight."""
    process = psutil.Process()
    frame_bytes = 1280 * 720 * 3
    with open_video(wide) as video:
        list(video.read([0, 60, 119]))
        before = process.memory_info().rss
        peak, total = before, 0
        for frames in video.read(np.repeat(np.arange(120), 4), chunk=4, threads=2):
            peak = max(peak, process.memory_info().rss)
            total += frames.pixels_TCHW.numel()
        assert total == 480 * frame_bytes
        # A chunk with the consumer, one it is about to drop, one being filled, what lies beyond it,
        # and what two decoders and their converters keep.
        assert peak - before < 3 * 4 * frame_bytes + 32 * 2**20 + 80 * 2**20


def test_readers_are_used_again_and_closed(clips: Clips) -> None:
    video = open_video(clips["short-gop.mp4"])
    for _ in range(5):
        list(video.read(range(0, 60, 7), threads=2))
    assert 1 <= len(video._readers) <= 2
    iterator = video.read(chunk=2)
    next(iterator)
    video.close()
    video.close()
    iterator.close()
    assert video._readers == []
    assert decoders() == []


def test_several_consumers_may_read_at_once(clips: Clips) -> None:
    with open_video(clips["short-gop.mp4"]) as video:
        iterators = [video.read(range(start, 60, 3), chunk=1) for start in range(3)]
        seen = [
            number_of(frames.pixels_TCHW[0].permute(1, 2, 0).numpy())
            for together in zip(*iterators, strict=True)
            for frames in together
        ]
        assert seen == list(range(60))
