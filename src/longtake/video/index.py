"""The table of a video: when each frame is shown, which packet holds it, where decoding may start.

It comes from reading every packet once without decoding; headers are never believed. Timestamps
that jump (joined transport streams) are joined up, packets that an edit list hides are left out.

Letters: T frames in display order, P packets in decode order, K packets where decoding may start.
"""

from __future__ import annotations

import contextlib
from array import array
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Literal

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from longtake.video.extent import is_cut
from longtake.video.source import Source, read_packets

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NO_TIME = -(2**63)
"""A packet without a timestamp, as FFmpeg writes it."""

_AV_TIME_BASE = 1_000_000  # ticks per second of a container's own times
_TS_DISCONT, _NO_BYTE_SEEK = 0x200, 0x8000  # flags of an FFmpeg format
_JUMP_SECONDS = 10.0  # as FFmpeg's own tools: a longer step in a transport stream is a new clock
_IDLE_RATE = Fraction(25)  # for streams that state neither times nor a rate


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Packets:
    """What one pass over the packets of a stream found."""

    pts_P: Ints
    """Presentation times in ticks, `NO_TIME` where the packet has none."""
    dts_P: Ints
    """Decoding times in ticks, likewise."""
    position_P: Ints
    """First byte in the file, -1 where unknown."""
    duration_P: Ints
    """Ticks on screen, 0 where unknown."""
    key_P: NDArray[np.bool_]
    """Decoding may start here."""
    shown_P: NDArray[np.bool_]
    """The packet's picture reaches the screen."""
    time_base: Fraction
    """Seconds per tick."""
    rate: Fraction
    """Frames per second the headers state; only used where there are no times."""
    mark: Literal["pts", "byte", "count"]
    """How a packet is recognised after a seek: by time, by position, or only by counting."""
    stated_seconds: float
    """Duration the headers state, 0 if none; only used to tell whether something is missing."""
    still: bool
    """A picture file, not a video."""
    torn: bool
    """The last packet is incomplete, or the file is shorter than its own sizes say."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Index:
    """The frames of a video in display order and how to reach each of them."""

    pts_T: Ints
    """Times in ticks, ascending, clock jumps joined up."""
    packet_T: Ints
    """The packet holding each frame."""
    frame_P: NDArray[np.int32]
    """The frame each packet holds, -1 for none."""
    mark_P: Ints
    """What identifies each packet after a seek; see `Packets.mark`."""
    mark: Literal["pts", "byte", "count"]
    key_K: Ints
    """Packets where decoding may start; the first is packet 0."""
    key_pts_K: Ints
    """Times of the pictures in `key_K`, made non-decreasing."""
    time_base: Fraction
    """Seconds per tick."""
    last_ticks: int
    """How long the last frame is shown."""

    def __len__(self) -> int:
        return len(self.pts_T)

    @cached_property
    def seconds_T(self) -> Floats:
        """Presentation times relative to the first frame."""
        ticks_T = (self.pts_T - self.pts_T[0]) * self.time_base.numerator
        return np.asarray(ticks_T / self.time_base.denominator, dtype=np.float64)

    @property
    def start_seconds(self) -> float:
        """Time of the first frame on the container's clock."""
        return float(int(self.pts_T[0]) * self.time_base)

    @property
    def duration(self) -> float:
        """Seconds from the first frame until the last one leaves the screen."""
        return float((int(self.pts_T[-1] - self.pts_T[0]) + self.last_ticks) * self.time_base)

    @property
    def fps(self) -> float:
        """True average frame rate: intervals over the time they take."""
        span = int(self.pts_T[-1] - self.pts_T[0])
        if span == 0:
            return float(1 / (self.last_ticks * self.time_base)) if self.last_ticks else 0.0
        return float((len(self) - 1) / (span * self.time_base))

    @property
    def variable_rate(self) -> bool:
        """Whether frame number over average rate misplaces a frame by half an interval or more."""
        if len(self) < 3:
            return False
        even_T = np.linspace(0.0, self.seconds_T[-1], len(self))
        return bool(np.abs(self.seconds_T - even_T).max() * self.fps >= 0.5)

    def start_of(self, frames_N: Ints) -> Ints:
        """Return where in `key_K` decoding must start for ascending frames, [N] -> [N] ascending.

        A frame shown before a key picture but stored after it (open GOP) may refer to the GOP
        before, so both the time and the place of the key picture must not be later.
        """
        by_time_N = np.searchsorted(self.key_pts_K, self.pts_T[frames_N], side="right")
        by_place_N = np.searchsorted(self.key_K, self.packet_T[frames_N], side="right")
        key_N = np.maximum(np.minimum(by_time_N, by_place_N) - 1, 0)
        return np.asarray(np.minimum.accumulate(key_N[::-1])[::-1], dtype=np.int64)


def scan(source: Source, container: InputContainer, stream: VideoStream) -> Packets:
    """Read every packet once, from the present position, without decoding."""
    columns = [array("q") for _ in range(4)]
    keys, shown, corrupt = bytearray(), bytearray(), False
    add_pts, add_dts, add_position, add_duration = (column.append for column in columns)
    vp8 = stream.codec_context.name == "vp8"
    for packet in read_packets(container, stream):
        pts, dts, position = packet.pts, packet.dts, packet.pos
        add_pts(NO_TIME if pts is None else pts)
        add_dts(NO_TIME if dts is None else dts)
        add_position(-1 if position is None else position)
        add_duration(packet.duration or 0)
        keys.append(packet.is_keyframe)
        # A discarded packet lies outside what an edit list shows.
        shown.append(not packet.is_discard and not (vp8 and _unseen(packet)))
        corrupt = packet.is_corrupt
    pts_P, dts_P, position_P, duration_P = (np.array(column, np.int64) for column in columns)
    shown_P = np.frombuffer(bytes(shown), np.bool_)
    rate = stream.average_rate or stream.base_rate or _IDLE_RATE
    return Packets(
        pts_P=pts_P,
        dts_P=dts_P,
        position_P=position_P,
        duration_P=duration_P,
        key_P=np.frombuffer(bytes(keys), np.bool_),
        shown_P=shown_P,
        time_base=stream.time_base or 1 / rate,
        rate=rate,
        mark=_choose_mark(container, stream, pts_P[shown_P], position_P),
        stated_seconds=_stated_seconds(container),
        still=container.format.name == "image2" or container.format.name.endswith("_pipe"),
        torn=corrupt or _is_cut(source, container),
    )


def build_index(packets: Packets) -> Index:
    """Order the shown packets by time; at least one must be shown."""
    if packets.mark == "count":
        return _count_index(packets)
    pts_P = packets.pts_P
    if packets.mark == "byte":
        pts_P = _join_clocks(packets)
    shown_P = packets.shown_P & (packets.pts_P != NO_TIME)
    packet_T = np.flatnonzero(shown_P)
    packet_T = packet_T[np.argsort(pts_P[packet_T], kind="stable")]
    key_K = np.flatnonzero(packets.key_P & (packets.pts_P != NO_TIME))
    key_pts_K = pts_P[key_K]
    if not len(key_K) or key_K[0] > 0:
        # Decoding may always start at the beginning.
        key_K = np.concatenate([[0], key_K])
        key_pts_K = np.concatenate([[pts_P[packet_T[0]]], key_pts_K])
    return Index(
        pts_T=pts_P[packet_T],
        packet_T=packet_T,
        frame_P=_inverse(packet_T, len(pts_P)),
        mark_P=packets.position_P if packets.mark == "byte" else packets.pts_P,
        mark=packets.mark,
        key_K=key_K,
        key_pts_K=np.maximum.accumulate(key_pts_K),
        time_base=packets.time_base,
        last_ticks=_last_ticks(packets, pts_P[packet_T], packet_T),
    )


def _count_index(packets: Packets) -> Index:
    """Number the packets: without times a frame is known only by counting from the first."""
    packet_T = np.flatnonzero(packets.shown_P)
    ticks_T = np.arange(len(packet_T), dtype=np.int64)
    return Index(
        pts_T=ticks_T,
        packet_T=packet_T,
        frame_P=_inverse(packet_T, len(packets.pts_P)),
        mark_P=packets.pts_P,
        mark="count",
        key_K=np.zeros(1, np.int64),
        key_pts_K=np.zeros(1, np.int64),
        time_base=1 / packets.rate,
        last_ticks=0 if packets.still else 1,
    )


def _choose_mark(
    container: InputContainer, stream: VideoStream, shown_pts_N: Ints, position_P: Ints
) -> Literal["pts", "byte", "count"]:
    # AVI stores no presentation times; what the demuxer makes up is wrong for B-frames.
    guessed = container.format.name == "avi" and stream.codec_context.has_b_frames
    # A few missing times are damage (those frames are left out), many mean there are none.
    if guessed or np.mean(shown_pts_N == NO_TIME) > 0.01:
        return "count"
    flags = int(container.format.flags)
    placed = len(position_P) and position_P[0] >= 0 and (np.diff(position_P) > 0).all()
    if flags & _TS_DISCONT and not flags & _NO_BYTE_SEEK and placed:
        return "byte"
    return "pts"


def _join_clocks(packets: Packets) -> Ints:
    """Return times without the jumps a transport stream may make, each piece after the one before.

    A piece ends where the decoding time steps back or leaps ahead.
    """
    pts_P, dts_P = packets.pts_P.copy(), packets.dts_P
    timed_M = np.flatnonzero((dts_P != NO_TIME) & (pts_P != NO_TIME))
    step_M = np.diff(dts_P[timed_M])
    leap = int(_JUMP_SECONDS / packets.time_base)
    cuts = timed_M[1:][(step_M < 0) | (step_M > leap)]
    if not len(cuts):
        return pts_P
    usual = max(int(np.median(step_M)), 1)
    end: int | None = None
    for start, stop in zip([0, *cuts], [*cuts, len(pts_P)], strict=True):
        piece = pts_P[start:stop]
        timed = piece != NO_TIME
        if end is not None and timed.any():
            piece[timed] += end + usual - piece[timed].min()
        if timed.any():
            end = int(piece[timed].max())
    return pts_P


def _inverse(packet_T: Ints, num_packets: int) -> NDArray[np.int32]:
    frame_P = np.full(num_packets, -1, np.int32)
    frame_P[packet_T] = np.arange(len(packet_T), dtype=np.int32)
    return frame_P


def _last_ticks(packets: Packets, pts_T: Ints, packet_T: Ints) -> int:
    """How long the last frame stays: as stored, else as long as frames usually do."""
    if packets.still:
        return 0
    stored = int(packets.duration_P[packet_T[-1]])
    if stored > 0:
        return stored
    if len(pts_T) > 1:
        return int(np.median(np.diff(pts_T)))
    return round(1 / (packets.rate * packets.time_base))


def _stated_seconds(container: InputContainer) -> float:
    # What FFmpeg reports for a transport stream is measured, not stated.
    if int(container.format.flags) & _TS_DISCONT:
        return 0.0
    return (container.duration or 0) / _AV_TIME_BASE


def _is_cut(source: Source, container: InputContainer) -> bool:
    with contextlib.closing(source.raw()) as file:
        return is_cut(file, transport=container.format.name == "mpegts")


def _unseen(packet: Packet[VideoStream]) -> bool:
    """Whether a VP8 packet only updates references (RFC 6386 section 9.1: the show_frame bit)."""
    return not memoryview(packet)[0] & 0x10
