"""Frames in groups of equal size, whatever chunks they come in.

T frames, B clips, F frames of a clip, C channels, h w pixels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor


def in_clips(
    chunks: Iterator[tuple[Tensor, tuple[float, ...]]], size: int
) -> Iterator[tuple[Tensor, tuple[float, ...]]]:
    """Regroup frames [T, ...] with their times into clips [B, size, ...] with when each begins.

    What fills no clip waits for the next chunk; at the end the last frame is repeated until its
    clip is full.
    """
    held: list[Tensor] = []
    times: list[float] = []
    for frames_TCHW, seconds in chunks:
        held.append(frames_TCHW)
        times += seconds
        whole = len(times) // size * size
        if whole:
            frames_TCHW = torch.cat(held) if len(held) > 1 else held[0]
            yield frames_TCHW[:whole].unflatten(0, (-1, size)), tuple(times[:whole:size])
            held, times = [frames_TCHW[whole:]], times[whole:]
    if times:
        frames_TCHW = torch.cat(held)
        missing = size - len(times)
        filled_TCHW = torch.cat([frames_TCHW, *[frames_TCHW[-1:]] * missing])
        yield filled_TCHW[None], tuple(times[:1])
