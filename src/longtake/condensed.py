"""What memories of summaries weigh (Video-XL): one condensed copy of the video, or two.

Every copy is made from the same windows; text is kept whole in each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from longtake.bilevel import Fine, TwoLevelCache, check_budget
from longtake.condense import Condense
from longtake.costs import Stage, condensed_stages
from longtake.engine import require_room
from longtake.llava import Llava
from longtake.needs import Place, Showing
from longtake.parts.cache import GrowingCache
from longtake.weighing import Choices


@dataclass(frozen=True, kw_only=True, eq=False)
class Condensed(Llava):
    """A system whose memories hold summaries."""

    choices: ClassVar[Choices] = ({"ratio": 8}, {"ratio": 16})
    condense: Condense
    """How visuals are condensed; variants are made with `dataclasses.replace`."""
    fine: Fine | None = None
    """Keep a finer copy too, and answer each question from a mixture."""

    def copies(self, tokens: int, expected: int) -> tuple[int, int]:
        """Summaries of the first and of the finer copy of so many visual tokens."""
        fine = 0 if self.fine is None else -(-tokens // self.fine.ratio)
        return self.condense.summaries(tokens, expected), fine

    def kept(self, tokens: int) -> int:
        """Summaries of all copies."""
        return sum(self.copies(tokens, tokens))

    def rows(self, tokens: int, text: int = 0) -> list[int]:
        """Of all copies, the text in each."""
        return super().rows(tokens, text if self.fine is None else 2 * text)

    def answered_rows(self, tokens: int, text: int) -> list[int]:
        """Of two copies, the most that their mixture can be."""
        return [self.reach(tokens) + text] * self.config.decoder.layers

    def reach(self, tokens: int) -> int:
        """Of two copies, the most that an answer is written behind."""
        coarse, fine = self.copies(tokens, tokens)
        if self.fine is None:
            return coarse
        return min(fine, max(coarse, int(self.fine.budget / self.row_bytes())))

    def make_room(self, cache: GrowingCache, total: int, coming: int, words: int = 0) -> None:
        """Room for each copy, and for the window that is being read behind it."""
        held, window = cache.get_seq_length(), self.window_room(coming)
        coarse, fine = (held + words + rows for rows in self.copies(coming, total))
        if isinstance(cache, TwoLevelCache) and self.fine is not None:
            check_budget(round(coarse * self.row_bytes()), self.fine)
            cache.fine.reserve(fine + window)
        on_host = self.model.device.type == "cpu" and self.fine and self.fine.where == "memory"
        require_room(self.model, coarse + fine if on_host else coarse, held=held)
        cache.reserve(coarse + window)

    def window_room(self, tokens: int) -> int:
        """Rows of a window, summaries among them, at most."""
        return 2 * min(self.condense.window, tokens)

    def read_rows(self, place: Place) -> int:
        """A window with its summaries, of the copy that has more."""
        return max(self.window_rows)

    @property
    def window_rows(self) -> list[int]:
        """The same of each copy."""
        return self.rows_of(self.condense.window)

    def rows_of(self, tokens: int) -> list[int]:
        """Rows of a window of so many tokens and its summaries, of each copy."""
        ratios = [self.condense.ratios.smallest, *([self.fine.ratio] if self.fine else [])]
        return [tokens + tokens // ratio for ratio in ratios]

    def cache_bytes(self, tokens: int, place: Place, text: int = 0) -> int:
        """The copies that lie on the device, and the window behind each.

        A CPU gives pages as they are written: what counts is the furthest row.
        """
        inside = self.fine is not None and self.fine.where == "memory" and place.on_cpu
        count, room = 2 if inside else 1, self.window_room(tokens)
        every = self.furthest(tokens) if place.on_cpu else self.copies(tokens, tokens)
        rows = sum(every[:count]) + (0 if place.on_cpu else count * room)
        return (rows + count * (text + place.slack)) * self.full_row_bytes(place.dtype)

    def furthest(self, tokens: int) -> list[int]:
        """Rows that each copy fills at most: what was kept before a window, and that window.

        The last whole one or the rest behind it; a window's summaries then lie where it began.
        """
        window, rest = self.condense.window, tokens % self.condense.window
        whole = tokens - rest
        ends = [(max(0, whole - window), min(window, whole)), (whole, rest)]
        rows = [
            [
                sum(both)
                for both in zip(self.copies(begun, tokens), self.rows_of(size), strict=False)
            ]
            for begun, size in ends
        ]
        return [max(each) for each in zip(*rows, strict=True)]

    def read_of(self, seen: int, place: Place, chunk: int) -> int:
        """Whole windows, read at once."""
        return seen - seen % self.condense.window

    def answering_bytes(self, tokens: int, place: Place, shown: Showing) -> int:
        """Of two copies, the mixture too."""
        asked = super().answering_bytes(tokens, place, shown)
        mixture = 0 if self.fine is None else self.reach(tokens) + shown.text
        return asked + mixture * self.full_row_bytes(place.dtype)

    def stages(self, frames: int, dtype: torch.dtype | None = None) -> tuple[Stage, ...]:
        """Of the first copy, with windows of one size."""
        tokens, sizes = round(frames * self.video_sizes.per_frame), self.video_sizes
        plans, each = self.condense.plans(tokens, tokens), self.number_bytes(dtype)
        return condensed_stages(sizes, frames, plans, each)
