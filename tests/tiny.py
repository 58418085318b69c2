"""A tiny LongVA in the published layout (a golden checkpoint) and frames to show it."""

from functools import cache
from pathlib import Path

import torch

from longtake.api import load
from longtake.system import System
from longtake.types import Frames
from tests.remembering import remembering

CHECKPOINT = Path(__file__).parent / "parity" / "golden" / "longva" / "checkpoint-a"


@cache
def tiny() -> System:
    """The checkpoint, loaded once for all tests; nothing may change it."""
    return remembering(load(CHECKPOINT, device="cpu"))


def noise(frames: int, seed: int = 0, height: int = 90, width: int = 120) -> Frames:
    """Random frames, half a second apart."""
    generator = torch.Generator().manual_seed(seed)
    shape = (frames, 3, height, width)
    return Frames(
        pixels_TCHW=torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
        seconds_T=torch.arange(frames, dtype=torch.float64) / 2,
        index_T=torch.arange(frames),
    )
