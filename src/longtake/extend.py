"""The option `extend`: read further than the checkpoint was trained to, without training.

The weights stay; their positions become other angles (`longtake.parts.rope`). A fixed factor is
part of the model's positions; a visual window is a wish, from which each request gets its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from longtake.errors import OptionError
from longtake.model import LongtakeModel
from longtake.parts.rope import Linear, Ntk, Ramp, Rope, Yarn

FACTOR = 4.0
"""Where none is said; what Qwen2's authors publish for their own models."""

VISUAL = "visual-window"
MOST = 10**9
"""Tokens; more is a slip of the keyboard."""
NUMBER = r"[0-9]{1,10}"


@dataclass(frozen=True, kw_only=True)
class VisualWindow:
    """Stretch by the visual tokens of a request over those of training (arXiv 2409.20018).

    The paper leaves some of it open; the first choice of each is what its figures say.
    """

    window: int = 6272
    """Most visual tokens of a video in training: 32 frames of 196."""
    target: int | Literal["auto", "nominal"] = "auto"
    """What is stretched for: the request's visual tokens, as many as without a pooling of the
    user's, or a number; never less than the first."""
    ramp: Ramp = "dim"
    temperature: Literal["yarn", "none"] = "yarn"
    """Whether attention is sharpened, as in YaRN; the paper does not say."""

    def __post_init__(self) -> None:
        for name, words, numbers in (
            ("window", (), True),
            ("target", ("auto", "nominal"), True),
            ("ramp", ("dim", "rotations"), False),
            ("temperature", ("yarn", "none"), False),
        ):
            value = getattr(self, name)
            number = type(value) is int and 1 <= value <= MOST
            if value not in words and not (numbers and number):
                known = " or ".join((*words, *[f"a whole number from 1 to {MOST}"] * numbers))
                raise OptionError(f"{VISUAL} {name} must be {known}, got {value!r:.40}")

    def resolved(self, tokens: int, nominal: int) -> int:
        """What is stretched for in a request of `tokens` visual tokens; `nominal`: unpooled."""
        asked = {"auto": 0, "nominal": nominal}.get(str(self.target), self.target)
        return max(tokens, int(asked))

    def rope(self, rope: Rope, target: int) -> Rope:
        """Positions stretched for so many visual tokens; up to `window`, the plain ones."""
        factor = self.resolved(target, 0) / self.window
        attention = 1.0 if self.temperature == "none" else None
        return rope.stretched(
            Yarn(factor=factor, original=self.window, ramp=self.ramp, attention=attention)
        )


PRESETS: Mapping[str, VisualWindow] = {
    "paper": VisualWindow(),
    "nominal": VisualWindow(target="nominal"),
    "fig2": VisualWindow(window=6144, target=65536),
}
"""Readings of the paper: by what is read, by its frames as the model pools them, and the static
factor of its figure 2."""

FIXED: Mapping[str, Callable[[float, Rope], Linear | Ntk | Yarn]] = {
    "linear": lambda factor, rope: Linear(factor=factor),
    "ntk": lambda factor, rope: Ntk(factor=factor),
    "yarn": lambda factor, rope: Yarn(factor=factor, original=rope.positions),
}


def extended(
    model: LongtakeModel, window: int | None, said: object
) -> tuple[LongtakeModel, int | None]:
    """The model and its trained window as `said`; None leaves them. Raises OptionError.

    An extension that was chosen before is replaced.
    """
    rope = model.rope if said is None else extension(said, model.rope)
    return positioned(model, window, rope)


def positioned(
    model: LongtakeModel, window: int | None, rope: Rope
) -> tuple[LongtakeModel, int | None]:
    """The model with these positions, and how far it then reads."""
    before = model.rope
    if rope == before:
        return model, window
    # two roundings: the checkpoint's own window comes back exactly
    own = None if window is None else round(window / before.factor)
    return model.positioned(rope), None if own is None else round(own * rope.factor)


def extension(said: object, rope: Rope) -> Rope:
    """Positions between requests, by "yarn:4", "linear:4", "ntk:4" (4 times as far), "none".

    Those of a visual window are the plain ones. Raises OptionError.
    """
    if said == "none" or visual_window(said) is not None:
        return replace(rope, scaling=None)
    shown = f"{said!r:.60}"
    kind, colon, number = said.partition(":") if isinstance(said, str) else ("", "", "")
    if kind not in FIXED:
        known = "none, linear:N, ntk:N, yarn:N or visual-window"
        raise OptionError(f"extend {shown} is unknown; choose {known}")
    factor = factor_of(number, shown) if colon else FACTOR
    return rope.stretched(FIXED[kind](factor, rope))


def factor_of(number: str, shown: str) -> float:
    """How many times as far. Raises OptionError."""
    plain = re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", number)
    if plain is None or float(number) < 1.0:
        raise OptionError(f"extend needs a number from 1 to 999999, as in yarn:4, got {shown}")
    return float(number)


def visual_window(said: object) -> VisualWindow | None:
    """The wish behind "visual-window", "visual-window:fig2" or "visual-window:target=65536".

    Several words are put together by commas, a preset first. None if it is another kind. Raises
    OptionError.
    """
    if isinstance(said, VisualWindow):
        return said
    kind, colon, rest = str(said).partition(":")
    if kind != VISUAL:
        return None
    words = rest.split(",") if colon else ["paper"]
    base = PRESETS.get(words[0])
    pairs = [word.partition("=") for word in (words if base is None else words[1:])]
    given: dict[str, Any] = {
        name: int(text) if re.fullmatch(NUMBER, text) else text for name, _, text in pairs
    }
    if len(given) < len(pairs) or not set(given) <= {field.name for field in fields(VisualWindow)}:
        raise OptionError(
            f"{VISUAL} takes {', '.join(PRESETS)}, or window=, target=, ramp=, temperature=, "
            f"as in {VISUAL}:fig2,ramp=rotations; got {said!r:.60}"
        )
    return replace(base or PRESETS["paper"], **given)
