"""UMT, the video encoder of Unmasked Teacher (arXiv 2303.16058), as VideoChat-Flash uses it.

A plain ViT over all tokens of a clip, without a class token. Its positions are a fixed sin-cos
table that no checkpoint stores: one row per token of a clip at 224 pixels, numbered through all
frames. Other resolutions resize the table frame by frame; images see its first frame.

Letters: B clips, F frames, C channels, H W pixels, P patches of one frame, L = F*P tokens, D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtake.parts.clips import (
    MLP,
    ClipTowerConfig,
    PatchEmbed,
    attend_all,
    check_clips,
    tower_sizes,
)
from longtake.parts.layers import LayerNorm, Linear, added

HEAD_WIDTH = 64
NATIVE_SIDE = 14
"""Patches along an edge at 224 pixels, for which the position table is made."""


@dataclass(frozen=True, kw_only=True)
class UMTConfig(ClipTowerConfig):
    """Sizes of a UMT tower."""

    patch: int = 16


def umt_config(shapes: Mapping[str, tuple[int, ...]], prefix: str, image: int) -> UMTConfig:
    """A tower from published names and shapes; `image` is not among what they tell.

    Raises CheckpointError if they are not those of a UMT.
    """
    sizes = tower_sizes(shapes, prefix)
    return UMTConfig(
        hidden=sizes.hidden,
        layers=sizes.layers,
        heads=sizes.heads(HEAD_WIDTH),
        mlp=sizes.mlp,
        image=image,
    )


def sincos(rows: int, width: int) -> Tensor:
    """Sines in the even columns, cosines in the odd ones: float32 [rows, D] on the CPU."""
    position_L1 = torch.arange(rows, dtype=torch.float64, device="cpu")[:, None]
    column_D = torch.arange(width, dtype=torch.float64, device="cpu")
    angle_LD = position_L1 / 10000 ** (2 * (column_D // 2) / width)
    even_D = column_D % 2 == 0
    return torch.where(even_D, angle_LD.sin(), angle_LD.cos()).float()


def resize_grid(table_FDHW: Tensor, side: int) -> Tensor:
    """Each frame's map to `side` x `side`, bicubic and without antialiasing."""
    return F.interpolate(table_FDHW, (side, side), mode="bicubic", align_corners=False)


def positions(config: UMTConfig, frames: int) -> Tensor:
    """The position table of a clip or an image: float32 [L, D] on the CPU."""
    table_LD = sincos(frames * NATIVE_SIDE**2, config.hidden)
    if config.side == NATIVE_SIDE:
        return table_LD
    table_FDHW = table_LD.view(frames, NATIVE_SIDE, NATIVE_SIDE, -1).permute(0, 3, 1, 2)
    return resize_grid(table_FDHW, config.side).permute(0, 2, 3, 1).flatten(0, 2)


@lru_cache(maxsize=8)
def cached_positions(
    config: UMTConfig, frames: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """`positions`, kept outside of the module: nothing to load, nothing to lose on "meta"."""
    with torch.inference_mode(False):  # or training after a first look could not use it
        return positions(config, frames).to(device, dtype)


class Attention(nn.Module):
    """Multi-head self-attention over the tokens of a clip; queries and values have a bias."""

    def __init__(self, config: UMTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = Linear(config.hidden, 3 * config.hidden, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(config.hidden))
        self.v_bias = nn.Parameter(torch.zeros(config.hidden))
        self.proj = Linear(config.hidden, config.hidden)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = self.qkv.product(x_BLD, bias).chunk(3, dim=-1)
        return self.proj(attend_all(q, k, v, self.heads))


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, config: UMTConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.hidden, eps=1e-6)
        self.attn = Attention(config)
        self.norm2 = LayerNorm(config.hidden, eps=1e-6)
        self.mlp = MLP(config)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        x_BLD = added(x_BLD, self.attn(self.norm1(x_BLD)))
        return added(x_BLD, self.mlp(self.norm2(x_BLD)))


class UMT(nn.Module):
    """A UMT tower without what its users drop: the last block and everything behind the norm."""

    def __init__(self, config: UMTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.vision_layernorm = LayerNorm(config.hidden, eps=1e-12)

    def forward(self, pixels_BFCHW: Tensor) -> Tensor:
        """[B, F, 3, H, W] normalised pixels -> [B, F*P, D]; F is 4, or 1 for images.

        Raises PromptError for pixels of another shape.
        """
        check_clips(pixels_BFCHW, self.config)
        x_BLD = self.patch_embed(pixels_BFCHW)
        x_BLD = x_BLD + cached_positions(
            self.config, pixels_BFCHW.shape[1], x_BLD.device, x_BLD.dtype
        )
        for block in self.blocks:
            x_BLD = block(x_BLD)
        return self.vision_layernorm(x_BLD)
