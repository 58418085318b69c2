"""What an answer rests on: spans of the video, and the weight over all of it.

Letters: T entries of a memory (frames or clips).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of the video an answer rests on."""

    start: float
    """Seconds."""
    end: float
    """Seconds; the next sampled frame's time, or the end of the video."""
    weight: float
    """Share of the answer's attention over the frames that falls here, 0 to 1."""
    visual: int = 0
    """Which of the memory's videos or images."""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The weight over one whole video, in stretches of one or more frames, for drawing."""

    seconds: tuple[float, ...]
    """Where each stretch begins, to the millisecond; at least one."""
    weights: tuple[float, ...]
    """Share of the answer's attention over the frames in each, rounded down to a millionth.

    With several videos or images they sum to at most 1 over all of them.
    """
    end: float
    """Where the last stretch ends."""
    visual: int = 0
    """Which of the memory's videos or images."""

    def columns(self, count: int) -> tuple[float, ...]:
        """The highest weight in each of `count` equal pieces of time, as a picture needs it."""
        start, length = self.seconds[0], max(self.end - self.seconds[0], 1e-6)
        heights = [0.0] * count
        ends = (*self.seconds[1:], self.end)
        for begins, ends_at, weight in zip(self.seconds, ends, self.weights, strict=True):
            first = min(count - 1, int((begins - start) / length * count))
            last = max(first + 1, math.ceil((ends_at - start) / length * count - 1e-9))
            for column in range(first, min(count, last)):
                heights[column] = max(heights[column], weight)
        return tuple(heights)
