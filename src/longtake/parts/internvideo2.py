"""InternVideo2 (arXiv 2403.15377), the 1B video encoder, as VideoChat-Flash uses it.

Beside UMT: a class token (dropped at the end), learned positions, one table for clips and one for
images, RMS norms, queries and keys normalised before they are split into heads, LayerScale, and no
norm behind the last block.

Letters: B clips, F frames, C channels, H W pixels, P patches of one frame, L = 1 + F*P tokens,
D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from longtake.parts.clips import (
    MLP,
    ClipTowerConfig,
    PatchEmbed,
    attend_all,
    check_clips,
    tower_sizes,
)
from longtake.parts.layers import Linear, RMSNorm, added

HEAD_WIDTH = 88
EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class InternVideo2Config(ClipTowerConfig):
    """Sizes of an InternVideo2 tower."""

    image: int = 224
    patch: int = 14


def internvideo2_config(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> InternVideo2Config:
    """A tower from published names and shapes.

    Raises CheckpointError if they are not those of an InternVideo2.
    """
    sizes = tower_sizes(shapes, prefix)
    return InternVideo2Config(
        hidden=sizes.hidden, layers=sizes.layers, heads=sizes.heads(HEAD_WIDTH), mlp=sizes.mlp
    )


class LayerScale(nn.Module):
    """A learned factor per channel, multiplied in fp32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x_BLD: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        return (x_BLD.float() * self.weight.float()).to(x_BLD.dtype)


class Attention(nn.Module):
    """Multi-head self-attention over the tokens of a clip, queries and keys normalised."""

    def __init__(self, config: InternVideo2Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = Linear(config.hidden, 3 * config.hidden, bias=False)
        self.q_norm = RMSNorm(config.hidden, EPS)
        self.k_norm = RMSNorm(config.hidden, EPS)
        self.proj = Linear(config.hidden, config.hidden)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        q, k, v = self.qkv(x_BLD).chunk(3, dim=-1)
        # over all heads together, not over each
        return self.proj(attend_all(self.q_norm(q), self.k_norm(k), v, self.heads))


class Block(nn.Module):
    """Pre-norm attention and MLP, each scaled."""

    def __init__(self, config: InternVideo2Config) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.hidden, EPS)
        self.attn = Attention(config)
        self.ls1 = LayerScale(config.hidden)
        self.norm2 = RMSNorm(config.hidden, EPS)
        self.mlp = MLP(config)
        self.ls2 = LayerScale(config.hidden)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        x_BLD = added(x_BLD, self.ls1(self.attn(self.norm1(x_BLD))))
        return added(x_BLD, self.ls2(self.mlp(self.norm2(x_BLD))))


class InternVideo2(nn.Module):
    """An InternVideo2 tower without what its users drop: class token, last block, pooling head."""

    def __init__(self, config: InternVideo2Config) -> None:
        super().__init__()
        self.config = config
        tokens = 1 + config.frames * config.patches
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden))
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, config.hidden) * 0.02)
        self.img_pos_embed = nn.Parameter(torch.randn(1, 1 + config.patches, config.hidden) * 0.02)
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))

    def forward(self, pixels_BFCHW: Tensor) -> Tensor:
        """[B, F, 3, H, W] normalised pixels -> [B, F*P, D]; F is 4, or 1 for images.

        Raises PromptError for pixels of another shape.
        """
        check_clips(pixels_BFCHW, self.config)
        x_BLD = self.patch_embed(pixels_BFCHW)
        first_B1D = self.cls_token.to(x_BLD.dtype).expand(len(x_BLD), 1, -1)
        table = self.img_pos_embed if pixels_BFCHW.shape[1] == 1 else self.pos_embed
        x_BLD = torch.cat([first_B1D, x_BLD], dim=1) + table.to(x_BLD.dtype)
        for block in self.blocks:
            x_BLD = block(x_BLD)
        return x_BLD[:, 1:]
