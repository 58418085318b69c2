"""The option `extend`: read further than the checkpoint was trained to, without training.

The weights stay; their positions become other angles (`longtake.parts.rope`).
"""

from __future__ import annotations

import re
from dataclasses import replace

from longtake.errors import OptionError
from longtake.model import LongtakeModel
from longtake.parts.rope import Rope, Yarn

FACTOR = 4.0
"""Where none is said; what Qwen2's authors publish for their own models."""


def extended(
    model: LongtakeModel, window: int | None, said: object
) -> tuple[LongtakeModel, int | None]:
    """The model and its trained window as `said`; None leaves them. Raises OptionError.

    An extension that was chosen before is replaced.
    """
    before = model.rope
    rope = before if said is None else extension(said, before)
    if rope == before:
        return model, window
    # two roundings: the checkpoint's own window comes back exactly
    own = None if window is None else round(window / before.factor)
    return model.positioned(rope), None if own is None else round(own * rope.factor)


def extension(said: object, rope: Rope) -> Rope:
    """Positions by "yarn:4" (4 times as far), "yarn" (the same) or "none". Raises OptionError."""
    shown = f"{said!r:.60}"
    kind, colon, number = said.partition(":") if isinstance(said, str) else ("", "", "")
    if said == "none":
        return replace(rope, scaling=None)
    if kind != "yarn":
        raise OptionError(f"extend {shown} is unknown; choose none, yarn or yarn:N")
    factor = factor_of(number, shown) if colon else FACTOR
    # a factor of 1 stretches nothing
    stretched = factor > 1.0
    yarn = Yarn(factor=factor, original=rope.positions) if stretched else None
    return replace(rope, scaling=yarn)


def factor_of(number: str, shown: str) -> float:
    """How many times as far. Raises OptionError."""
    plain = re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", number)
    if plain is None or float(number) < 1.0:
        raise OptionError(f"extend needs a number from 1 to 999999, as in yarn:4, got {shown}")
    return float(number)
