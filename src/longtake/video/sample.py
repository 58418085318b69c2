"""Published rules that choose which frames are seen; arithmetic only, no video is opened here.

Floats are doubles, used in the order of the originals: every truncation falls the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from longtake.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Footage:
    """What a rule may know of a video, or of the part of it that is to be watched."""

    frames: int
    """Frames of the part."""
    fps: float
    """Average frame rate; 0 where nothing moves."""
    first: int = 0
    """Index of the part's first frame in the video."""
    asked_seconds: float | None = None
    """How long the part is said to be; None for a whole video."""

    @property
    def seconds(self) -> float:
        """How long it lasts, as the originals reckon: frames over rate."""
        return self.asked_seconds if self.asked_seconds is not None else self.reckoned_seconds

    @property
    def reckoned_seconds(self) -> float:
        """Frames over rate, also of a part."""
        return self.frames / self.fps if self.fps > 0.0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What was shown of a source."""

    frames: int
    """Frames sampled; 1 of a still image."""
    seconds: float | None
    """How long the video, or the part of it, is said to last; None for a still image."""
    times: tuple[float, ...] = ()
    """When each frame is said to be shown, as the originals reckon: index over rate, in seconds."""

    @classmethod
    def of(cls, footage: Footage, indices: Sequence[int]) -> Shown:
        """Of frames of a video at these indices."""
        times = tuple(index / footage.fps for index in indices) if footage.fps > 0.0 else ()
        return cls(frames=len(indices), seconds=footage.seconds, times=times)


Sampler = Callable[[Footage, int], Sequence[int]]
"""(what there is, frames wanted) -> indices into the video, in order."""

PART_END = 0.1
"""Seconds before the end of a video where a part of it must end (VideoChat-Flash)."""


def check_times(start: float | None, end: float | None) -> None:
    """Raise OptionError for what bounds no part of any video."""
    for name, value in (("start", start), ("end", end)):
        if value is not None and not math.isfinite(value):
            raise OptionError(f"{name} must be a time in seconds, got {value}")
    begins = max(start or 0.0, 0.0)
    if end is not None and end <= begins:
        raise OptionError(
            f"no frame lies between {begins:g} s and {end:g} s; choose another start or end"
        )


def part_of(whole: Footage, start: float | None, end: float | None) -> Footage:
    """The part of a video between two times in seconds; None is its beginning, or its end.

    VideoChat-Flash's rule: times are turned into frames by the average rate, truncated. Raises
    OptionError if no frame lies between.
    """
    if start is None and end is None:
        return whole
    check_times(start, end)
    begins = max(0.0 if start is None else start, 0)
    ends = min(whole.seconds - PART_END, math.inf if end is None else end)
    frames = int((ends - begins) * whole.fps)
    if frames < 1:
        raise OptionError(
            f"no frame lies between {begins:g} s and {ends:g} s of a video of "
            f"{whole.seconds:.2f} s; choose another start or end"
        )
    return Footage(
        frames=frames,
        fps=whole.fps,
        first=int(begins * whole.fps),
        asked_seconds=ends - begins,
    )


def evenly(footage: Footage, num: int) -> list[int]:
    """`uniform` over what there is."""
    return [footage.first + index for index in uniform(footage.frames, num)]


@dataclass(frozen=True)
class PerSecond:
    """About one frame a second in groups, each from the middle of its share (VideoChat-Flash).

    At least `least` frames where the video has as many, at most those wanted. Fewer frames than a
    group are filled up by repeating the last.
    """

    group: int = 8
    """Their number is a multiple of it, unless those wanted are not. Training used 4."""
    least: int = 64

    def __call__(self, footage: Footage, num: int) -> list[int]:
        """Indices in order. Raises OptionError if either number is below 1."""
        _at_least_one("frames", footage.frames)
        _at_least_one("num", num)
        whole_groups = footage.frames // self.group * self.group
        least = min(self.least, num)  # the original overrides whoever wants fewer
        least = whole_groups if least > footage.frames else least
        seconds = footage.reckoned_seconds
        count = max(least, min(num, max(1, int(seconds // self.group)) * self.group))
        taken = min(count, footage.frames)
        step = footage.frames / taken
        bounds = [int(i * step) for i in range(taken)] + [footage.frames]
        chosen = [footage.first + (low + high - 1) // 2 for low, high in pairwise(bounds)]
        return chosen + chosen[-1:] * (count - taken)


def uniform(total: int, num: int) -> list[int]:
    """Spread exactly `num` indices over `total` frames, first and last included; one index is 0.

    LongVA's and Video-XL's demos and evaluations: a linspace in floats, truncated.
    Repeats frames when `num` exceeds `total`. Raises OptionError if either is below 1.
    """
    _at_least_one("total", total)
    _at_least_one("num", num)
    if num == 1:
        return [0]
    step = (total - 1) / (num - 1)
    # linspace sets its last value instead of computing it, where rounding could fall one short
    return [int(i * step) for i in range(num - 1)] + [total - 1]


def every_second(total: int, fps: float) -> list[int]:
    """Take about one frame per second: every `round(fps)`-th, half to even (V-NIAH haystacks).

    Raises OptionError if `total` is below 1 or `fps` is not a positive number.
    """
    return at_rate(total, fps, per_second=1.0)


def at_rate(total: int, fps: float, *, per_second: float, at_most: int = 0) -> list[int]:
    """Take every `round(fps / per_second)`-th frame, or `at_most` uniform ones if those are more.

    LongVA's training loader; `at_most` 0 means no bound. Raises OptionError if `total` is below 1,
    `at_most` is negative, or a rate is not a positive number.
    """
    _at_least_one("total", total)
    for name, rate in (("fps", fps), ("per_second", per_second)):
        if not 0.0 < rate < math.inf:
            raise OptionError(f"{name} must be a positive number, got {rate}")
    if at_most < 0:
        raise OptionError(f"at_most must be 0 (no bound) or more, got {at_most}")
    # the original divides by zero below half a frame per step; the nearest rate it can give is all
    indices = list(range(0, total, max(1, round(fps / per_second))))
    return uniform(total, at_most) if 0 < at_most < len(indices) else indices


def haystack_depths(interval: float) -> list[float]:
    """List the needle depths 0, interval, 2 * interval, ... below 1 + interval (V-NIAH).

    Float artefacts are part of the rule: 0.2 yields 0.6000000000000001, and an interval that does
    not divide 1 yields a last depth above 1. Raises OptionError unless 0 < interval <= 1.
    """
    if not 0.0 < interval <= 1.0:
        raise OptionError(f"a depth interval must be above 0 and at most 1, got {interval}")
    return [i * interval for i in range(math.ceil((1.0 + interval) / interval))]


def needle_index(depth: float, num_frames: int) -> int:
    """Count the haystack frames that come before a needle at `depth`; above 1 it may exceed them.

    Raises OptionError if `depth` is negative or not finite, or `num_frames` is below 1.
    """
    _at_least_one("num_frames", num_frames)
    if not 0.0 <= depth < math.inf:
        raise OptionError(f"a needle's depth must be 0 or more, got {depth}")
    return int(depth * num_frames)


def depth_label(depth: float) -> float:
    """Name a depth on V-NIAH's heat map: per cent to the nearest ten, half to even (0.25 is 20)."""
    return round(depth * 100, -1)


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise OptionError(f"{name} must be at least 1, got {value}")
