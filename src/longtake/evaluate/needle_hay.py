"""Haystacks that were seen once for all lengths of a grid, and needles as tokens.

Letters: T frames, N visual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain

import torch

from longtake.errors import OptionError, VideoError
from longtake.evaluate.needle_data import Picture
from longtake.evaluate.needle_plan import Films, Plan
from longtake.evaluate.needle_rules import Rule
from longtake.parts.pooling import KeepAll, ProgressivePool
from longtake.reader import Fitted, Progress
from longtake.system import System
from longtake.types import Frames, VisualTokens
from longtake.video.anyres import pad_to_square
from longtake.video.prefetch import ahead


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
