"""From attention on each frame to what a person can use: spans that stand out, and timelines.

The rules were chosen on generated videos (`benchmarks/evidence.py`, docs/evidence.md).

Letters: T entries of a memory (frames or clips).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from longtake.moments import Span, Timeline
from longtake.types import Entry

STANDS_OUT = 6
"""A frame stands out if it has at least this part of the heaviest frame's weight..."""
ABOVE_EVEN = 2
"""...and this many times what it would have if all had the same."""
MOST_SPANS = 5
MOST_STRETCHES = 512
"""Of a timeline: more than a picture or a page has pixels for, and 10 KB of JSON."""
MILLIONTH = 10**6


def shares_of(mass_T: Sequence[float], entries: Sequence[Entry]) -> list[float]:
    """Shares of the attention on all entries, which sum to 1; all 0 if nothing was looked at.

    Where several frames were condensed into rows that lie with the last of them (entries without
    rows before it), each of them has an even part of what falls on these rows.
    """
    total = math.fsum(mass_T)
    shares = [0.0] * len(mass_T)
    if total <= 0.0:
        return shares
    waiting: list[int] = []
    for place, entry in enumerate(entries):
        if waiting and entries[waiting[0]].visual != entry.visual:
            waiting.clear()
        waiting.append(place)
        if entry.stop > entry.start:
            for frame in waiting:
                shares[frame] = mass_T[place] / total / len(waiting)
            waiting.clear()
    return shares


def spans_of(
    shares: Sequence[float],
    entries: Sequence[Entry],
    durations: Sequence[float],
    most: int = MOST_SPANS,
) -> tuple[Span, ...]:
    """Runs of frames that stand out, heaviest first.

    `durations` (s) end each video's last frame. A run goes on over a single frame that does not
    stand out. Still images (duration 0) give no span.
    """
    timed = [bool(durations[entry.visual]) for entry in entries]
    highest = max((share for share, moves in zip(shares, timed, strict=True) if moves), default=0.0)
    if highest <= 0.0:
        return ()
    bar = min(max(highest / STANDS_OUT, ABOVE_EVEN / len(shares)), highest)
    runs: list[list[int]] = []
    for place, (entry, share) in enumerate(zip(entries, shares, strict=True)):
        if share < bar or not timed[place]:
            continue
        near = runs and place - runs[-1][1] <= 2
        if near and entries[runs[-1][1]].visual == entry.visual:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    spans = [
        Span(
            start=entries[first].seconds,
            end=end_of(last, entries, durations),
            weight=min(1.0, math.fsum(shares[first : last + 1])),
            visual=entries[first].visual,
        )
        for first, last in runs
    ]
    return tuple(sorted(spans, key=lambda span: -span.weight)[:most])


def end_of(place: int, entries: Sequence[Entry], durations: Sequence[float]) -> float:
    """When the next frame of the same video is shown, or that video's end."""
    entry = entries[place]
    if place + 1 < len(entries) and entries[place + 1].visual == entry.visual:
        return entries[place + 1].seconds
    return max(entry.seconds, durations[entry.visual])


def timelines_of(
    shares: Sequence[float],
    entries: Sequence[Entry],
    durations: Sequence[float],
    most: int = MOST_STRETCHES,
) -> tuple[Timeline, ...]:
    """The weight over each video, in at most `most` stretches; none of still images."""
    if not any(shares):
        return ()
    return tuple(
        joined(shares[part], entries[part], end_of(part.stop - 1, entries, durations), most)
        for part in videos(entries)
        if durations[entries[part.start].visual]
    )


def videos(entries: Sequence[Entry]) -> Iterator[slice]:
    """Where each visual's entries lie."""
    start = 0
    for place in range(1, len(entries) + 1):
        if place == len(entries) or entries[place].visual != entries[start].visual:
            yield slice(start, place)
            start = place


def joined(shares: Sequence[float], entries: Sequence[Entry], end: float, most: int) -> Timeline:
    """One video's timeline; neighbours are added up where there are more than `most`."""
    each = -(-len(shares) // most)
    firsts = range(0, len(shares), each)
    line = Timeline(
        seconds=tuple(round(entries[first].seconds, 3) for first in firsts),
        weights=tuple(math.fsum(shares[first : first + each]) for first in firsts),
        end=round(end, 3),
        visual=entries[0].visual,
    )
    # rounded down, so that the sum stays within 1
    return replace(line, weights=tuple(int(w * MILLIONTH) / MILLIONTH for w in line.weights))
