"""What systems share whose frames are square grids of patches, pooled one by one.

The option `pool` chooses how: all alike, or every few frames finer than the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import torch

from longtake.costs import Stage, whole_stages
from longtake.parts.pooling import PoolMode, ProgressivePool, uniform_pool
from longtake.parts.qwen2 import DecoderConfig
from longtake.parts.vit import ViTConfig
from longtake.sizes import VideoSizes
from longtake.system import System
from longtake.weighing import Choices
from longtake.wishes import pool_of


class Grid(Protocol):
    """A config as far as frames depend on it."""

    @property
    def tower(self) -> ViTConfig: ...
    @property
    def decoder(self) -> DecoderConfig: ...
    @property
    def projector_depth(self) -> int: ...
    @property
    def stride(self) -> int:
        """Frames were pooled by this in training."""

    @property
    def mode(self) -> PoolMode: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Gridded(System):
    """A system of this kind."""

    choices: ClassVar[Choices] = ({"pool": "fine"}, {"pool": "paper"}, {"pool": "coarse"})
    config: Grid

    @property
    def trained_pool(self) -> ProgressivePool:
        """How frames were pooled in training."""
        return uniform_pool(self.config.stride, self.config.mode)

    @property
    def pool(self) -> ProgressivePool | None:
        """How frames are pooled; None if by something else."""
        return self.compress if isinstance(self.compress, ProgressivePool) else None

    def variant(self, *, pool: object = None, pool_mode: object = None, **options: Any) -> Self:
        """Pool otherwise, as `longtake.wishes.pool_of` says, and what every system has."""
        base = super().variant(**options)
        if pool is None and pool_mode is None:
            return base
        before = self.pool or self.trained_pool
        return replace(base, compress=pool_of(pool, pool_mode, before, self.config.tower.patches))

    def planned(self, frames: int) -> int | None:
        """Visual tokens that so many frames become, separators aside; None if only seeing tells."""
        pool = self.pool
        return None if pool is None else pool.planned(frames, self.config.tower.patches)

    def nominal(self, frames: int) -> int:
        """Visual tokens that so many frames were in training, separators aside."""
        return self.trained_pool.planned(frames, self.config.tower.patches)

    @property
    def video_sizes(self) -> VideoSizes:
        """A frame's patches, pooled behind the projector; on average where frames differ."""
        config, period = self.config, (self.pool or self.trained_pool).period
        # the second group alone: what ends a video is not any frame's
        once, twice = (self.arranged(n) or self.nominal(n) for n in (period, 2 * period))
        return VideoSizes(
            tower=config.tower,
            decoder=config.decoder,
            per_frame=(twice - once) / period,
            class_token=config.tower.class_token,
            projector_depth=config.projector_depth,
        )

    def stages(self, frames: int, dtype: torch.dtype | None = None) -> tuple[Stage, ...]:
        """What each stage of watching so many frames takes."""
        left = (self.arranged(frames) or self.nominal(frames)) / frames
        sizes = replace(self.video_sizes, per_frame=left)
        return whole_stages(sizes, frames, self.number_bytes(dtype))
