"""Pooling of frames whose tokens are a square grid, all alike or every few finer than the rest.

T frames, P patches per frame (a square grid, row-major), Q pooled patches, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.choices import POOL_MODES, check_choice
from longtake.errors import OptionError, PromptError
from longtake.types import VisualTokens

PoolMode = Literal["average", "max", "bilinear", "area"]
"""Means or maxima of blocks; values half way between the nearest patches (LLaVA-OneVision), which
at a stride of 8 read 64 of 27 x 27; means of blocks that overlap, so that no patch is left out."""


def grid_pool(features_TPD: Tensor, stride: int, mode: PoolMode = "average") -> Tensor:
    """Pool `stride` x `stride` blocks: [T, P, D] -> [T, Q, D].

    "average" and "max" drop edges that fill no block. Raises PromptError if the patches are no
    square grid, or nothing of it is left.
    """
    side = grid_side(features_TPD.shape[1])
    left = pooled_side(side, stride, mode)
    grid_TDHW = features_TPD.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    if mode == "bilinear":
        pooled_TDHW = F.interpolate(grid_TDHW, (left, left), mode="bilinear", align_corners=False)
    elif mode == "area":
        pooled_TDHW = F.adaptive_avg_pool2d(grid_TDHW, left)
    else:
        pool = F.avg_pool2d if mode == "average" else F.max_pool2d
        pooled_TDHW = pool(grid_TDHW, stride)
    return pooled_TDHW.flatten(2).transpose(1, 2)


def grid_side(patches: int) -> int:
    """Patches along an edge. Raises PromptError if they are no square grid."""
    side = math.isqrt(patches)
    if side * side != patches:
        raise PromptError(f"pooling needs a square grid, got {patches} patches")
    return side


def pooled_side(side: int, stride: int, mode: PoolMode) -> int:
    """What is left of an edge; a block that is not full counts unless the mode drops such.

    Raises PromptError if nothing is left.
    """
    blocks = side // max(1, stride) if mode in ("average", "max") else -(-side // max(1, stride))
    left = blocks if stride > 0 else 0
    if not left:
        raise PromptError(f"stride must be 1..{side} for a {side}x{side} grid, got {stride}")
    return left


@dataclass(frozen=True, kw_only=True)
class ProgressivePool:
    """Pool the first of every few frames less than the others (arXiv 2409.20018, section 3.2).

    A chunk of frames comes in, the same frames pooled go out, whatever the chunks' sizes.
    """

    high: int = 2
    """Stride of the first frame of each group, which keeps more."""
    low: int = 2
    """Stride of the others."""
    group: int = 1
    """Frames of a group; the last may be short. 0 and 1 pool every frame by `high`."""
    mode: PoolMode = "bilinear"

    def __post_init__(self) -> None:
        for name, least in (("high", 1), ("low", 1), ("group", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise OptionError(
                    f"pool {name} must be a whole number from {least}, got {value!r:.40}"
                )
        check_choice("pool mode", self.mode, POOL_MODES)
        if self.low < self.high and self.group > 1:
            raise OptionError(
                f"pool strides must rise from the first frame of a group to the others, got "
                f"{self.high} and {self.low}"
            )

    @property
    def period(self) -> int:
        """After so many frames it begins again."""
        return max(1, self.group)

    def stride(self, frame: int) -> int:
        """Of one frame of a video."""
        return self.low if frame % self.period else self.high

    def __call__(self, stream: Iterator[VisualTokens]) -> Iterator[VisualTokens]:
        """Chunks of frames of one size in, the same chunks pooled out."""
        begin = 0
        for tokens in stream:
            frames, patches = len(tokens.counts), tokens.counts[0]
            if set(tokens.counts) != {patches}:
                raise PromptError(f"frames of a chunk differ: {sorted(set(tokens.counts))} patches")
            features_TPD = tokens.features_ND.unflatten(0, (-1, patches))
            parts, place = [], 0
            for stride, alike in groupby(map(self.stride, range(begin, begin + frames))):
                run_TPD = features_TPD[place : place + len(list(alike))]
                parts.append(grid_pool(run_TPD, stride, self.mode))
                place += len(run_TPD)
            yield replace(
                tokens,
                features_ND=torch.cat([part_TQD.flatten(0, 1) for part_TQD in parts]),
                counts=tuple(part.shape[1] for part in parts for _ in range(len(part))),
            )
            begin += frames

    def planned(self, frames: int, patches: int) -> int:
        """Tokens of a video of so many frames of so many patches.

        Raises PromptError if nothing is left of a frame.
        """
        side, high = grid_side(patches), -(-frames // self.period)
        first = pooled_side(side, self.high, self.mode)
        # where all are alike, the other stride means nothing
        other = first if self.period == 1 else pooled_side(side, self.low, self.mode)
        return high * first**2 + (frames - high) * other**2


def uniform_pool(stride: int, mode: PoolMode = "average") -> ProgressivePool:
    """Pool all frames alike (LongVA, section 3.2: 576 -> 144 tokens)."""
    return ProgressivePool(high=stride, low=stride, mode=mode)


@dataclass(frozen=True)
class KeepAll:
    """Pool nothing: tokens go on as they come."""

    def __call__(self, stream: Iterator[VisualTokens]) -> Iterator[VisualTokens]:
        """The same."""
        return stream
