"""Keys and values where deeper layers hold fewer tokens, since some were dropped on the way.

In every layer a token's position is how many tokens the layer holds before it, so what is read or
written later takes another position in each stage (VideoChat-Flash, video-level compression).

Letters: S rows, K rows that stay or key/value heads, N tokens held, E head width, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from longtake.errors import PromptError
from longtake.parts.cache import SLACK, GrowingCache, GrowingLayer
from longtake.parts.dropping import Block, Schedule
from longtake.parts.qwen2 import Between, Step


@dataclass(frozen=True, kw_only=True)
class Held:
    """Rows that wait before a drop."""

    start: int
    """Tokens before them, which no drop touches."""
    drop: int
    """Number of the drop."""
    rows: list[Tensor]
    """Chunks [S, D] of what the layers before have made."""
    blocks: tuple[Block, ...]
    """Where visuals lie among the rows."""
    keys: Mapping[int, Tensor]
    """Of each layer after a drop: keys [K, N, E] of the tokens before the rows."""

    @property
    def nbytes(self) -> int:
        """Bytes of rows and keys."""
        return sum(part.nbytes for part in (*self.rows, *self.keys.values()))


class StagedCache(GrowingCache):
    """A cache of layers that hold different parts of one sequence."""

    def __init__(self, schedule: Schedule, layers: int) -> None:
        super().__init__()
        self.schedule = schedule
        self.stages = schedule.stages(layers)
        self.alive: list[Tensor | None] = [None] * len(self.stages)
        """Of each stage: which tokens of the sequence its layers hold; None is all of them."""
        self.short = [0] * len(self.stages)
        """Of each stage: how many tokens of the sequence its layers do not hold."""
        self.settled = 0
        """Tokens of the memory; 0 until it is whole."""
        self.held: Held | None = None
        """Rows that wait for a question, where what stays depends on it."""
        self.resolved = False
        """Whether a question has taken the waiting rows through the layers."""
        self.coming = 0
        """Tokens there is to be room for behind the memory."""
        self.visuals: list[int] = []
        """While watching: tokens of each video so far, the one that is coming included."""
        self._rest: tuple[list[Tensor | None], list[int]] = (self.alive, self.short)

    # -- what others ask of a cache ---------------------------------------------------------------

    @property
    def between(self) -> Between:
        """Gives what is appended its position in each stage. Raises PromptError if none is due."""
        if self.held is not None and not self.resolved:
            raise PromptError(
                "what stays of this memory depends on the question; ask it with System.ask"
            )
        return self.shift

    @property
    def unread(self) -> bool:
        """Whether rows wait for a question."""
        return self.held is not None

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, and of waiting rows."""
        return super().nbytes + (0 if self.held is None else self.held.nbytes)

    def rows_of(self, layer: int) -> Tensor | None:
        """Which of the sequence's tokens a layer holds, in order; None is all of them."""
        return self.alive[self.stage_of(layer)]

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` of the sequence; deeper layers are told when they are reached."""
        self.coming = max(0, tokens - self.settled) if self.settled else 0
        for number, part in enumerate(self.stages):
            if number == 0 or (self.settled and self.held is None):
                for layer in part:
                    self._layer(layer).make_room(tokens - self.short[number] + SLACK)

    def new_layer(self) -> GrowingLayer:
        """One more layer."""
        return GrowingLayer()

    def rewind(self, length: int) -> None:
        """Forget what was read behind the memory. Raises PromptError for a length within it."""
        if length < self.settled:
            raise PromptError(f"a memory of {self.settled} tokens cannot go back to {length}")
        if self.held is not None and length == self.settled:
            self.alive, self.short = list(self._rest[0]), list(self._rest[1])
            self.resolved = False
        for number, part in enumerate(self.stages):
            for layer in part:
                self._layer(layer).rewind(length - self.short[number])
                if self.held is not None and number > self.held.drop:
                    self.layers[layer].trim()  # the next question keeps others

    def successor(self) -> StagedCache:
        """An empty cache for the same tokens in another form."""
        other = StagedCache(self.schedule, self.stages[-1].stop)
        other.restore(self.held, self.settled, list(self.alive), list(self.short))
        return other

    # -- how it is filled -------------------------------------------------------------------------

    def stage_of(self, layer: int) -> int:
        """Number of a layer's stage."""
        return next(number for number, part in enumerate(self.stages) if layer in part)

    def shift(self, layer: int, x_BSD: Tensor, step: Step) -> tuple[Tensor, Step]:
        """Between layers: positions in the next stage, which holds fewer tokens."""
        number = self.stage_of(layer)
        if layer + 1 != self.stages[number].stop or number + 1 == len(self.stages):
            return x_BSD, step
        fewer = self.short[number + 1] - self.short[number]
        if fewer and step.mask_BSN is not None:
            raise PromptError(
                "a memory with dropped tokens takes no padding mask: its layers hold other tokens; "
                "ask one question at a time"
            )
        return x_BSD, replace(step, positions_BS=step.positions_BS - fewer)

    def first_keys(self, tokens: int) -> dict[int, Tensor]:
        """Keys [K, N, E] of the first tokens in the layers by which drops are ranked."""
        ranks = [n for i, n in enumerate(self.schedule.layers) if not self.schedule.is_even(i)]
        found: dict[int, Tensor] = {}
        for layer in ranks if tokens else []:
            keys = self.layers[layer].keys
            assert keys is not None
            found[layer] = keys[0, :, :tokens].clone()
        return found

    def dropped(self, stage: int, start: int, stay_K: Tensor, room: int) -> None:
        """Take note of what the layers of a stage will hold: these rows behind the first `start`.

        `room`: tokens there is to be room for behind them.
        """
        total = self.get_seq_length()
        before = self._all(stage - 1, total).to(stay_K.device)
        alive = torch.cat([before[:start], before[start:][stay_K]])
        self.alive[stage], self.short[stage] = self._on_device(alive), total - len(alive)
        for layer in self.stages[stage]:
            self._layer(layer).make_room(len(alive) + room + SLACK)

    def _all(self, stage: int, total: int) -> Tensor:
        """Tokens of a stage out of `total`, those read behind the memory included."""
        alive = self.alive[stage]
        if alive is None:
            return torch.arange(total)
        later = total - self.short[stage] - len(alive)
        return torch.cat([alive, torch.arange(total - later, total, device=alive.device)])

    def _on_device(self, rows_N: Tensor) -> Tensor:
        keys = self.layers[0].keys
        return rows_N if keys is None else rows_N.to(keys.device)

    def settle(self, held: Held | None) -> None:
        """The memory is whole; `held` waits for questions."""
        self.held, self.settled = held, self.get_seq_length()
        if held is not None:
            for stage in range(held.drop + 1, len(self.stages)):
                self.short[stage] = self.settled - held.start
                self.alive[stage] = self._on_device(torch.arange(held.start))
        self._rest = (list(self.alive), list(self.short))

    def restore(
        self, held: Held | None, settled: int, alive: list[Tensor | None], short: list[int]
    ) -> None:
        """Be as another cache at rest, but for its layers."""
        self.held, self.settled, self.alive, self.short = held, settled, alive, short
        self._rest = (list(alive), list(short))
