"""How a system would cut and condense a video, without reading it with the language model.

T frames, D width.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, repeat

import torch

from longtake.condense import Seen, interval_plan
from longtake.errors import OptionError
from longtake.parts.intervals import Intervals, depths, similarities, threshold
from longtake.parts.windows import Plan
from longtake.reader import Progress, Reader, frames_wanted, quiet
from longtake.system import System
from longtake.systems.video_xl import VideoXL
from longtake.types import VisualTokens
from longtake.video.decode import Video


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One window of a video."""

    start_seconds: float
    end_seconds: float
    frames: int
    """Frames that begin in it."""
    tokens: int
    """Visual tokens."""
    ratio: int
    kept: int
    """Summaries."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was found in a video."""

    seconds: tuple[float, ...]
    """When each sampled frame is shown."""
    duration: float
    """Seconds of the video."""
    similarity: tuple[float, ...]
    """Of each frame's class token to the next frame's; one fewer than frames."""
    depth: tuple[float, ...]
    """How far each lies below what surrounds it."""
    threshold: float | None
    """Depth from which a dip splits; None where there are too few frames to tell."""
    windows: tuple[Cut, ...]


def survey(
    system: System, video: Video, max_frames: int | None = None, progress: Progress = quiet
) -> Survey:
    """Sample a video and see its frames as `watch` does, and say how they would be condensed.

    Raises OptionError for a system that condenses nothing.
    """
    if not isinstance(system, VideoXL):
        raise OptionError(f"{system.name} does not condense videos; there is no timeline to draw")
    how = system.condense
    # fixed windows need no class tokens, but a picture of what changes does
    eye = replace(system, condense=replace(how, intervals=how.intervals or Intervals()))
    reader = Reader(
        eye=eye,
        num=frames_wanted(max_frames or system.frames),
        progress=progress,
        reserve=lambda total, coming, words: None,
    )
    seen = Seen()
    with closing(reader.stream("", [video])) as stream:
        for _ in seen.features(piece for piece in stream if isinstance(piece, VisualTokens)):
            pass
    similarity = similarities(torch.cat(seen.classes).cpu())
    depth = depths(similarity, eye.condense.intervals is not None and eye.condense.intervals.fair)
    return Survey(
        seconds=tuple(seconds for _, seconds in seen.frames),
        duration=video.duration,
        similarity=tuple(similarity.tolist()),
        depth=tuple(depth.tolist()),
        threshold=threshold(depth, eye.condense.intervals or Intervals())
        if len(depth) > 1
        else None,
        windows=tuple(cuts(system, seen, video.duration)),
    )


def cuts(system: VideoXL, seen: Seen, duration: float) -> Iterator[Cut]:
    """The windows that reading these frames makes."""
    how, total = system.condense, sum(tokens for tokens, _ in seen.frames)
    sizes, ratios = interval_plan(seen, how)
    expected = total + len(system.tokens(system.template.head()))
    chooser = how.ratios.chooser(lambda: expected)
    wanted = chain(ratios, repeat(None))
    starts = [0]
    for tokens, _ in seen.frames:
        starts.append(starts[-1] + tokens)
    done = carried = 0
    for size in chain(sizes, repeat(how.window)):
        if done == total:
            return
        raw = min(size, total - done)
        given = next(wanted)
        ratio = chooser.ratio(raw) if given is None else given
        plan = Plan.after(carried if given is None else 0, raw, ratio, how.place)
        carried, stop = plan.left if given is None else 0, done + raw
        begins, ends = bisect_left(starts, done), bisect_left(starts, stop)
        first = bisect_right(starts, done) - 1  # the frame that is under way
        yield Cut(
            start_seconds=seen.frames[first][1],
            end_seconds=seen.frames[ends][1] if ends < len(seen.frames) else duration,
            frames=min(ends, len(seen.frames)) - begins,
            tokens=raw,
            ratio=plan.ratio,
            kept=plan.summaries,
        )
        done = stop
