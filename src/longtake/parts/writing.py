"""An answer in the making: what each new token does to it, and when it is over. V vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from longtake.parts.sampling import choose
from longtake.parts.text import TextStream
from longtake.types import Options


@dataclass(kw_only=True)
class Pen:
    """Writes one answer: give it logits, read behind the prompt what it gives back."""

    options: Options
    end_ids: Collection[int]
    """Ids that end an answer."""
    decode: Callable[[Sequence[int]], str]
    penalised: Sequence[int] = ()
    """Ids that the repetition penalty counts as written already."""
    ids: list[int] = field(default_factory=list)
    """Written so far; the end id, where one is written, is part of them."""
    finish: Literal["stop", "length", "cancelled"] = "length"

    def __post_init__(self) -> None:
        self._generator = torch.Generator().manual_seed(self.options.seed)
        self._stream = TextStream(self.decode, self.options.stop)
        self._show = self.options.on_text or (lambda _: None)

    def take(self, logits_V: Tensor) -> int | None:
        """The next token, to be read before the next call; None once the answer is over.

        Raises OptionError if the logits are not finite.
        """
        token = self._next(logits_V)
        if token is None:
            self._show(self._stream.finish())
        return token

    def _next(self, logits_V: Tensor) -> int | None:
        options = self.options
        if options.cancelled is not None and options.cancelled():
            self.finish = "cancelled"
            return None
        token = choose(logits_V, [*self.penalised, *self.ids], options, self._generator)
        self.ids.append(token)
        if token not in self.end_ids:
            self._show(self._stream.push(token))
        if token in self.end_ids or self._stream.stopped:
            self.finish = "stop"
            return None
        return token if len(self.ids) < options.max_new_tokens else None

    def give_up(self) -> None:
        """Leave the answer as it is."""
        self.finish = "cancelled"
        self._show(self._stream.finish())
