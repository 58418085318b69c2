"""Published figures of GPUs, for plans made where there is none."""

from __future__ import annotations

from dataclasses import dataclass

from longtake.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What a data sheet says: dense bf16, no sparsity."""

    name: str
    gib: int
    """Memory."""
    flops: float
    """Per second, bf16 with fp32 sums."""
    bandwidth: float
    """Bytes per second of its memory."""


GPUS = {
    "l4": Gpu(name="NVIDIA L4", gib=24, flops=121e12, bandwidth=0.300e12),
    "4090": Gpu(name="NVIDIA RTX 4090", gib=24, flops=165e12, bandwidth=1.008e12),
    "3090": Gpu(name="NVIDIA RTX 3090", gib=24, flops=71e12, bandwidth=0.936e12),
    "a100-40": Gpu(name="NVIDIA A100 40 GB", gib=40, flops=312e12, bandwidth=1.555e12),
    "l40s": Gpu(name="NVIDIA L40S", gib=48, flops=362e12, bandwidth=0.864e12),
    "a100": Gpu(name="NVIDIA A100 80 GB", gib=80, flops=312e12, bandwidth=2.039e12),
    "h100": Gpu(name="NVIDIA H100 SXM", gib=80, flops=989e12, bandwidth=3.35e12),
    "h200": Gpu(name="NVIDIA H200", gib=141, flops=989e12, bandwidth=4.8e12),
}

ASSUMED = {24: "4090", 40: "a100-40", 48: "l40s", 80: "a100", 141: "h200"}
"""Which is meant by "cuda" where there is none, by its memory; the last of what is said fits."""

GEMM_SHARE = 0.75
"""Of the data sheet's FLOP/s that matrix products reach: 0.78 to 0.81 were measured on an H200."""
ATTENTION_SHARE = 0.5
"""The same of attention: fused kernels reach about two thirds of a matrix product's speed."""
BANDWIDTH_SHARE = 0.85
"""Of the data sheet's bandwidth that reading weights reaches: 0.9 was measured on an H200."""


def gpu_of(device: str, memory: int | None) -> Gpu:
    """The GPU that a device's name means, or by memory the one that "cuda" may mean.

    Raises OptionError for a name that is not in the table.
    """
    if device in GPUS:
        return GPUS[device]
    if device.split(":")[0] != "cuda":
        known = ", ".join(GPUS)
        raise OptionError(
            f"device {device!r} is unknown; choose auto, cpu, cuda, or one of {known}"
        )
    wanted = (memory or 80 * 2**30) / 2**30
    # of equal sizes the common one; a card of 80 GB has a little less than 80 GiB
    size = next((gib for gib in ASSUMED if gib >= wanted * 0.95), max(ASSUMED))
    return GPUS[ASSUMED[size]]
