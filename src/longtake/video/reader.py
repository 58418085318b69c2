"""Exact decoding of chosen frames with one container and one decoder.

For every group of wanted frames the reader goes to the key picture they depend on, checks that it
arrived there, and decodes up to the last wanted frame. Between wanted frames, pictures that no
other picture refers to are skipped, which changes no pixel of the rest. Each packet is handed to
the decoder with its frame number in place of its time, so a picture that comes out names itself.

Letters: N wanted frames.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from longtake.errors import VideoError
from longtake.video.index import Index, Ints
from longtake.video.source import Source, pick_stream, read_packets

_READ_ON = 100  # packets that are read over rather than sought past
_REORDER = 16  # most pictures a decoder may owe (H.264 and HEVC); then an owed one is missing
_NOWHERE = -1


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One wanted frame."""

    index: int
    """Which frame was wanted."""
    frame: VideoFrame
    """What to show; not yet RGB."""
    held: bool
    """The frame cannot be decoded and `frame` is the last good one before it."""

    @property
    def damaged(self) -> bool:
        """The decoder had to conceal errors."""
        return bool(self.frame.is_corrupt)


class Reader:
    """Decodes wanted frames from one source; not to be shared between threads."""

    def __init__(
        self, source: Source, index: Index, container: InputContainer | None = None
    ) -> None:
        """Take over `container` if one is open already, wherever it stands."""
        self._source = source
        self._index = index
        self._waiting: Packet[VideoStream] | None = None
        self._attach(source.open() if container is None else container)
        self._rank = 0 if container is None else _NOWHERE

    def close(self) -> None:
        """Close the container."""
        self._container.close()

    def first(self) -> VideoFrame:
        """Return the first picture that decoding from the start brings out, `pts` its number."""
        self._go_to(0)
        num_packets = len(self._index.frame_P)
        for frame in self._decode(num_packets - 1, range(len(self._index))):
            if frame.pts is not None and frame.pts >= 0:
                return frame
        name, codec = self._source.name, self._codec.name
        raise VideoError(
            f"{name}: none of its {num_packets} {codec} packets can be decoded; convert or fetch it"
            " again"
        )

    def pictures(self, wanted_N: Ints) -> Iterator[Picture]:
        """Yield the wanted frames, which must ascend without repeats.

        A frame that does not come out is tried again from an earlier key picture; if that fails
        too, the last good picture before it is held. Raises VideoError when there is none.
        """
        start_N = self._index.start_of(wanted_N)
        at, back = 0, 0
        while at < len(wanted_N):
            stop = self._reach(wanted_N, start_N, at) if back == 0 else _same(start_N, at)
            key = max(int(start_N[at]) - back, 0)
            done = 0
            for picture in self._pass(wanted_N[at:stop], key, patient=back == 0):
                yield picture
                done += 1
            if not done and key == 0 and back:
                where = self._index.seconds_T[wanted_N[at]]
                message = f"{self._source.name}: nothing can be decoded up to {where:.3f} s"
                raise VideoError(f"{message}; fetch the file again or read a later part")
            at += done
            if at == stop:
                back = 0
            else:
                back = 1 if done else 2 * back + 1

    def _reach(self, wanted_N: Ints, start_N: Ints, at: int) -> int:
        """Return one past the last wanted frame that decoding on from `at` meets without a gap."""
        start_rank_N = self._index.key_K[start_N[at:]]
        done_N = np.maximum.accumulate(self._index.packet_T[wanted_N[at:]])
        gaps = np.flatnonzero(start_rank_N[1:] > done_N[:-1] + 1)
        return at + (int(gaps[0]) + 1 if len(gaps) else len(done_N))

    def _pass(self, wanted_N: Ints, key: int, *, patient: bool) -> Iterator[Picture]:
        """Decode once from a key picture; yield wanted frames in order until one is missing.

        An impatient pass, which is a second try, holds the last good picture for a missing one.
        """
        self._go_to(int(self._index.key_K[key]))
        wanted = wanted_N.tolist()
        chosen = set(wanted)
        needed = chosen if patient else range(wanted[0] - _REORDER, wanted[-1] + 1)
        last = int(self._index.packet_T[wanted_N].max())
        if self._index.mark == "count":
            last += _REORDER  # which packet holds a frame is not known, only about where
        ready: dict[int, VideoFrame] = {}
        good: VideoFrame | None = None
        at = 0
        for frame in self._owed(last, needed, chosen, ready):
            if frame is not None and frame.pts is not None and frame.pts <= wanted[at]:
                good = frame
            while at < len(wanted):
                number = wanted[at]
                if number in ready:
                    good = ready.pop(number)
                    yield Picture(index=number, frame=good, held=False)
                elif frame is not None and len(ready) <= _REORDER:
                    break
                elif patient or good is None:
                    return
                else:
                    yield Picture(index=number, frame=good, held=True)
                at += 1
            if at == len(wanted):
                return

    def _owed(
        self, last: int, needed: Container[int], wanted: set[int], ready: dict[int, VideoFrame]
    ) -> Iterator[VideoFrame | None]:
        """Yield what the decoder brings out, wanted frames also into `ready`; None at the end."""
        for frame in self._decode(last, needed):
            if frame.pts in wanted:
                ready[frame.pts] = frame
            yield frame
        yield None

    def _decode(self, last: int, needed: Container[int]) -> Iterator[VideoFrame]:
        """Decode up to packet `last`; `pts` of what comes out is the number of the frame."""
        for place, frame in enumerate(self._outputs(last, needed)):
            if self._index.mark == "count":
                frame.pts = place  # such a decode always begins with the first packet
            yield frame

    def _outputs(self, last: int, needed: Container[int]) -> Iterator[VideoFrame]:
        """Feed the packets from the present one to `last` and drain the decoder."""
        counting = self._index.mark == "count"
        last = min(last, len(self._index.frame_P) - 1)
        while self._rank <= last:
            rank = self._rank
            packet = self._next()
            if packet is None:
                break
            number = int(self._index.frame_P[rank])
            # The level is read per packet; skipped pictures are never referred to by others.
            self._codec.skip_frame = "DEFAULT" if counting or number in needed else "NONREF"
            packet.pts = number
            yield from self._feed(packet)
        yield from self._feed(None)

    def _feed(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        try:
            return self._codec.decode(packet)
        except FFmpegError:
            return []  # what is missing shows when the frames are collected

    def _go_to(self, rank: int) -> None:
        """Make packet `rank` the next one and the decoder empty."""
        if self._rank == _NOWHERE or not 0 <= rank - self._rank <= _READ_ON:
            self._seek(rank)
        while self._rank < rank and self._next() is not None:
            pass
        self._codec.flush_buffers()

    def _seek(self, rank: int) -> None:
        """Go to a key packet at or before `rank`, stepping back when a seek lands too late."""
        index = self._index
        key = int(np.searchsorted(index.key_K, rank, side="right")) - 1
        step = 1
        while key >= 0 and index.mark != "count":
            arrived = self._try_seek(int(index.mark_P[index.key_K[key]]))
            if _NOWHERE < arrived <= rank:
                return
            key, step = key - step, 2 * step
        # A fresh container stands at the first packet, whatever the format can do.
        self._container.close()
        self._attach(self._source.open())
        self._rank = 0

    def _try_seek(self, mark: int) -> int:
        """Seek and return which key packet comes next, `_NOWHERE` if that cannot be told."""
        index = self._index
        by_byte = index.mark == "byte"
        try:
            self._container.seek(mark, stream=self._stream, unsupported_byte_offset=by_byte)
        except FFmpegError:
            return _NOWHERE
        self._packets = read_packets(self._container, self._stream)
        self._waiting = None
        self._rank = _NOWHERE
        key_marks_K = index.mark_P[index.key_K]
        for packet in self._packets:
            if packet.is_keyframe:
                # A frame cut in two by the seek may look like a key picture, with another mark.
                found = np.flatnonzero(key_marks_K == (packet.pos if by_byte else packet.pts))
                if len(found) == 1:
                    self._waiting = packet
                    self._rank = int(index.key_K[found[0]])
                    break
        return self._rank

    def _next(self) -> Packet[VideoStream] | None:
        self._rank += 1
        if self._waiting is None:
            return next(self._packets, None)
        packet, self._waiting = self._waiting, None
        return packet

    def _attach(self, container: InputContainer) -> None:
        self._container = container
        self._stream = pick_stream(container, self._source.name)
        self._codec = self._stream.codec_context
        self._codec.thread_count = 1
        try:
            # Now, while nothing is skipped: dav1d keeps the skip level it is opened with.
            self._codec.open(strict=False)
        except FFmpegError as problem:
            message = f"{self._source.name}: no decoder for {self._codec.name} ({problem})"
            raise VideoError(f"{message}; convert the video to H.264") from problem
        self._packets = read_packets(container, self._stream)
        # Encoders sign only their first packet, and FFmpeg decodes some of them differently (x264
        # before build 151 in 4:4:4, DivX, Xvid): every decoder has to see it once.
        self._waiting = next(self._packets, None)
        if self._waiting is not None:
            self._feed(self._waiting)


def _same(start_N: Ints, at: int) -> int:
    """Return one past the last wanted frame that starts where frame `at` does."""
    return int(np.searchsorted(start_N, start_N[at], side="right"))


def decoded(index: Index, wanted_N: Ints) -> int:
    """Pictures that must be decoded for frames that do not descend, as `Reader` goes about it."""
    if not len(wanted_N):
        return 0
    start_N = index.key_K[index.start_of(wanted_N)]
    packet_N = np.maximum.accumulate(index.packet_T[wanted_N])
    done_N = np.concatenate([[-1], packet_N[:-1]])
    return int(np.maximum(0, packet_N - np.maximum(done_N, start_N - 1)).sum())
