"""The slow twin: decode a whole file in order with plain PyAV and keep every picture."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a full decode brings out."""

    pictures: tuple[np.ndarray, ...]
    """RGB, [H, W, 3] each, in the order of the decoder."""
    seconds: tuple[float | None, ...]
    """Times relative to the first picture; None where the container stores none."""


@functools.cache
def decode_all(path: Path) -> Reference:
    """Decode everything; packets and pictures that fail are passed over."""
    pictures, times = [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in frames:
                pictures.append(frame.to_ndarray(format="rgb24"))
                times.append(None if frame.pts is None else frame.pts)
        base = stream.time_base
    seconds = tuple(None if t is None else float((t - times[0]) * base) for t in times)
    return Reference(pictures=tuple(pictures), seconds=seconds)
