"""What is wrong with a video, in words: a file that breaks off, frames that are lost.

A file that breaks off names frames it does not hold. The ones at its end are tried and left out of
the table; how much of the stated duration is there becomes one line.
"""

from __future__ import annotations

import dataclasses
import threading

import numpy as np

from longtake.errors import VideoError
from longtake.video.index import Index, Packets, build_index
from longtake.video.reader import Picture, Reader

_TAIL = 4  # packets at the end that are tried when the end looks torn
_SHORT_SECONDS = 0.1  # less is rounding, or a last frame of unknown length


class Health:
    """Collects frames that were not what they should be; several threads may report."""

    def __init__(self, width: int, height: int) -> None:
        self._size = width, height
        self._lock = threading.Lock()
        self._held: set[int] = set()
        self._damaged: set[int] = set()
        self._scaled: set[int] = set()

    def report(self, picture: Picture) -> None:
        """Note a picture if something is wrong with it."""
        scaled = (picture.frame.width, picture.frame.height) != self._size
        if picture.held or picture.damaged or scaled:
            with self._lock:
                for ill, group in (
                    (picture.held, self._held),
                    (picture.damaged and not picture.held, self._damaged),
                    (scaled, self._scaled),
                ):
                    if ill:
                        group.add(picture.index)

    def lines(self) -> tuple[str, ...]:
        """One line per kind of trouble met so far."""
        width, height = self._size
        with self._lock:
            told = (
                ("frames that cannot be decoded", self._held, "the last good picture stands in"),
                ("damaged frames", self._damaged, "shown as far as they could be decoded"),
                ("frames of another size", self._scaled, f"scaled to {width}x{height}"),
            )
            return tuple(f"{what} so far: {len(ill)}; {done}" for what, ill, done in told if ill)


def without_torn_end(packets: Packets, index: Index, reader: Reader) -> Packets:
    """Hide the last packets that do not decode cleanly, if the end may be incomplete.

    Only tried where something says so, since it costs decoding the last GOP: an incomplete last
    packet, or a transport stream, which cannot tell whether its last picture is whole.
    """
    if not (packets.torn or packets.mark == "byte"):
        return packets
    ranks_N = np.flatnonzero(packets.shown_P)[-_TAIL:]
    frames_N = np.sort(index.frame_P[ranks_N].astype(np.int64))
    shown_P = packets.shown_P.copy()
    try:
        for picture in reader.pictures(frames_N[frames_N >= 0]):
            if picture.held or picture.damaged:
                shown_P[index.packet_T[picture.index]] = False
    except VideoError:  # nothing before them decodes either
        shown_P[ranks_N] = False
    return dataclasses.replace(packets, shown_P=shown_P)


def without_lost_start(packets: Packets, index: Index, first: int) -> Packets:
    """Hide the frames before the first one that decodes (a recording that starts inside a GOP)."""
    if first == 0:
        return packets
    shown_P = packets.shown_P.copy()
    shown_P[index.packet_T[:first]] = False
    return dataclasses.replace(packets, shown_P=shown_P)


def breaks_off(packets: Packets, num_shown: int) -> str:
    """Return the line that says the file breaks off, or nothing; it named `num_shown` frames."""
    index = build_index(packets)
    if not packets.torn and len(index) == num_shown:
        return ""
    # Some formats state the end on their clock, some the length.
    there = max(index.duration, index.start_seconds + index.duration)
    stated = packets.stated_seconds
    if stated - there < _SHORT_SECONDS:
        return f"the file breaks off after {there:.1f} s; what comes before was read"
    return f"the file breaks off: {there:.1f} s of the stated {stated:.1f} s could be read"
