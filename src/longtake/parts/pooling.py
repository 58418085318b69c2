"""Grid pooling.

T frames, P patches per frame (a square grid, row-major), Q pooled patches, D width.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from longtake.errors import PromptError
from longtake.types import VisualTokens

PoolMode = Literal["average", "max"]


def grid_pool(features_TPD: Tensor, stride: int, mode: PoolMode = "average") -> Tensor:
    """Pool `stride` x `stride` blocks: [T, P, D] -> [T, Q, D]; edges that fill no block drop.

    Raises PromptError if the patches are no square grid or the stride is larger than it.
    """
    side = math.isqrt(features_TPD.shape[1])
    if side * side != features_TPD.shape[1]:
        raise PromptError(f"grid_pool needs a square grid, got {features_TPD.shape[1]} patches")
    if not 1 <= stride <= side:
        raise PromptError(
            f"grid_pool stride must be 1..{side} for a {side}x{side} grid, got {stride}"
        )
    grid_TDHW = features_TPD.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    pool = F.avg_pool2d if mode == "average" else F.max_pool2d
    return pool(grid_TDHW, stride).flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class PoolFrames:
    """Grid-pool each frame as it comes (LongVA, section 3.2: 576 -> 144 tokens)."""

    stride: int
    mode: PoolMode = "average"

    def __call__(self, stream: Iterator[VisualTokens]) -> Iterator[VisualTokens]:
        """Chunks of frames of one size in, the same chunks pooled out."""
        for tokens in stream:
            patches = tokens.counts[0]
            if set(tokens.counts) != {patches}:
                raise PromptError(f"frames of a chunk differ: {sorted(set(tokens.counts))} patches")
            features_TPD = tokens.features_ND.unflatten(0, (-1, patches))
            pooled_TQD = grid_pool(features_TPD, self.stride, self.mode)
            yield replace(
                tokens,
                features_ND=pooled_TQD.flatten(0, 1),
                counts=(pooled_TQD.shape[1],) * len(tokens.counts),
            )


@dataclass(frozen=True)
class KeepAll:
    """Pool nothing: tokens go on as they come."""

    def __call__(self, stream: Iterator[VisualTokens]) -> Iterator[VisualTokens]:
        """The same."""
        return stream
