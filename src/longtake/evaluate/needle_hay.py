"""Haystacks: which frames of which videos, seen once for all lengths of a grid.

A unit is what can stand alone: a frame, a clip where a tower sees clips, or a frame's equal share
of a clip's tokens. The tower sees each clip of the union of all lengths once; a length is a choice
of rows among the units that came out.

Letters: T frames, N visual tokens, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path

import torch
from torch import Tensor

from longtake.errors import OptionError, VideoError
from longtake.evaluate.needle_data import Picture
from longtake.evaluate.needle_rules import Rule
from longtake.folder import samples_of
from longtake.parts.pooling import KeepAll, ProgressivePool
from longtake.reader import CHUNK, Fitted, Progress
from longtake.system import System
from longtake.types import Frames, VisualTokens
from longtake.video.anyres import pad_to_square
from longtake.video.decode import Video
from longtake.video.inputs import Held, Source, opened_source
from longtake.video.prefetch import ahead
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


def identity_of(path: Path) -> str:
    """Size and digest of samples of a file."""
    total = hashlib.sha256()
    for sample in samples_of(path):
        total.update(sample)
    return f"{path.name} {path.stat().st_size} {total.hexdigest()[:16]}"


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


@dataclass(frozen=True, kw_only=True)
class Hay:
    """A haystack that was seen."""

    tokens: VisualTokens
    """One entry per unit."""
    settled: bool
    """They are as the language model reads them; else they are still to be compressed, because how
    depends on a frame's place."""
    duration: float
    """Seconds of the videos."""

    @property
    def units(self) -> int:
        """How many there are."""
        return len(self.tokens.counts)


def is_settled(system: System) -> bool:
    """Whether a frame is compressed alike wherever it stands."""
    how = system.compress
    return isinstance(how, KeepAll) or (isinstance(how, ProgressivePool) and how.period == 1)


def see(
    system: System, frames: Callable[[], Iterator[Frames]], square: bool
) -> Iterator[VisualTokens]:
    """Tokens of frames as they are kept of a haystack, chunk by chunk."""

    def fitted() -> Iterator[Fitted]:
        source = frames()
        try:
            for chunk in source:
                pixels = chunk.pixels_TCHW
                if square:
                    pixels = pad_to_square(pixels, system.processor.colour)
                yield from system.fit(iter([replace(chunk, pixels_TCHW=pixels)]))
        finally:
            source.close()  # type: ignore[attr-defined]

    with ahead(closed(fitted())) as stream:
        seen = system.see(stream)
        yield from system.compress(seen) if is_settled(system) else seen


def closed(stream: Iterator[Fitted]) -> Iterator[Fitted]:
    """The same, closed however it ends."""
    with closing(stream):  # type: ignore[type-var]
        yield from stream


def see_films(system: System, films: Films, plan: Plan, rule: Rule, progress: Progress) -> Hay:
    """Encode a plan's clips once, in order; `progress` hears of "encode" frames.

    Raises VideoError if the videos break off before.
    """
    wanted, span = list(chain.from_iterable(plan.clips)), len(plan.clips[0])
    seconds: list[float] = []

    def frames() -> Iterator[Frames]:
        for chunk in films.read(wanted):
            seconds.extend(chunk.seconds_T.tolist())
            yield chunk

    parts: list[VisualTokens] = []
    done = 0
    for tokens in see(system, frames, rule.square):
        parts.append(tokens)
        done += len(tokens.counts) * tokens.span
        progress("encode", min(done, len(wanted)), len(wanted))
    if done < len(wanted):
        raise VideoError(f"the videos break off: {done} of {len(wanted)} frames came; mend them")
    whole = VisualTokens.join(parts)
    each = span if rule.single else 1
    times = tuple(seconds[n] for n in range(0, len(wanted), span // each))
    counts = tuple(count // each for count in whole.counts for _ in range(each))
    if sum(counts) != len(whole.features_ND):
        raise OptionError(f"clips of {whole.counts[0]} tokens do not part into {each} frames")
    held = replace(whole, counts=counts, seconds=times, span=whole.span // each, patches=None)
    held = VisualTokens.join([take(held, range(min(plan.units, len(counts))))] * plan.copies)
    return Hay(tokens=held, settled=is_settled(system), duration=films.duration)


def see_picture(
    system: System, picture: Picture, rule: Rule, size: tuple[int, int], span: int
) -> VisualTokens:
    """A needle's tokens, one entry: shown as often as the rule wants, in whole clips.

    Where a tower sees single frames, its tokens are repeated.
    """
    shown = picture.draw(*size)[None]
    count = -(-rule.repeat // span) * span if span > 1 else 1
    frames = Frames(
        pixels_TCHW=shown.expand(count, -1, -1, -1),
        seconds_T=torch.zeros(count, dtype=torch.float64),
        index_T=torch.zeros(count, dtype=torch.int64),
    )
    seen = VisualTokens.join(list(see(system, lambda: (one for one in [frames]), rule.square)))
    again = rule.repeat if span == 1 else 1
    return replace(VisualTokens.join([seen] * again), patches=None)


def take(tokens: VisualTokens, rows: Sequence[int]) -> VisualTokens:
    """Some of the entries, in this order."""
    starts = [0]
    for count in tokens.counts:
        starts.append(starts[-1] + count)
    # runs of neighbours are slices: a row of its own for each token would be as large as the text
    runs: list[list[int]] = []
    for row in rows:
        if runs and runs[-1][1] == row:
            runs[-1][1] += 1
        else:
            runs.append([row, row + 1])
    features = [tokens.features_ND[starts[a] : starts[b]] for a, b in runs]
    empty = tokens.features_ND[:0]
    return replace(
        tokens,
        features_ND=torch.cat(features) if features else empty,
        counts=tuple(tokens.counts[row] for row in rows),
        seconds=tuple(tokens.seconds[row] for row in rows),
        class_TD=None if tokens.class_TD is None else tokens.class_TD[list(rows)],
    )
