"""Decoding in parallel, in bounded memory, in the order asked for.

Worker threads, each with a reader of its own, take runs of neighbouring GOPs in turn and write
pictures straight into the chunks that will be handed over. A worker that gets too far ahead of the
consumer waits, so memory does not grow with the video.

Letters: R requested frames in request order, N distinct frames ascending, T frames of a chunk,
H W pixels, C channels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from longtake.errors import LongtakeError, VideoError
from longtake.video.index import Index, Ints
from longtake.video.reader import Picture, Reader

Pixels = NDArray[np.uint8]

# The workers use the cores; a converter with threads of its own (PyAV 18's default) would only add.
_ONE_THREAD: dict[str, Any] = {"threads": 1} if int(av.__version__.split(".")[0]) >= 18 else {}

_RUN = 2  # frames a worker takes at least; small, so that workers stay close to each other
_AHEAD_BYTES = 32 << 20  # pictures that may be decoded beyond the chunk that is being filled
_BLOCK = 4  # chunks that are sorted together when frames are not asked for in ascending order


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What every delivered picture looks like."""

    width: int
    """Pixels before rotation."""
    height: int
    """Pixels before rotation."""
    quarter_turns: int
    """Counter-clockwise, 0 to 3."""

    @property
    def turned(self) -> tuple[int, int]:
        """Height and width after rotation."""
        if self.quarter_turns % 2:
            return self.width, self.height
        return self.height, self.width

    def beyond(self, threads: int) -> int:
        """Pictures that may be decoded beyond the chunk that is being filled."""
        return max(_AHEAD_BYTES // (3 * self.width * self.height), _RUN * threads)


@dataclass(frozen=True, kw_only=True)
class Crew:
    """Where the workers get their readers and leave their reports."""

    borrow: Callable[[], Reader]
    """A reader no other worker uses."""
    give_back: Callable[[Reader], None]
    """Called with a reader that may be used again."""
    report: Callable[[Picture], None]
    """Called with every picture that is held, damaged or of another size."""


def read_chunks(
    request_R: Ints, index: Index, shape: Shape, crew: Crew, *, chunk: int, threads: int
) -> Iterator[Pixels]:
    """Yield the requested pictures as [T, H, W, 3] arrays of at most `chunk`, in request order.

    A non-descending request streams: each frame is decoded once, and besides the chunk handed over
    one chunk and `_AHEAD_BYTES` of pictures (at least `_RUN` per thread) are held. Any other is
    sorted in blocks of `_BLOCK` chunks; each block decodes its frames once.
    """
    descends = bool((np.diff(request_R) < 0).any())
    size = _BLOCK * chunk if descends else max(len(request_R), 1)
    for start in range(0, len(request_R), size):
        block_R = request_R[start : start + size]
        ahead = len(block_R) if descends else chunk + shape.beyond(threads)
        board = _Board(len(block_R), chunk, ahead, shape)
        yield from _fill(board, block_R, index, crew, threads)


def _fill(
    board: _Board, request_R: Ints, index: Index, crew: Crew, threads: int
) -> Iterator[Pixels]:
    order_R = np.argsort(request_R, kind="stable")
    frames_N, first_N = np.unique(request_R[order_R], return_index=True)
    rows = {
        frame: rows_M.tolist()
        for frame, rows_M in zip(frames_N.tolist(), np.split(order_R, first_N[1:]), strict=True)
    }
    runs = _Runs(index, frames_N)
    workers = [
        threading.Thread(
            target=_work, args=(board, runs, rows, crew), name="longtake-decode", daemon=True
        )
        for _ in range(min(threads, len(runs)))
    ]
    board.working = len(workers)
    try:
        for worker in workers:
            worker.start()
        for number in range(board.num_chunks):
            yield board.take(number)
    finally:
        board.stop()
        for worker in workers:
            if worker.ident is not None:
                worker.join()


class _Runs:
    """The distinct frames, cut between GOPs into runs that workers take one after another."""

    def __init__(self, index: Index, frames_N: Ints) -> None:
        start_N = index.start_of(frames_N)
        cuts, last = [0], 0
        for cut in np.flatnonzero(np.diff(start_N)) + 1:
            if cut - last >= _RUN:
                cuts.append(int(cut))
                last = int(cut)
        self._runs = np.split(frames_N, cuts[1:])
        self._next = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._runs)

    def take(self) -> Ints | None:
        """Return the next run, None when all are taken."""
        with self._lock:
            if self._next == len(self._runs):
                return None
            self._next += 1
            return self._runs[self._next - 1]


class _Board:
    """The chunks in flight: workers fill them, the consumer takes them in order."""

    def __init__(self, num_rows: int, chunk: int, ahead: int, shape: Shape) -> None:
        self.num_chunks = -(-num_rows // chunk)
        self.shape = shape
        self.working = 0
        self._num_rows = num_rows
        self._chunk = chunk
        self._ahead = ahead
        self._taken = 0
        self._filling: dict[int, Pixels] = {}
        self._missing: dict[int, int] = {}
        self._error: Exception | None = None
        self._stopped = False
        self._changed = threading.Condition()

    def write(self, row: int, picture_HWC: Pixels) -> bool:
        """Copy a picture to its place, waiting while that is too far ahead of the consumer.

        Return whether the consumer still wants more.
        """
        number = row // self._chunk
        with self._changed:
            while row >= self._taken * self._chunk + self._ahead and not self._stopped:
                self._changed.wait()
            if self._stopped:
                return False
            if number not in self._filling:
                size = min(self._chunk, self._num_rows - number * self._chunk)
                self._filling[number] = np.empty((size, *self.shape.turned, 3), np.uint8)
                self._missing[number] = size
            pixels_THWC = self._filling[number]
        pixels_THWC[row % self._chunk] = picture_HWC
        with self._changed:
            self._missing[number] -= 1
            if not self._missing[number]:
                self._changed.notify_all()
        return True

    def take(self, number: int) -> Pixels:
        """Wait until a chunk is full and return it; raise what stopped the workers otherwise."""
        with self._changed:
            while self._missing.get(number, 1):
                if self._error is not None:
                    raise self._error
                if not self.working:
                    raise RuntimeError("a decoding thread ended early; its traceback is above")
                self._changed.wait()
            self._taken = number + 1
            self._changed.notify_all()
            del self._missing[number]
            return self._filling.pop(number)

    def fail(self, error: Exception) -> None:
        """Pass an error on to the consumer."""
        with self._changed:
            self._error = self._error or error

    def leave(self) -> None:
        """A worker ends."""
        with self._changed:
            self.working -= 1
            self._changed.notify_all()

    def stop(self) -> None:
        """The consumer wants no more; waiting workers end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


def _work(board: _Board, runs: _Runs, rows: dict[int, list[int]], crew: Crew) -> None:
    """Decode runs until none is left."""
    reader: Reader | None = None
    convert = VideoReformatter()
    try:
        reader = crew.borrow()
        while (run_N := runs.take()) is not None:
            for picture in reader.pictures(run_N):
                crew.report(picture)
                picture_HWC = _to_rgb(picture, convert, board.shape)
                if not all(board.write(row, picture_HWC) for row in rows[picture.index]):
                    return
    except (LongtakeError, FFmpegError, OSError, MemoryError) as error:
        board.fail(error if isinstance(error, VideoError) else _explain(error))
    finally:
        if reader is not None:
            crew.give_back(reader)
        board.leave()


def _to_rgb(picture: Picture, convert: VideoReformatter, shape: Shape) -> Pixels:
    """Return [H, W, 3] with FFmpeg's default conversion, to which published results are tied."""
    frame = convert.reformat(
        picture.frame, width=shape.width, height=shape.height, format="rgb24", **_ONE_THREAD
    )
    rgb_HWC: Pixels = np.asarray(frame.to_ndarray(), np.uint8)
    return np.rot90(rgb_HWC, shape.quarter_turns)


def _explain(error: Exception) -> Exception:
    if isinstance(error, (FFmpegError, OSError)):
        return VideoError(f"reading the video failed ({error}); check that it is still there")
    return error
