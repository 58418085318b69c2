"""Linear, norm and embedding layers that compute in the activation's precision.

Weights may stay bf16 in memory while the arithmetic runs in fp32: on common CPUs a bf16 matrix
product is 6-8x slower than fp32. Upcasting one weight at a time is nothing beside a prefill, but
about doubles the time of a written token of a large model (dtype="float32" avoids it where memory
allows). Where the two precisions agree the casts are no-ops.
"""

import threading

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Scratch(threading.local):
    """One buffer per thread that weights are upcast into, one after another.

    A fresh buffer for each product would cost several times the copy itself in page faults.
    """

    buffer: Tensor = torch.empty(0)

    def upcast(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """`weight` in another dtype, good until the next call on this thread."""
        if self.buffer.dtype != dtype or self.buffer.numel() < weight.numel():
            with torch.inference_mode(False):  # or no later call outside it could write here
                self.buffer = torch.empty(weight.numel(), dtype=dtype)
        return self.buffer[: weight.numel()].view(weight.shape).copy_(weight)


SCRATCH = Scratch()


class Linear(nn.Linear):
    """`nn.Linear` whose weight is cast to the input's dtype for the product."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], in x's dtype."""
        bias: Tensor | None = self.bias  # torch declares it as always there
        return self.product(x, bias)

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The same with a bias from elsewhere."""
        bias = None if bias is None else bias.to(x.dtype)
        weight: Tensor = self.weight
        if weight.dtype != x.dtype:
            reusable = weight.device.type == "cpu" and not torch.is_grad_enabled()
            weight = SCRATCH.upcast(weight, x.dtype) if reusable else weight.to(x.dtype)
        return F.linear(x, weight, bias)


def added(x: Tensor, made: Tensor) -> Tensor:
    """x + made; into `made` where no gradient is recorded: a fresh buffer costs page faults."""
    return x + made if torch.is_grad_enabled() else made.add_(x)


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """GELU; into `x` where no gradient is recorded: the widest activation is there once."""
    if torch.is_grad_enabled():
        return F.gelu(x, approximate=approximate)
    made: Tensor = torch.ops.aten.gelu_(x, approximate=approximate)
    return made


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
