"""The sizes that a video model's costs depend on, and those of the published models.

`layers` of a tower counts the blocks that run: the last one's output is never used. LongVA-7B is
what others are compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Tower(Protocol):
    """A tower as far as its cost depends on it; every tower's config is one."""

    @property
    def hidden(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def mlp(self) -> int: ...
    @property
    def image(self) -> int: ...
    @property
    def patch(self) -> int: ...


class Decoder(Protocol):
    """A Qwen2 as far as its cost depends on it; `DecoderConfig` is one."""

    @property
    def hidden(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def mlp(self) -> int: ...
    @property
    def vocab(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class VideoSizes:
    """A video model as far as its cost depends on it."""

    tower: Tower
    decoder: Decoder
    per_frame: float
    """Tokens of a frame that the decoder reads."""
    clip: int = 1
    """Frames that the tower lets attend to one another."""
    class_token: bool = False
    """Whether the tower has one more token than patches."""
    merged: bool = False
    """Tokens are merged before the projector; else they are pooled behind it."""
    projector_depth: int = 2


@dataclass(frozen=True, kw_only=True)
class TowerSizes:
    """Sizes of a vision tower."""

    hidden: int
    layers: int
    heads: int
    mlp: int
    image: int
    patch: int


@dataclass(frozen=True, kw_only=True)
class DecoderSizes:
    """Sizes of a Qwen2."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int


QWEN2_7B = DecoderSizes(
    hidden=3584, layers=28, heads=28, kv_heads=4, head_dim=128, mlp=18944, vocab=152064
)
"""Also Qwen2.5-7B and Qwen2.5-7B-1M."""
QWEN2_1_5B = DecoderSizes(
    hidden=1536, layers=28, heads=12, kv_heads=2, head_dim=128, mlp=8960, vocab=151936
)
"""Also Qwen2.5-1.5B."""

CLIP_L_336 = TowerSizes(hidden=1024, layers=23, heads=16, mlp=4096, image=336, patch=14)
UMT_L_224 = TowerSizes(hidden=1024, layers=23, heads=16, mlp=4096, image=224, patch=16)
UMT_L_448 = TowerSizes(hidden=1024, layers=23, heads=16, mlp=4096, image=448, patch=16)
INTERNVIDEO2_1B = TowerSizes(hidden=1408, layers=39, heads=16, mlp=6144, image=224, patch=14)

LONGVA_7B = VideoSizes(tower=CLIP_L_336, decoder=QWEN2_7B, per_frame=144, class_token=True)
"""24 x 24 patches pooled 2 x 2 behind the projector. Video-XL-7B differs in its windows alone."""


def flash(tower: TowerSizes, decoder: DecoderSizes, class_token: bool = False) -> VideoSizes:
    """A VideoChat-Flash: clips of 4 frames, merged to 64 tokens before the projector."""
    return VideoSizes(
        tower=tower, decoder=decoder, per_frame=16, clip=4, class_token=class_token, merged=True
    )


FLASH_7B_224 = flash(UMT_L_224, QWEN2_7B)
FLASH_7B_448 = flash(UMT_L_448, QWEN2_7B)
FLASH_2B_448 = flash(UMT_L_448, QWEN2_1_5B)
