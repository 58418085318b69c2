"""Small videos for tests, written with PyAV; every frame has its own colour."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_clip(path: Path, frames: int, *, rate: int = 5, size: int = 64) -> Path:
    """Write a clip of `frames` colours, intra-coded, in the container that the name's end says."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 1
        container.start_encoding()  # or a clip of no frames would have no header either
        for number in range(frames):
            pixels = np.empty((size, size, 3), np.uint8)
            pixels[:] = (37 * number % 256, 91 * number % 256, 151 * number % 256)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_gops(path: Path, frames: int, *, gop: int, size: int = 64) -> Path:
    """Write a clip that is decoded from every `gop`-th frame on, without B-frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = gop
        for number in range(frames):
            pixels = np.full((size, size, 3), 2 * number % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """Write a tenth of a second of silence: a file without pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.layout = "mono"
        for number in range(2):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = 16000, 1024 * number
            silence.time_base = Fraction(1, 16000)
            container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    return path


def cut(path: Path, share: float) -> Path:
    """Keep only the first `share` of a file's bytes, beside it."""
    whole = path.read_bytes()
    torn = path.with_name(f"torn-{path.name}")
    torn.write_bytes(whole[: int(len(whole) * share)])
    return torn
