"""Linear, norm and embedding layers that compute in the activation's precision.

Weights may stay bf16 in memory while the arithmetic runs in fp32: on common CPUs a bf16 matrix
product is 6-8x slower than fp32, and upcasting one weight at a time costs next to nothing
(docs/design.md). Where the two precisions agree (GPU, or fp32 weights) the casts are no-ops.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """`nn.Linear` whose weight is cast to the input's dtype for the product."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], in x's dtype."""
        bias: Tensor | None = self.bias  # torch declares it as always there
        bias = None if bias is None else bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` in the input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class RMSNorm(nn.Module):
    """Root-mean-square norm of Qwen2: statistics in fp32, scale in the input's dtype."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight.to(x.dtype) * wide.to(x.dtype)
