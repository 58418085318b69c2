"""Which frames of which videos make up a haystack, for all lengths of a grid.

A unit is what can stand alone: a frame, a clip where a tower sees clips, or a frame's equal share
of a clip's tokens. The tower sees each clip of the union of all lengths once; a length is a choice
of rows among the units that came out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Tensor

from longtake.errors import OptionError
from longtake.evaluate.needle_rules import Rule
from longtake.reader import CHUNK
from longtake.types import Frames
from longtake.video.decode import Video
from longtake.video.inputs import Held, Source, opened_source
from longtake.video.sample import every_second, uniform


@dataclass(frozen=True, kw_only=True)
class Films:
    """Opened videos, one after another: their frames are counted through."""

    videos: tuple[Video | Held, ...]

    @property
    def frames(self) -> int:
        """Of all videos."""
        return sum(video.frames for video in self.videos)

    @property
    def duration(self) -> float:
        """Seconds of all videos."""
        return sum(video.duration for video in self.videos)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the first."""
        first = self.videos[0]
        if isinstance(first, Video):
            return first.width, first.height
        height, width = first.held.pixels_TCHW.shape[-2:]
        return int(width), int(height)

    def every_second(self) -> list[int]:
        """About one frame a second of each video (V-NIAH)."""
        starts, chosen = self._starts(), []
        for start, video in zip(starts, self.videos, strict=False):
            chosen += [start + index for index in every_second(video.frames, video.fps)]
        return chosen

    def read(self, indices: Sequence[int]) -> Iterator[Frames]:
        """Frames by number, timed from the first video's beginning; in order within each video."""
        later = 0.0
        for (start, stop), video in zip(pairwise(self._starts()), self.videos, strict=True):
            mine = [index - start for index in indices if start <= index < stop]
            for frames in video.read(mine, chunk=CHUNK):
                yield replace(frames, seconds_T=frames.seconds_T + later)
            later += video.duration

    def _starts(self) -> list[int]:
        starts = [0]
        for video in self.videos:
            starts.append(starts[-1] + video.frames)
        return starts


def open_films(sources: Sequence[Source], stack: ExitStack) -> Films:
    """Open videos until the stack unwinds. Raises VideoError, OptionError for a still picture."""
    videos = []
    for source in sources:
        opened = stack.enter_context(opened_source(source))
        if isinstance(opened, Tensor):
            raise OptionError(f"{source!s:.80} is a still picture; a haystack is a video")
        videos.append(opened)
    return Films(videos=tuple(videos))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is seen, and which of it makes up each length."""

    clips: tuple[tuple[int, ...], ...]
    """Frames of each clip; of one frame each where a tower sees single frames."""
    rows: dict[int, list[int]]
    """Units of each length, by the number of frames asked for."""
    units: int
    """How many units that is, before they are copied."""
    copies: int = 1
    """All of it follows itself so many times."""
    whole: int
    """Units there are where lengths are the first of them, for a depth above 1."""


def plan_of(rule: Rule, span: int, films: Films, lengths: Sequence[int], reach: int = 0) -> Plan:
    """Frames and rows for each length. `span`: frames of a clip of the tower.

    `reach`: see so many frames where lengths are the first of them, even if no length is as long
    (V-NIAH's last length need not be on its grid; a depth above 1 reaches there). Raises
    OptionError if the videos are too short.
    """
    longest, copies = max(lengths), 1
    if rule.frames == "second":
        assert rule.single, "rules of this kind count in frames"
        whole = longest = max(longest, reach)
        there = films.every_second()
        if rule.doubled_above is not None and whole > rule.doubled_above:
            # the original goes on for two batches of 8 frames before it stops, then doubles
            copies, longest = 2, 8 * (-(-(whole // 2) // 8) + 2)
        require_frames(copies * min(len(there), longest), whole, "at one a second")
        clips = in_clips(there[:longest], span)
        rows = {n: list(range(n)) for n in lengths}
        units = min(len(there), longest)
        return Plan(clips=clips, rows=rows, units=units, copies=copies, whole=whole)
    require_frames(films.frames, longest, "in all")
    if rule.frames == "even":
        most = -(-longest // span)
        clips = in_clips(uniform(films.frames, min(most * span, films.frames)), span)
        rows = {n: uniform(len(clips), -(-n // span)) for n in lengths}
        return Plan(clips=clips, rows=rows, units=len(clips), whole=len(clips))
    seen: dict[tuple[int, ...], int] = {}
    rows = {}
    for n in lengths:
        mine = [seen.setdefault(c, len(seen)) for c in in_clips(uniform(films.frames, n), span)]
        each = span if rule.single else 1
        rows[n] = [clip * each + part for clip in mine for part in range(each)]
        rows[n] = rows[n][: n if rule.single else len(mine)]
    return in_order(seen, rows, span if rule.single else 1)


def in_order(seen: dict[tuple[int, ...], int], rows: dict[int, list[int]], each: int) -> Plan:
    """A plan whose clips come in the order of their frames, so that decoding only goes forward."""
    order = sorted(seen)
    place = {seen[clip]: number for number, clip in enumerate(order)}
    moved = {
        n: [place[row // each] * each + row % each for row in mine] for n, mine in rows.items()
    }
    units = len(order) * each
    return Plan(clips=tuple(order), rows=moved, units=units, whole=units)


def require_frames(there: int, wanted: int, how: str) -> None:
    """Raise OptionError unless there are enough."""
    if there < wanted:
        raise OptionError(
            f"the haystack has {there} frames {how}, {wanted} are asked for; give longer or more "
            "videos, or fewer frames"
        )


def in_clips(frames: Sequence[int], span: int) -> tuple[tuple[int, ...], ...]:
    """Frames in groups; the last is filled up with its last frame."""
    groups = [tuple(frames[n : n + span]) for n in range(0, len(frames), span)]
    return tuple(group + group[-1:] * (span - len(group)) for group in groups)
