"""Make long videos cheaply: encode some seconds of moving texture, then repeat the packets.

Repeating copies compressed packets with later times, so an hour takes seconds to write. What is
decoded is real H.264 with B-frames.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame

RATE = 25


def texture(width: int, height: int, frames: int, seed: int = 0) -> Iterator[VideoFrame]:
    """A picture of coarse and fine noise that drifts and swells, with a disc crossing it."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(40, 215, (height // 40 + 2, width // 40 + 2, 3))
    base = np.kron(coarse, np.ones((40, 40, 1)))[: height + 40, : width + 40]
    grain = rng.normal(0, 6, (height + 64, width + 64, 1))
    rows, columns = np.ogrid[:height, :width]
    for number in range(frames):
        drift, shake = number * 40 // frames, number * 7 % 64
        picture = base[drift : drift + height, drift : drift + width].copy()
        picture += grain[shake : shake + height, shake : shake + width]
        middle = (height / 2 + height / 4 * np.sin(number / 9), number * width / frames)
        disc = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 < (height / 8) ** 2
        picture[disc] = (230, 200, 60)
        yield VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")


def make(
    folder: Path, *, seconds: int, gop: int, size: tuple[int, int] = (640, 360), segment: int = 20
) -> Path:
    """A video of `seconds` with a keyframe every `gop` frames; made once, then found again."""
    folder.mkdir(parents=True, exist_ok=True)
    width, height = size
    target = folder / f"{seconds}s-{height}p-gop{gop}.mp4"
    if target.exists():
        return target
    part = folder / f"segment-{segment}s-{height}p-gop{gop}.mp4"
    if not part.exists():
        encode(part, texture(width, height, segment * RATE), size, gop)
    aside = target.with_name(f".part-{target.name}")
    repeat(part, aside, -(-seconds // segment), segment)
    return aside.rename(target)


def encode(target: Path, frames: Iterator[VideoFrame], size: tuple[int, int], gop: int) -> None:
    """H.264 with two B-frames and closed GOPs."""
    with av.open(str(target), "w") as out:
        options = {"preset": "veryfast", "crf": "27", "bf": "2", "g": str(gop), "sc_threshold": "0"}
        stream = out.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def repeat(source: Path, target: Path, times: int, seconds: int) -> None:
    """Write the packets of `source`, which lasts `seconds`, `times` times over."""
    with av.open(str(source)) as clip, av.open(str(target), "w") as out:
        reader = clip.streams.video[0]
        writer = out.add_stream_from_template(reader)
        base = reader.time_base or Fraction(1, 90_000)
        packets = [packet for packet in clip.demux(reader) if packet.dts is not None]
        for turn in range(times):
            for packet in packets:
                copy = Packet(bytes(packet))
                copy.stream, copy.time_base = writer, base
                copy.is_keyframe = packet.is_keyframe
                later = round(turn * seconds / base)
                copy.pts, copy.dts = (packet.pts or 0) + later, (packet.dts or 0) + later
                out.mux(copy)
