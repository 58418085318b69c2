"""Videos: opened once, read exactly, at any frames or times, in bounded memory.

    with open_video("film.mp4") as video:
        for frames in video.read(seconds=[0.0, 12.5, 60.0]):
            frames.pixels_TCHW, frames.seconds_T

Frame numbers and times are those of the pictures a player shows, taken from the packets themselves.

Letters: T frames, C channels, H W pixels, R requested frames.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from longtake.errors import OptionError, VideoError
from longtake.types import Frames
from longtake.video.damage import Health, breaks_off, without_lost_start, without_torn_end
from longtake.video.index import Index, Ints, build_index, scan
from longtake.video.pipeline import Crew, Shape, read_chunks
from longtake.video.reader import Reader, decoded
from longtake.video.source import LIMIT_BYTES, Source, View, find_source, pick_stream

_SLACK_SECONDS = 1e-9  # a time computed as number / rate may fall short of the frame by rounding


class Video:
    """An opened video; make one with `open_video`, `close` it or use it in a `with` statement."""

    def __init__(
        self, source: Source, index: Index, shape: Shape, codec: str, warnings: tuple[str, ...]
    ) -> None:
        self.name: str = source.name
        """File name without its folder."""
        self.codec: str = codec
        """Name of the decoder, such as "h264"."""
        self.frames: int = len(index)
        """Number of frames shown."""
        self.height, self.width = shape.turned
        """Pixels, after rotation."""
        self.rotation: int = 90 * shape.quarter_turns
        """Degrees counter-clockwise that were applied to upright the pictures."""
        self.duration: float = index.duration
        """Seconds from the first frame until the last leaves the screen; 0 for a still picture."""
        self.fps: float = index.fps
        """True average frame rate; 0 for a still picture."""
        self.variable_rate: bool = index.variable_rate
        """Whether number / fps is wrong by half a frame or more somewhere."""
        self.start_seconds: float = index.start_seconds
        """Time of the first frame on the container's own clock."""
        self.seconds_T: Tensor = torch.from_numpy(index.seconds_T)
        """Presentation time of every frame from the first one, float64."""
        self._source = source
        self._index = index
        self._shape = shape
        self._health = Health(shape.width, shape.height)
        self._warnings = warnings
        self._readers: list[Reader] = []
        self._lock = threading.Lock()
        self._closed = False

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know, one line each; reading may add lines about damaged frames."""
        return self._warnings + self._health.lines()

    def __repr__(self) -> str:
        return (
            f"Video({self.name}: {self.frames} frames of {self.width}x{self.height}, "
            f"{self.duration:.2f} s at {self.fps:.2f} fps, {self.codec})"
        )

    def index_at(self, seconds: float) -> int:
        """Return the frame on screen at a time: the last one shown by then; clamped to the video.

        Raises VideoError if `seconds` is not a finite number.
        """
        return int(self._at(np.asarray([seconds], np.float64))[0])

    def read(
        self,
        indices: Sequence[int] | None = None,
        *,
        seconds: Sequence[float] | None = None,
        chunk: int = 16,
        threads: int = 2,
    ) -> Iterator[Frames]:
        """Yield frames in the order asked for, in chunks: [chunk, 3, H, W] uint8, the last shorter.

        Frames are named by number or by time (the frame on screen then); by default all are read.
        Order is free and repeats are allowed. A request that never descends streams: each frame is
        decoded once, and besides the chunk handed over one chunk and 32 MiB of pictures (at least
        two per thread) are held. Any other is sorted in blocks of four chunks; a frame is decoded
        once per block that wants it. `threads` decoders work side by side on different GOPs.

        Raises VideoError for a frame the video does not have, OptionError for a wrong option.
        """
        if self._closed:
            raise VideoError(f"{self.name}: is closed; open it again to read from it")
        if indices is not None and seconds is not None:
            raise OptionError("read takes either indices or seconds, got both; leave one out")
        if chunk < 1 or threads < 1:
            raise OptionError(f"chunk and threads must be 1 or more, got {chunk} and {threads}")
        if seconds is not None:
            request_R = self._at(np.asarray(seconds, np.float64).reshape(-1))
        elif indices is not None:
            request_R = self._checked(np.asarray(indices).reshape(-1))
        else:
            request_R = np.arange(self.frames, dtype=np.int64)
        return self._frames(request_R, chunk, threads)

    def raw(self) -> BinaryIO | View:
        """Return the bytes of the file itself, from the first one; close it."""
        return self._source.raw()

    def decoded(self, indices: Sequence[int]) -> int:
        """How many pictures must be decoded to read these frames, which must not descend.

        Raises VideoError for a frame the video does not have.
        """
        return decoded(self._index, self._checked(np.asarray(indices).reshape(-1)))

    def close(self) -> None:
        """Close what is open; a second call does nothing."""
        with self._lock:
            self._closed = True
            readers, self._readers = self._readers, []
        for reader in readers:
            reader.close()
        self._source.close()

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _frames(self, request_R: Ints, chunk: int, threads: int) -> Iterator[Frames]:
        crew = Crew(borrow=self._borrow, give_back=self._give_back, report=self._health.report)
        done = 0
        for pixels_THWC in read_chunks(
            request_R, self._index, self._shape, crew, chunk=chunk, threads=threads
        ):
            index_T = torch.from_numpy(request_R[done : done + len(pixels_THWC)])
            done += len(pixels_THWC)
            yield Frames(
                pixels_TCHW=torch.from_numpy(pixels_THWC).permute(0, 3, 1, 2),
                seconds_T=self.seconds_T[index_T],
                index_T=index_T,
            )

    def _at(self, seconds_R: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Ints:
        if not np.isfinite(seconds_R).all():
            raise VideoError(f"{self.name}: expected times in seconds, got nan or infinity")
        after_R = np.searchsorted(self._index.seconds_T, seconds_R + _SLACK_SECONDS, side="right")
        return np.clip(after_R - 1, 0, None).astype(np.int64)

    def _checked(self, request_R: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Ints:
        if not len(request_R):
            return np.zeros(0, np.int64)
        if not np.issubdtype(request_R.dtype, np.integer):
            raise VideoError(f"{self.name}: frame numbers must be whole, got {request_R.dtype}")
        whole_R = request_R.astype(np.int64)
        outside_R = whole_R[(whole_R < 0) | (whole_R >= self.frames)]
        if len(outside_R):
            raise VideoError(
                f"{self.name}: has no frame {outside_R[0]}; it has {self.frames}, "
                f"so use 0 to {self.frames - 1}"
            )
        return whole_R

    def _borrow(self) -> Reader:
        with self._lock:
            if self._readers:
                return self._readers.pop()
        return Reader(self._source, self._index)

    def _give_back(self, reader: Reader) -> None:
        with self._lock:
            if not self._closed:
                self._readers.append(reader)
                return
        reader.close()


def open_video(
    source: str | os.PathLike[str] | BinaryIO, *, limit_bytes: int = LIMIT_BYTES
) -> Video:
    """Open a path, an http(s) address or a binary file object; reads all packets, decodes one.

    An address or a pipe is first copied to a temporary file of at most `limit_bytes`.
    Raises VideoError with one line when there is no video to read; a file that breaks off opens
    with what is there and says so in `warnings`.
    """
    with ExitStack() as on_error:
        place = find_source(source, limit_bytes=limit_bytes)
        on_error.callback(place.close)
        container = place.open()
        on_error.callback(container.close)
        stream = pick_stream(container, place.name)
        codec = stream.codec_context.codec.canonical_name
        packets = scan(place, container, stream)
        num_shown = int(packets.shown_P.sum())
        if not num_shown:
            raise VideoError(f"{place.name}: its video stream holds no frames; fetch it again")
        index = build_index(packets)
        reader = Reader(place, index, container)
        on_error.callback(reader.close)
        first = reader.first()
        packets = without_lost_start(packets, index, first.pts or 0)
        packets = without_torn_end(packets, index, reader)
        if not packets.shown_P.any():
            raise VideoError(f"{place.name}: none of its frames can be decoded; fetch it again")
        line = breaks_off(packets, num_shown - (first.pts or 0))
        shape = Shape(
            width=first.width, height=first.height, quarter_turns=round(first.rotation / 90) % 4
        )
        reader.close()
        video = Video(place, build_index(packets), shape, codec, _lines(line))
        on_error.pop_all()
    return video


def _lines(*lines: str) -> tuple[str, ...]:
    return tuple(line for line in lines if line)
