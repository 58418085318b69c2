"""The CLIP and SigLIP vision towers: one small ViT with two differences.

CLIP has a class token, a norm before the blocks and quick-GELU; SigLIP has a bias on the patch
projection and tanh-GELU. Only the blocks whose output is used are built, so `hidden_states[-2]` of
a 24-block CLIP is a 23-block tower. Parameter names follow the published checkpoints.

Letters: T frames, C channels, H W pixels, P patches, L tokens (P plus the class token), D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtake.parts.layers import LayerNorm, Linear, added, gelu

Activation = Literal["quick_gelu", "gelu", "gelu_pytorch_tanh"]


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Sizes of a tower; `layers` counts the blocks that are built and run."""

    hidden: int
    layers: int
    heads: int
    mlp: int
    image: int
    patch: int
    activation: Activation
    eps: float
    class_token: bool
    """True for CLIP: class token and pre-norm; false for SigLIP: neither, but a patch bias."""

    @property
    def patches(self) -> int:
        """Patches of a frame."""
        return (self.image // self.patch) ** 2

    @property
    def frames_at_once(self) -> int:
        """Frames a CPU should see at a time: their widest activation stays below CPU_BYTES."""
        return max(1, CPU_BYTES // (4 * (self.patches + self.class_token) * self.mlp))


CPU_BYTES = 20_000_000
"""Larger buffers are mapped from and given back to the system at each operation: page faults, and
memory for nothing."""


def quick_gelu(x: Tensor) -> Tensor:
    """The sigmoid approximation of GELU that OpenAI's CLIP was trained with; as `gelu`, into x."""
    if torch.is_grad_enabled():
        return x * torch.sigmoid(1.702 * x)
    return x.mul_((1.702 * x).sigmoid_())


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of GELU that SigLIP was trained with; as `gelu`, into x."""
    return gelu(x, approximate="tanh")


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": gelu,
    "gelu_pytorch_tanh": gelu_tanh,
}


class Embeddings(nn.Module):
    """Patches and positions."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(
            3, config.hidden, config.patch, config.patch, bias=not config.class_token
        )
        if config.class_token:
            self.class_embedding = nn.Parameter(torch.randn(config.hidden) * 0.02)
        tokens = config.patches + config.class_token
        self.position_embedding = nn.Embedding(tokens, config.hidden)

    def forward(self, pixels_TCHW: Tensor) -> Tensor:
        """[T, 3, H, W] -> [T, L, D]."""
        conv, dtype = self.patch_embedding, pixels_TCHW.dtype
        bias = None if conv.bias is None else conv.bias.to(dtype)
        grid_TDHW = F.conv2d(pixels_TCHW, conv.weight.to(dtype), bias, conv.stride)
        x_TLD = grid_TDHW.flatten(2).transpose(1, 2)
        if hasattr(self, "class_embedding"):
            first = self.class_embedding.to(dtype).expand(len(x_TLD), 1, -1)
            x_TLD = torch.cat([first, x_TLD], dim=1)
        return x_TLD + self.position_embedding.weight.to(dtype)


class Attention(nn.Module):
    """Multi-head self-attention over the tokens of one frame."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.k_proj = Linear(config.hidden, config.hidden)
        self.v_proj = Linear(config.hidden, config.hidden)
        self.q_proj = Linear(config.hidden, config.hidden)
        self.out_proj = Linear(config.hidden, config.hidden)

    def forward(self, x_TLD: Tensor) -> Tensor:
        """[T, L, D] -> [T, L, D]."""
        q, k, v = (
            proj(x_TLD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linears around the activation."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.fc1 = Linear(config.hidden, config.mlp)
        self.fc2 = Linear(config.mlp, config.hidden)

    def forward(self, x_TLD: Tensor) -> Tensor:
        """[T, L, D] -> [T, L, D]."""
        return self.fc2(self.activation(self.fc1(x_TLD)))


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.layer_norm1 = LayerNorm(config.hidden, eps=config.eps)
        self.mlp = MLP(config)
        self.layer_norm2 = LayerNorm(config.hidden, eps=config.eps)

    def forward(self, x_TLD: Tensor) -> Tensor:
        """[T, L, D] -> [T, L, D]."""
        x_TLD = added(x_TLD, self.self_attn(self.layer_norm1(x_TLD)))
        return added(x_TLD, self.mlp(self.layer_norm2(x_TLD)))


class Encoder(nn.Module):
    """The blocks, under the published name."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))


class ViT(nn.Module):
    """A CLIP or SigLIP tower without what its users drop: class token out, no pooling head."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        if config.class_token:
            # spelled so in every published CLIP checkpoint
            self.pre_layrnorm = LayerNorm(config.hidden, eps=config.eps)
        self.encoder = Encoder(config)

    def forward(self, pixels_TCHW: Tensor) -> Tensor:
        """[T, 3, H, W] normalised pixels -> [T, P, D] patch features of the last block built."""
        x_TLD = self.tokens(pixels_TCHW)
        return x_TLD[:, 1:] if self.config.class_token else x_TLD

    def whole(self, pixels_TCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Class tokens [T, D] and patch features [T, P, D] of a tower that has a class token."""
        x_TLD = self.tokens(pixels_TCHW)
        return x_TLD[:, 0], x_TLD[:, 1:]

    def tokens(self, pixels_TCHW: Tensor) -> Tensor:
        """All tokens of the last block built: [T, 3, H, W] -> [T, L, D]."""
        x_TLD = self.embeddings(pixels_TCHW)
        if self.config.class_token:
            x_TLD = self.pre_layrnorm(x_TLD)
        for block in self.encoder.layers:
            x_TLD = block(x_TLD)
        return x_TLD
