"""Where summary tokens stand: windows, ratios and rows, as arithmetic (Video-XL, section 3.2).

Visual tokens are read in windows. In a window of ratio r a summary token follows every r visual
tokens; only the summaries' keys and values outlive the window. Visual tokens that fill no r are
carried: the next window's first summary comes that much earlier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, repeat
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from longtake.choices import check_mix
from longtake.errors import OptionError

Place = Literal["interleave", "append"]
"""Summaries stand among the visual tokens (as released), or all at the window's end."""

SEED = 42
"""The original seeds its generator with this, once per model; here it is fresh for each video."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One window: how many tokens of which kind, and where."""

    raw: int
    """Visual tokens."""
    ratio: int
    carried: int = 0
    """Visual tokens before this window that belong to its first summary; fewer than the ratio."""
    place: Place = "interleave"

    @classmethod
    def after(cls, carried: int, raw: int, ratio: int, place: Place) -> Plan:
        """A window behind one that left `carried` tokens.

        A smaller ratio may follow a larger one that left more than the smaller one needs (the
        original crashes then): whole groups of these are given up, as at the end of a video.
        """
        return cls(raw=raw, ratio=ratio, carried=carried % ratio, place=place)

    @property
    def summaries(self) -> int:
        """Summary tokens of this window."""
        return (self.raw + (0 if self.place == "append" else self.carried)) // self.ratio

    @property
    def left(self) -> int:
        """Visual tokens at the end that belong to no summary yet."""
        return 0 if self.place == "append" else (self.raw + self.carried) % self.ratio

    def is_summary(self) -> Tensor:
        """Which rows of the window are summaries: bool [raw + summaries]."""
        rows = torch.arange(self.raw + self.summaries)
        if self.place == "append":
            return rows >= self.raw
        if not self.summaries:
            return torch.zeros(self.raw, dtype=torch.bool)
        return rows % (self.ratio + 1) == self.ratio - self.carried

    def last_token(self) -> Tensor:
        """The last visual token each summary stands for, counted in this window: [summaries]."""
        ends = torch.arange(1, self.summaries + 1) * self.ratio
        return ends - 1 - (0 if self.place == "append" else self.carried)


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """Which ratio each window gets. Raises OptionError for what cannot be."""

    choices: tuple[int, ...]
    """Ratios to choose from; with mix "listed", the ratio of each window, the last one lasting."""
    mix: str = "step-random"
    """One of `choices.MIXES`. "adapt-<tokens>" takes the smallest ratio with which the video and so
    many more tokens fit the positions."""
    seed: int = SEED
    positions: int = 32768
    """max_position_embeddings of the checkpoint; for "adapt-" alone."""

    def __post_init__(self) -> None:
        found: object = self.choices
        whole = isinstance(found, tuple) and all(type(ratio) is int for ratio in found)
        if not whole or not self.choices or min(self.choices) < 1:
            raise OptionError(f"ratio must be whole numbers from 1, got {found!r}")
        check_mix(self.mix)
        if type(self.seed) is not int or self.seed < 0:
            raise OptionError(f"seed must be a whole number from 0, got {self.seed!r}")

    @property
    def smallest(self) -> int:
        """The ratio that keeps most."""
        return min(self.choices)

    def chooser(self, expected: Callable[[], int] = int) -> Chooser:
        """Choose for one video. `expected`: says how many tokens the whole sequence has before it
        is condensed; asked at the first window."""
        return Chooser(self, expected)

    @property
    def settled(self) -> Ratios:
        """The same without what cannot matter: one ratio leaves nothing to choose."""
        return Ratios(choices=self.choices) if len(self.choices) == 1 else self

    def check_window(self, window: int) -> None:
        """Raise OptionError if a summary could never stand at the end of such a window."""
        fitting = [ratio for ratio in self.choices if window % ratio == 0]
        strict = len(self.choices) == 1 or self.mix == "listed"
        if not fitting or (strict and len(fitting) < len(self.choices)):
            wrong = next(ratio for ratio in self.choices if window % ratio)
            raise OptionError(
                f"ratio {wrong} does not divide the window of {window} visual tokens; "
                f"choose one that does, or another window"
            )


class Chooser:
    """Ratios of one video's windows, in order; repeats the original's draws."""

    def __init__(self, ratios: Ratios, expected: Callable[[], int]) -> None:
        self._ratios, self._expected = ratios, expected
        self._rng = np.random.default_rng(ratios.seed)
        self._kept: Iterator[int] | None = None

    def ratio(self, raw: int) -> int:
        """The next window's ratio, of `raw` visual tokens. Raises OptionError if none divides."""
        choices = self._ratios.choices
        if len(choices) == 1:
            return choices[0]
        if self._ratios.mix == "listed":
            self._kept = self._kept or chain(choices, repeat(choices[-1]))
            return next(self._kept)
        fitting = [ratio for ratio in choices if ratio <= raw and raw % ratio == 0]
        if not fitting:
            raise OptionError(
                f"none of the ratios {', '.join(map(str, choices))} divides a window of {raw} "
                "visual tokens; choose a single ratio, or another window"
            )
        if self._ratios.mix == "step-random":
            return int(self._rng.choice(fitting))
        # the other rules decide at the first window, among what fits it
        self._kept = self._kept or self._decide(fitting, raw)
        return next(self._kept)

    def _decide(self, fitting: Sequence[int], raw: int) -> Iterator[int]:
        mix = self._ratios.mix
        if mix == "sequence":
            return cycle(fitting)
        if mix == "instance-random":
            return repeat(int(self._rng.choice(fitting)))
        wanted = self._expected() + int(mix.partition("-")[2])
        room = self._ratios.positions - raw
        enough = [ratio for ratio in fitting if room * ratio + raw >= wanted]
        return repeat(min(enough) if enough else max(fitting))


def planned(sizes: Iterator[int], chooser: Chooser, place: Place = "interleave") -> Iterator[Plan]:
    """A plan for each window size in turn, the remainder carried from one to the next."""
    carried = 0
    for raw in sizes:
        plan = Plan.after(carried, raw, chooser.ratio(raw), place)
        yield plan
        carried = plan.left
