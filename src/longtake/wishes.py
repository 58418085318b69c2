"""Options as users write them, checked together and turned into how a visual is condensed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from longtake.bilevel import Fine
from longtake.choices import ratios_of
from longtake.condense import Condense
from longtake.errors import OptionError, PromptError
from longtake.parts.dropping import Schedule
from longtake.parts.intervals import Intervals
from longtake.parts.pooling import ProgressivePool
from longtake.units import bytes_of


@dataclass(frozen=True, kw_only=True)
class CondenseWishes:
    """What may be said about condensing; None leaves it as the checkpoint says."""

    ratio: int | str | Sequence[int] | None = None
    """Visual tokens per summary; several, as (2, 4, 8) or "2,4,8", are chosen from by `mix`."""
    mix: str | None = None
    """How a window's ratio is chosen: one of `longtake.choices.MIXES`."""
    window: int | None = None
    """Visual tokens of a window."""
    place: str | None = None
    """Where summaries stand: "interleave" (as released) or "append"."""
    seed: int | None = None
    """Of the random mixes."""
    dynamic: bool | None = None
    """Cut windows where the content changes."""
    shortest: int | None = None
    """Fewest frames of an interval."""
    longest: int | None = None
    """Most frames of an interval."""
    average_ratio: int | None = None
    """Choose each interval's ratio by what changes in it, to this average."""
    fine: int | None = None
    """Keep a second copy of this smaller ratio."""
    budget: int | str | None = None
    """Bytes of keys and values a question is answered with: a number, or "300MiB"."""
    fine_on: str | None = None
    """Where the finer copy lies: "memory" or "disk"."""

    def given(self, *names: str) -> dict[str, Any]:
        """Those of these options that were given."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def condense(self, how: Condense) -> Condense:
        """`how` with what was wished. Raises OptionError for what means nothing."""
        ratios = replace(how.ratios, **self.given("mix", "seed"))
        if self.ratio is not None:
            ratios = replace(ratios, choices=ratios_of(self.ratio))
        if self.mix is not None and len(ratios.choices) == 1:
            raise OptionError("mix chooses among several ratios; give them, as in 2,4,8")
        averaged = how.intervals is not None and how.intervals.average is not None
        if self.mix is not None and (averaged or self.average_ratio is not None):
            raise OptionError("average_ratio chooses every ratio itself; leave it or mix out")
        how = replace(how, ratios=ratios, **self.given("window", "place"))
        if self.ratio is not None or self.window is not None:
            how.ratios.check_window(how.window)
        return replace(how, intervals=self.intervals(how))

    def intervals(self, how: Condense) -> Intervals | None:
        """How intervals are cut, if they are."""
        if self.dynamic not in (None, True, False):
            raise OptionError(f"dynamic must be true or false, got {self.dynamic!r}")
        dynamic = how.intervals is not None if self.dynamic is None else self.dynamic
        given = self.given("shortest", "longest", "average_ratio")
        if given and not dynamic:
            raise OptionError(
                f"{', '.join(given)} needs dynamic, which cuts the video into intervals"
            )
        if not dynamic:
            return None
        now = how.intervals or Intervals()
        average = self.average_ratio or now.average
        now = replace(now, average=average, **self.given("shortest", "longest"))
        if self.average_ratio == 0:
            raise OptionError("average ratio must be 1 or more, got 0")
        if now.average is not None and now.average > max(how.ratios.choices):
            largest = max(how.ratios.choices)
            raise OptionError(
                f"average ratio {now.average} is larger than {largest}, the largest ratio allowed; "
                "allow a larger one by ratio"
            )
        return now

    def two_levels(self, how: Condense, now: Fine | None) -> Fine | None:
        """The finer copy, if there is one or one is wished."""
        if self.fine is None and now is None:
            for name in self.given("budget", "fine_on"):
                raise OptionError(f"{name} needs fine, the ratio of a second copy")
            return None
        wished: dict[str, Any] = {"ratio": self.fine, "where": self.fine_on}
        wished["budget"] = None if self.budget is None else bytes_of(self.budget)
        wished = {name: value for name, value in wished.items() if value is not None}
        if now is None and "budget" not in wished:
            raise OptionError("fine needs a budget, the bytes a question is answered with")
        fine = Fine(**wished) if now is None else replace(now, **wished)
        if fine.ratio >= max(how.ratios.choices):
            raise OptionError(
                f"the finer copy's ratio {fine.ratio} must be smaller than "
                f"{max(how.ratios.choices)}, the largest ratio of the first"
            )
        replace(how.ratios, choices=(fine.ratio,)).check_window(how.window)
        return fine


NAMES = tuple(field.name for field in fields(CondenseWishes))

PRESETS = {
    "card": Schedule(kind="uniform0_attention", layers=(4, 18), ratios=(1.0, 0.75, 0.25)),
    "repository": Schedule(kind="attention", layers=(8, 16, 24), ratios=(1.0, 0.5, 0.25, 0.125)),
}
"""Published drops of VideoChat-Flash: its model card's, and its code's where nothing is said."""


def schedule_of(said: str | Schedule, stated: Schedule | None = None) -> Schedule | None:
    """A drop as users write it: "4,18:1,0.75,0.25", "attention:24:1,0.5", a preset, or "off".

    Without a kind it is "uniform0_attention", the model card's. "config" is what config.json
    states (`stated`) even where it is switched off there. Raises OptionError.
    """
    if isinstance(said, Schedule):
        return said
    if said == "off":
        return None
    if said == "config":
        if stated is None:
            raise OptionError("config.json states no drop that fits this model; give one")
        return stated
    if preset := PRESETS.get(str(said)):
        return preset
    parts = str(said).split(":")
    kind, lists = ("uniform0_attention", parts) if len(parts) == 2 else (parts[0], parts[1:])
    number = r"\s*[0-9]{1,6}(\.[0-9]{1,9})?\s*"
    numbers = [piece for part in lists for piece in part.split(",")]
    if len(lists) != 2 or not all(re.fullmatch(number, piece) for piece in numbers):
        shown = str(said) if len(str(said)) < 40 else f"{str(said)[:40]}..."
        raise OptionError(
            f"drop must be layers and ratios such as 4,18:1,0.75,0.25, a kind before them as in "
            f"attention:24:1,0.5, or one of off, config, {', '.join(PRESETS)}; got {shown!r}"
        )
    layers, ratios = (tuple(map(float, part.split(","))) for part in lists)
    whole = tuple(int(layer) if layer.is_integer() else layer for layer in layers)
    return Schedule(kind=kind, layers=whole, ratios=ratios)  # type: ignore[arg-type]


POOLS: dict[str, str] = {"paper": "2,8,4", "fine": "2,4,4", "coarse": "2,8,16", "off": "1"}
"""Of table 5 of arXiv 2409.20018: what it proposes, and of its poolings with two strides those that
keep most and least; "off" keeps every patch."""


def pool_of(said: object, mode: Any, before: ProgressivePool, patches: int) -> ProgressivePool:
    """A pooling as users write it: "2,8,4", "4", or one of POOLS; None leaves it as `before`.

    Numbers are the stride of the first frame of each group, that of its others, and how many these
    are together; one number is a stride for all. Raises OptionError, also if nothing is left of a
    frame of so many patches.
    """
    pool = said if isinstance(said, ProgressivePool) else before
    if said is not None and pool is not said:
        words = said if isinstance(said, list | tuple) else str(said).split(",")
        text = POOLS.get(str(said)) or ",".join(map(str, words))
        if re.fullmatch(r"\d{1,3}(\s*,\s*\d{1,3}){2}|\d{1,3}", text, re.ASCII) is None:
            raise OptionError(
                "pool must be a stride such as 4, or a group's first stride, its others' and its "
                f"frames as in 2,8,4, or one of {', '.join(POOLS)}; got {said!r:.40}"
            )
        high, *more = map(int, text.split(","))
        low, group = more or (high, 1)
        pool = replace(before, high=high, low=low, group=group)
    if mode is not None:
        pool = replace(pool, mode=mode)
    try:
        pool.planned(1, patches)
    except PromptError as error:
        raise OptionError(f"pool: {error}") from error
    return pool


COMMON = ("kv", "extend")
"""Options that every system has."""
