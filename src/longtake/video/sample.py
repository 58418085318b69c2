"""Published rules that choose which frames are seen; arithmetic only, no video is opened here.

Floats are doubles, used in the order of the originals: every truncation falls the same way.
"""

from __future__ import annotations

import math

from longtake.errors import OptionError


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
