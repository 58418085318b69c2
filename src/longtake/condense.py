"""Condense visuals window by window as they arrive: the loop of Video-XL (section 3.2).

A window is read behind everything kept so far, and leaves its summaries' keys and values. What is
held at any time is one window and what was kept; where the windows depend on the whole video
(`Intervals`), its visual tokens wait in a file on disk, not in memory.

Letters: N visual tokens, S rows of a window, D width, T frames.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, chain, repeat
from typing import IO, cast

import torch
from torch import Tensor

from longtake.choices import PLACES, check_choice
from longtake.engine import prefill
from longtake.errors import CapacityError, OptionError
from longtake.model import LongtakeModel
from longtake.parts.cache import GrowingCache
from longtake.parts.intervals import (
    Intervals,
    cut,
    information,
    pieces_of,
    ratios_for,
    similarities,
)
from longtake.parts.splice import rechunk
from longtake.parts.summary import Rows, SummaryDecoder
from longtake.parts.windows import Chooser, Place, Plan, Ratios, planned
from longtake.types import Entry, VisualTokens, Window

MOST_WINDOW = 10**7
"""Tokens; no device reads that many at once."""


@dataclass(frozen=True, kw_only=True)
class Condense:
    """How visuals are condensed."""

    window: int
    """Visual tokens of a window."""
    ratios: Ratios
    place: Place = "interleave"
    intervals: Intervals | None = None
    """Cut windows where the content changes; None keeps them at `window`."""

    def __post_init__(self) -> None:
        if type(self.window) is not int or not 1 <= self.window <= MOST_WINDOW:
            found = f"got {self.window!r}"
            raise OptionError(f"window must be a whole number from 1 to {MOST_WINDOW}, {found}")
        check_choice("place", self.place, PLACES)

    def summaries(self, tokens: int, expected: int) -> int:
        """How many summaries a visual of so many tokens leaves, at most.

        `expected`: tokens of the whole sequence. With intervals of unknown length every window may
        get the smallest ratio, unless an average is given. Raises OptionError for ratios that fit
        no window.
        """
        if self.intervals is not None:
            return tokens // (self.intervals.average or self.ratios.smallest)
        return sum(plan.summaries for plan in self.plans(tokens, expected))

    def plans(self, tokens: int, expected: int) -> Iterator[Plan]:
        """The windows of a visual of so many tokens, where none is cut by content."""
        full, rest = divmod(tokens, self.window)
        sizes = chain(repeat(self.window, full), [rest] if rest else [])
        return planned(sizes, self.ratios.chooser(lambda: expected), self.place)


@dataclass(kw_only=True)
class Level:
    """One condensed copy of what is read, in its own cache."""

    model: LongtakeModel
    cache: GrowingCache
    ratios: Ratios
    place: Place
    expected: Callable[[], int] = int
    """Says how many tokens the whole sequence has before it is condensed."""
    windows: list[Window] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    features_D: Tensor | None = None
    """Of the last position that is no summary."""
    _chooser: Chooser | None = None
    """Of the visual being read; each begins anew."""
    _visual: int | None = None
    """Which one that is; words may stand between its stretches."""
    _ends: list[Tensor] = field(default_factory=list)
    """Of the visual being read: the last visual token of each summary."""
    _read: int = 0
    """Visual tokens of it read so far."""
    _carried: int = 0

    def text(self, ids: Sequence[int]) -> None:
        """Read text; all of it is kept."""
        x_SD = self.model.embed(torch.tensor(ids, dtype=torch.int64, device=self.model.device))
        self.features_D = prefill(self.model, iter([x_SD]), self.cache)

    @torch.no_grad()
    def take(self, features_ND: Tensor, visual: int, ratio: int | None = None) -> None:
        """Read one window and keep its summaries.

        `ratio`: instead of the chooser's; such a window stands for itself, nothing is carried.
        """
        raw, carried = len(features_ND), self._carried if ratio is None else 0
        if self._chooser is None or visual != self._visual:
            self._chooser, self._visual = self.ratios.chooser(self.expected), visual
        chosen = self._chooser.ratio(raw) if ratio is None else ratio
        plan = Plan.after(carried, raw, chosen, self.place)
        past, rows = self.cache.get_seq_length(), plan.is_summary()
        x_BND = features_ND[None].to(self.model.compute_dtype)
        decoder = cast(SummaryDecoder, self.model.decoder)
        features_SD = decoder.window(x_BND, rows, self.cache, past)[0]
        self.features_D = features_SD[int(Rows.of(rows).visual_N[-1])]
        self.windows.append(
            Window(start=past, stop=past + plan.summaries, tokens=raw, ratio=chosen, visual=visual)
        )
        self._ends.append(self._read + plan.last_token())
        self._read, self._carried = self._read + raw, plan.left if ratio is None else 0

    def close(self, frames: Sequence[tuple[int, float]], visual: int) -> None:
        """End a visual, or a stretch of one: note which summaries stand for which frame.

        `frames`: tokens and seconds. A summary belongs to the frame of its last visual token.
        """
        ends = torch.cat(self._ends)
        if not len(ends):
            raise OptionError(
                f"ratio {self.windows[-1].ratio} keeps nothing of {self._read} visual tokens; "
                "choose a smaller ratio, or more frames"
            )
        first = self.cache.get_seq_length() - len(ends)
        stops = torch.tensor(list(accumulate(tokens for tokens, _ in frames)))
        places = [first, *(first + torch.searchsorted(ends, stops)).tolist()]
        self.entries += [
            Entry(start=start, stop=stop, seconds=seconds, visual=visual)
            for start, stop, (_, seconds) in zip(places, places[1:], frames, strict=False)
        ]
        self._ends, self._read, self._carried = [], 0, 0


@dataclass(kw_only=True)
class Seen:
    """What passes by while a visual is read."""

    frames: list[tuple[int, float]] = field(default_factory=list)
    """Tokens and time of each."""
    classes: list[Tensor] = field(default_factory=list)

    def features(self, chunks: Iterator[VisualTokens]) -> Iterator[Tensor]:
        """The chunks' features, noting the rest."""
        for tokens in chunks:
            self.frames += zip(tokens.counts, tokens.seconds, strict=True)
            if tokens.class_TD is not None:
                self.classes.append(tokens.class_TD.cpu())
            yield tokens.features_ND


def condense(
    chunks: Iterator[VisualTokens],
    visual: int,
    how: Condense,
    levels: Sequence[Level],
    report: Callable[[int], None],
) -> None:
    """Read one visual's chunks into each level. `report` is told the tokens of each window."""
    seen = Seen()
    stream = seen.features(chunks)
    with waiting(stream, how, seen) as (arrived, sizes, ratios):
        for features_ND in rechunk(arrived, sizes):
            ratio = next(ratios)
            for number, level in enumerate(levels):
                # what the content decides is decided for the first copy; others have their own
                level.take(features_ND, visual, ratio if number == 0 else None)
            report(len(features_ND))
    for level in levels:
        level.close(seen.frames, visual)


Waited = tuple[Iterator[Tensor], Iterator[int], Iterator[int | None]]
"""Features, sizes of windows, their ratios where these are given."""


@contextmanager
def waiting(stream: Iterator[Tensor], how: Condense, seen: Seen) -> Iterator[Waited]:
    """Windows of fixed size at once; intervals only when the visual has passed by."""
    if how.intervals is None:
        yield stream, repeat(how.window), repeat(None)
        return
    with tempfile.TemporaryFile(prefix="longtake-") as file:
        kind = spool(stream, file)
        file.seek(0)
        sizes, ratios = interval_plan(seen, how)
        yield (
            unspool(file, *kind),
            chain(sizes, repeat(how.window)),
            chain(ratios, repeat(None)),
        )


def interval_plan(seen: Seen, how: Condense) -> tuple[list[int], list[int | None]]:
    """Tokens of each interval and, where information decides, its ratio.

    Nothing of a visual that is not cut, unless an average asks for ratios: then of fixed windows.
    """
    if how.intervals is None:
        return [], []
    counts, empty = [count for count, _ in seen.frames], torch.empty(0)
    similarity = similarities(torch.cat(seen.classes)) if seen.classes else empty
    frames = cut(similarity, how.intervals)
    sizes = [int(part.sum()) for part in torch.tensor(counts).split(frames)] if frames else []
    sizes = [size for size in sizes if size]  # of a prompt that was cut short
    if how.intervals.average is None:
        return sizes, [None] * len(sizes)
    sizes = sizes or pieces_of(sum(counts), how.window)
    # an image has no class token to compare: all of it is worth the same
    worth = information(similarity, sizes, counts) if seen.classes else [float(n) for n in sizes]
    budget = sum(counts) // how.intervals.average
    return sizes, list(ratios_for(sizes, worth, how.ratios.choices, budget))


def spool(stream: Iterator[Tensor], file: IO[bytes]) -> tuple[torch.dtype, int, torch.device]:
    """Write features [N, D] to a file, chunk by chunk; returns their dtype, width and device."""
    kind: tuple[torch.dtype, int, torch.device] | None = None
    for features_ND in stream:
        kind = (features_ND.dtype, features_ND.shape[1], features_ND.device)
        try:
            file.write(features_ND.cpu().contiguous().view(torch.uint8).numpy().data)
            file.flush()
        except OSError as error:
            raise CapacityError(
                f"{tempfile.gettempdir()} has no room for the video's visual tokens "
                f"({error.strerror}); free some, or set TMPDIR to another folder"
            ) from error
    if kind is None:
        raise OptionError("there is nothing to condense: the visual has no tokens")
    return kind


SPOOL_ROWS = 1440
"""Rows read back at a time."""


def unspool(
    file: IO[bytes], dtype: torch.dtype, width: int, device: torch.device
) -> Iterator[Tensor]:
    """What `spool` wrote, some rows at a time."""
    while part := file.read(SPOOL_ROWS * width * dtype.itemsize):
        yield torch.frombuffer(bytearray(part), dtype=dtype).view(-1, width).to(device)
