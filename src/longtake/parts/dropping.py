"""Which visual tokens stay when some are dropped between decoder layers (VideoChat-Flash, HiCo).

Video-level compression: after certain layers only a share of the visual tokens goes on, chosen
evenly or by how much the prompt's last token looks at them. What stays closes ranks: positions are
counted anew. Arithmetic only; `longtake.staged` reads with it chunk by chunk, `DropBetween` all at
once, for batches and training.

Letters: S tokens of a sequence, K of them that stay, H heads, N keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from reprlib import repr as brief
from typing import Literal, get_args

import torch
from torch import Tensor

from longtake.errors import OptionError

Kind = Literal["uniform", "attention", "uniform0_attention", "uniform1_attention"]

EVEN_STAGES = {"uniform": None, "attention": 0, "uniform0_attention": 1, "uniform1_attention": 2}
"""How many of the first drops are even; None is all of them."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """After which layers visual tokens are dropped, how, and how many stay."""

    kind: Kind = "uniform0_attention"
    """How those that stay are chosen."""
    layers: tuple[int, ...]
    """Drops come after so many layers, in rising order."""
    ratios: tuple[float, ...]
    """Share of a visual's tokens in the layers before the first drop (1), and after each."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            known = ", ".join(get_args(Kind))
            raise OptionError(f"drop kind {brief(self.kind)} is unknown; choose {known}")
        rising = list(self.layers) == sorted(set(self.layers))
        if not self.layers or not rising or not all(type(n) is int and n > 0 for n in self.layers):
            raise OptionError(
                "drop layers must be whole numbers from 1 that rise, "
                f"got {brief(list(self.layers))}"
            )
        if len(self.ratios) != len(self.layers) + 1:
            raise OptionError(
                f"drop needs {len(self.layers) + 1} ratios for {len(self.layers)} layers: one "
                f"before the first and one after each; got {len(self.ratios)}"
            )
        try:  # or drops that are equal would be told apart by how they are written
            object.__setattr__(self, "ratios", tuple(map(float, self.ratios)))
        except (TypeError, ValueError) as error:
            shown = brief(list(self.ratios))
            raise OptionError(f"drop ratios must be numbers, got {shown}") from error
        falling = list(self.ratios) == sorted(self.ratios, reverse=True)
        if self.ratios[0] != 1 or not falling or not all(ratio > 0 for ratio in self.ratios):
            raise OptionError(
                "drop ratios must start at 1, never rise and stay above 0, "
                f"got {brief(list(self.ratios))}"
            )

    def check_depth(self, layers: int) -> None:
        """Raise OptionError unless layers are left after the last drop (these rank for it)."""
        if self.layers[-1] >= layers:
            raise OptionError(
                f"drop after layer {self.layers[-1]} leaves none of the model's {layers} layers"
            )

    def counts(self, tokens: int) -> tuple[int, ...]:
        """A visual's tokens in each stage, truncated as in the original; one stays at least."""
        return tuple(min(tokens, max(1, int(tokens * ratio))) for ratio in self.ratios)

    def is_even(self, drop: int) -> bool:
        """Whether drop number `drop`, from 0, is made without looking at the prompt."""
        even = EVEN_STAGES[self.kind]
        return even is None or drop < even

    @property
    def shared(self) -> int:
        """Drops that come before the first one that depends on the question."""
        even = EVEN_STAGES[self.kind]
        return len(self.layers) if even is None else min(even, len(self.layers))

    @property
    def depends(self) -> bool:
        """Whether what stays depends on the question."""
        return self.shared < len(self.layers)

    def stages(self, layers: int) -> list[range]:
        """The layers of each stage of a decoder of `layers` layers."""
        ends = [*self.layers, layers]
        return [range(first, last) for first, last in zip([0, *self.layers], ends, strict=True)]

    def rows(self, layers: int, visual: Sequence[int], other: int) -> list[int]:
        """Tokens each layer reads of visuals of so many tokens and `other` tokens of text."""
        counts = [self.counts(tokens) for tokens in visual]
        return [
            other + sum(count[stage] for count in counts)
            for stage, part in enumerate(self.stages(layers))
            for _ in part
        ]


@dataclass(frozen=True)
class Holding:
    """What a decoder reads of visuals, and what a memory of them holds."""

    schedule: Schedule | None
    """None drops nothing."""
    layers: int

    def rows(self, visuals: Sequence[int], other: int = 0) -> list[int]:
        """Tokens each layer reads of visuals of so many tokens and `other` of text."""
        if self.schedule is None:
            return [sum(visuals) + other] * self.layers
        return self.schedule.rows(self.layers, visuals, other)

    def held(self, visuals: Sequence[int]) -> list[int]:
        """Visual tokens whose keys and values a memory holds in each layer, before a question."""
        rows = self.rows(visuals)
        if self.schedule is None or not self.schedule.depends:
            return rows
        first = self.schedule.layers[self.schedule.shared]
        return rows[:first] + [0] * (self.layers - first)

    def waiting(self, visuals: Sequence[int]) -> int:
        """Rows that wait for a question, where what stays depends on it."""
        if self.schedule is None or not self.schedule.depends:
            return 0
        return sum(self.schedule.counts(tokens)[self.schedule.shared] for tokens in visuals)


@dataclass(frozen=True)
class Block:
    """A visual in a sequence."""

    start: int
    """First of its tokens that are left."""
    left: int
    """How many are left."""
    tokens: int
    """How many there were before the first drop."""


def even_rows(left: int, stay: int) -> Tensor:
    """Spread `stay` of `left` tokens evenly, first and last included: [stay], int64, on the CPU.

    torch's integer linspace, as in the original: computed in floats, truncated.
    """
    return torch.linspace(0, left - 1, stay, dtype=torch.int64)


def ranked_rows(looks_N: Tensor, stay: int) -> Tensor:
    """The `stay` tokens that are looked at most, in their order: [stay]."""
    # stable: of tokens looked at alike the earlier ones stay, on every device
    order_N = looks_N.argsort(descending=True, stable=True)
    return order_N[:stay].sort().values


def kept_rows(
    schedule: Schedule, drop: int, blocks: Sequence[Block], length: int, looks_S: Tensor | None
) -> tuple[Tensor, tuple[Block, ...]]:
    """Rows of a sequence of `length` that stay in a drop: [K], and where visuals lie afterwards.

    `looks_S`: how much each row is looked at, on its device, where the drop is not even. Each
    visual loses its own share, so that none vanishes beside another.
    """
    device = torch.device("cpu") if looks_S is None else looks_S.device
    parts, after, done, place = [], [], 0, 0
    for block in blocks:
        stay = schedule.counts(block.tokens)[drop + 1]
        looks_N = None if looks_S is None else looks_S[block.start : block.start + block.left]
        rows = even_rows(block.left, stay) if looks_N is None else ranked_rows(looks_N, stay)
        parts += [torch.arange(done, block.start, device=device), rows + block.start]
        place += block.start - done
        after.append(replace(block, start=place, left=stay))
        place += stay
        done = block.start + block.left
    parts.append(torch.arange(done, length, device=device))
    return torch.cat(parts), tuple(after)


def looks(scores_HQN: Tensor) -> Tensor:
    """Attention on each key, averaged over heads and queries: [H, Q, N] scores -> [N], fp32."""
    return scores_HQN.float().softmax(-1).mean((0, 1))
