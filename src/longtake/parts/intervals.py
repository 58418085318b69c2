"""Cut a video where its content changes, and give each stretch what it needs.

Dynamic compression of Video-XL (section 3.3), as the authors' sibling code does it: frames are
compared by their class tokens; a dip in similarity that is deep against both sides splits the
video. What the paper says beyond that code, a granularity by information density, is `ratios_for`.

T frames, D width.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from longtake.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """How to cut. The defaults are the published rule."""

    threshold: float = 1.0
    """A dip splits if it is deeper than the mean by so many standard deviations."""
    longest: int = 15
    """Most frames of an interval; longer ones are cut into pieces of so many."""
    shortest: int = 1
    """Fewest frames of an interval; shorter ones join the neighbour they resemble more."""
    average: int | None = None
    """Choose each interval's ratio by what changes in it, with as many summaries in all as this
    one ratio would make; the ends of the video then count fairly (see `depths`). None is the
    published rule, where ratios are chosen as they are for windows of fixed length."""

    @property
    def fair(self) -> bool:
        """Whether the ends of the video count like any other place; in the published rule not."""
        return self.average is not None

    def __post_init__(self) -> None:
        for name in ("shortest", "longest", "average"):
            value = getattr(self, name)
            if type(value) is not int and not (name == "average" and value is None):
                raise OptionError(f"{name} must be a whole number, got {value!r}")
        if not 1 <= self.shortest <= self.longest:
            raise OptionError(
                f"intervals of {self.shortest} to {self.longest} frames are impossible; "
                "give 1 <= shortest <= longest"
            )
        if not -100.0 < self.threshold < 100.0:
            raise OptionError(f"threshold must be a few standard deviations, got {self.threshold}")
        if self.average is not None and self.average < 1:
            raise OptionError(f"average ratio must be 1 or more, got {self.average}")


def similarities(class_TD: Tensor) -> Tensor:
    """Cosine of each frame's class token with the next one's: [T - 1]."""
    return F.cosine_similarity(class_TD[:-1].float(), class_TD[1:].float(), dim=-1)


def depths(similarity: Tensor, fair: bool = False) -> Tensor:
    """How far each similarity lies below the highest before and behind it, averaged: [T - 1].

    The first has nothing before it and the last nothing behind it. The original counts 0 there, so
    that both ends lie far above everything and widen the spread that dips are measured by: a short
    video is seldom cut. `fair` looks at the side that is there.
    """
    if not len(similarity):
        return similarity
    before, behind = similarity.cummax(0).values, similarity.flip(0).cummax(0).values.flip(0)
    if not fair:
        before[:1], behind[-1:] = 0.0, 0.0
    return (before + behind - 2 * similarity) / 2


def threshold(depth: Tensor, how: Intervals) -> float:
    """The depth from which a dip splits; of two depths at least, or there is no deviation."""
    return float(depth.mean() + how.threshold * depth.std())


def cut(similarity: Tensor, how: Intervals) -> list[int]:
    """Frames of each interval, in order; empty if nothing stands out (then windows are fixed)."""
    frames = len(similarity) + 1
    if frames < 3:
        return []  # no spread to measure dips by
    depth = depths(similarity, how.fair)
    splits = (depth > threshold(depth, how)).nonzero()[:, 0].tolist()
    if not splits:
        return []
    # the boundary lies before frame i though the change is between i and i + 1: as the original
    edges = [0, *splits, frames]
    sizes = [stop - start for start, stop in pairwise(edges)]
    pieces = [piece for size in sizes for piece in pieces_of(size, how.longest)]
    return join_short(pieces, similarity, how)


def pieces_of(size: int, longest: int) -> list[int]:
    """`size` frames in pieces of at most `longest`, the last one shorter; nothing of nothing."""
    full, rest = divmod(size, longest)
    return [longest] * full + ([rest] if rest else [])


def join_short(sizes: Sequence[int], similarity: Tensor, how: Intervals) -> list[int]:
    """Join intervals that are too short to the neighbour they resemble more, if it has room."""
    joined = list(sizes)
    place = 0
    while place < len(joined):
        if joined[place] >= how.shortest:
            place += 1
            continue
        start = sum(joined[:place])
        beside = [
            (float(similarity[edge - 1]), other)
            for edge, other in ((start, place - 1), (start + joined[place], place + 1))
            if 0 <= other < len(joined) and joined[other] + joined[place] <= how.longest
        ]
        if not beside:
            place += 1
            continue
        other = max(beside)[1]
        joined[other] += joined[place]
        del joined[place]
        place = min(place, other)
    return joined


def information(
    similarity: Tensor, sizes: Sequence[int], tokens: Sequence[int] | None = None
) -> list[float]:
    """What each interval brings: the summed dissimilarity of its frames to those before them.

    The first frame of all counts like the most novel one. `sizes` are frames; where `tokens` says
    how many each frame has, they are tokens, and a frame that is divided is shared out.
    """
    novelty = (1 - similarity).clamp(min=0).double().numpy()
    novelty = np.concatenate([[novelty.max(initial=0.0)], novelty])
    lengths = np.ones(len(novelty)) if tokens is None else np.asarray(tokens, dtype=np.float64)
    reached = np.concatenate([[0.0], np.cumsum(lengths)])
    brought = np.concatenate([[0.0], np.cumsum(novelty)])
    edges = np.concatenate([[0], np.cumsum(sizes)])
    return [float(part) for part in np.diff(np.interp(edges, reached, brought))]


def ratios_for(
    sizes: Sequence[int], worth: Sequence[float], choices: Sequence[int], budget: int
) -> list[int]:
    """A ratio for each interval of so many tokens, so that summaries go where the worth is.

    All begin at the largest ratio; then, one step at a time, the interval with most worth per
    summary gets the next smaller one, as long as all summaries stay within `budget`. Deterministic;
    ties go to the earlier interval. Raises OptionError if even the largest ratio is too much.
    """
    ladder = sorted(set(choices), reverse=True)
    kept = [size // ladder[0] for size in sizes]
    steps, total = [0] * len(sizes), sum(kept)
    if total > budget:
        raise OptionError(
            f"ratio {ladder[0]}, the largest allowed, makes {total} summaries, more than the "
            f"{budget} of the average ratio; allow a larger one"
        )
    queue = [(-worth[n] / max(1, kept[n]), n) for n in range(len(sizes))]
    heapq.heapify(queue)
    while queue:
        _, n = heapq.heappop(queue)
        if steps[n] + 1 == len(ladder):
            continue
        finer = sizes[n] // ladder[steps[n] + 1]
        if total + finer - kept[n] > budget:
            continue  # nor will it fit later
        total, kept[n], steps[n] = total + finer - kept[n], finer, steps[n] + 1
        heapq.heappush(queue, (-worth[n] / max(1, finer), n))
    return [ladder[step] for step in steps]
