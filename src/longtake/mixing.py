"""Put rows of two levels side by side in one cache, each key turned to where it now stands.

K key/value heads, N rows, E head width, B batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from longtake.bilevel import TwoLevelCache
from longtake.model import LongtakeModel
from longtake.parts.cache import GrowingCache
from longtake.parts.qwen2 import Decoder, Step
from longtake.parts.rope import RopeTable, rotate, unrotate
from longtake.types import Entry, Window


@dataclass(frozen=True)
class Mixed:
    """A memory made for one question."""

    cache: GrowingCache
    entries: tuple[Entry, ...]
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class Stretch:
    """Rows of one level that go into a mixture."""

    fine: bool
    start: int
    stop: int


def stretches(two: TwoLevelCache, chosen: Sequence[int]) -> list[Stretch]:
    """Rows in order: text, window, text, window, text; it comes from the level of what precedes it.

    What stands before the first window is the same on both levels.
    """
    fine, parts = set(chosen), []
    coarse_end = fine_end = 0
    level = 0 in fine
    for n, (coarse, finer) in enumerate(zip(two.windows, two.fine_windows, strict=True)):
        parts.append(
            Stretch(True, fine_end, finer.start)
            if level
            else Stretch(False, coarse_end, coarse.start)
        )
        level = n in fine
        parts.append(
            Stretch(True, finer.start, finer.stop)
            if level
            else Stretch(False, coarse.start, coarse.stop)
        )
        coarse_end, fine_end = coarse.stop, finer.stop
    parts.append(
        Stretch(True, fine_end, two.fine.get_seq_length())
        if level
        else Stretch(False, coarse_end, two.get_seq_length())
    )
    return [part for part in parts if part.stop > part.start]


@torch.no_grad()
def mix(
    model: LongtakeModel,
    two: TwoLevelCache,
    entries: Sequence[Entry],
    chosen: Sequence[int],
    room: int,
) -> Mixed:
    """A cache with the chosen windows fine and all others coarse, and `room` for a question.

    `entries`: of the coarse copy. With every window chosen it equals the finer copy bit for bit:
    rows that keep their position are copied, others are turned to theirs.
    """
    parts = stretches(two, chosen)
    total = sum(part.stop - part.start for part in parts)
    cache = GrowingCache(total + room)
    turn = Turn.of(model, parts)
    for layer in range(len(two.layers)):
        keys, values = (
            torch.cat([_rows(two, part, layer, kind) for part in parts], dim=2)
            for kind in ("keys", "values")
        )
        cache.update(turn(keys), values, layer)
    owner = {False: owners(entries, two), True: owners(two.fine_entries, two.fine)}
    frames = torch.cat([owner[part.fine][part.start : part.stop] for part in parts])
    return Mixed(cache, entries_from(frames, entries), _windows(two, chosen))


def _rows(two: TwoLevelCache, part: Stretch, layer: int, kind: str) -> Tensor:
    held = (two.fine if part.fine else two).layers[layer]
    held.ready()
    rows = cast(Tensor, getattr(held, kind))[:, :, part.start : part.stop]
    return rows.to(two.device)


def _windows(two: TwoLevelCache, chosen: Sequence[int]) -> tuple[Window, ...]:
    """Where the windows of a mixture lie."""
    found, shift = [], 0
    fine = set(chosen)
    for n, coarse in enumerate(two.windows):
        window = two.fine_windows[n] if n in fine else coarse
        start, size = coarse.start + shift, window.stop - window.start
        shift += size - (coarse.stop - coarse.start)
        found.append(replace(window, start=start, stop=start + size))
    return tuple(found)


@dataclass(frozen=True)
class Turn:
    """Moves keys from where they stood to where they will stand."""

    moved: Tensor
    """Indices of the rows whose position changes."""
    before: RopeTable
    after: RopeTable

    @classmethod
    def of(cls, model: LongtakeModel, parts: Sequence[Stretch]) -> Turn:
        """For rows put one after another."""
        device = model.device
        old = torch.cat([torch.arange(p.start, p.stop, device=device) for p in parts])
        new = torch.arange(len(old), device=device)
        moved = (old != new).nonzero()[:, 0]
        decoder = cast(Decoder, model.decoder)
        before, after = (
            decoder.table(Step(positions_BS=rows[moved][None]), torch.float32)
            for rows in (old, new)
        )
        return cls(moved, before, after)

    def __call__(self, keys_BKNE: Tensor) -> Tensor:
        """The keys [B, K, N, E], turned in fp32."""
        if not len(self.moved):
            return keys_BKNE
        part = unrotate(keys_BKNE[:, :, self.moved].float(), self.before)
        keys_BKNE[:, :, self.moved] = rotate(part, self.after).to(keys_BKNE.dtype)
        return keys_BKNE


def owners(entries: Sequence[Entry], cache: GrowingCache) -> Tensor:
    """Which entry each row of a cache belongs to; -1 for none."""
    found = torch.full((cache.get_seq_length(),), -1)
    for number, entry in enumerate(entries):
        found[entry.start : entry.stop] = number
    return found


def entries_from(owner_N: Tensor, entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Entries whose rows are where `owner_N` says; one without rows stays, empty."""
    counts = torch.bincount(owner_N[owner_N >= 0], minlength=len(entries)).tolist()
    firsts = {int(owner): n for n, owner in reversed(list(enumerate(owner_N.tolist())))}
    placed, end = [], 0
    for number, entry in enumerate(entries):
        start = firsts.get(number, end)
        end = start + counts[number]
        placed.append(Entry(start=start, stop=end, seconds=entry.seconds, visual=entry.visual))
    return tuple(placed)
