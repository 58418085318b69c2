"""Small videos of every kind, made with PyAV; each picture carries its number as a row of bits."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

WIDTH, HEIGHT, RATE = 192, 112, 25
NUM_BITS = 12
BITS = WIDTH // NUM_BITS
X264 = "keyint=30:min-keyint=30:scenecut=0:bframes=3:b-adapt=0:threads=1:"
X265 = "keyint=20:min-keyint=20:scenecut=0:bframes=4:b-adapt=0:pools=none:log-level=none:"


@functools.cache
def _texture() -> np.ndarray:
    coarse = np.random.default_rng(0).integers(40, 216, (64, 64, 3), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A moving texture with `number` in the top 16 rows, white for a set bit."""
    across, down = (number * 5) % 128, (number * 3) % 128
    repeats = (height // 384 + 1, width // 384 + 1, 1)
    pixels = np.tile(_texture()[down : down + 384, across : across + 384], repeats)[:height, :width]
    for bit in range(NUM_BITS):
        pixels[:16, bit * BITS : (bit + 1) * BITS] = 255 if number >> bit & 1 else 0
    return np.ascontiguousarray(pixels)


def number_of(pixels_HWC: np.ndarray) -> int:
    """The number a picture carries."""
    middles = [pixels_HWC[4:12, bit * BITS + 4 : (bit + 1) * BITS - 4] for bit in range(NUM_BITS)]
    return sum(1 << bit for bit, middle in enumerate(middles) if middle.mean() > 128)


def encode(path: Path, codec: str, *, numbers: Sequence[int], **how: Any) -> Path:
    """Encode pictures; `how`: options, pts (ticks), time_base, format, muxer, size, sound (s)."""
    time_base = how.get("time_base", Fraction(1, RATE))
    muxer = how.get("muxer", {})
    with av.open(str(path), "w", format=how.get("format"), options=muxer) as container:
        stream = container.add_stream(codec, rate=RATE, options=how.get("options", {}))
        stream.width, stream.height = how.get("size", (WIDTH, HEIGHT))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = time_base
        sound = _add_sound(container) if how.get("sound") else None
        for place, number in enumerate(numbers):
            pixels = picture(number, stream.width, stream.height)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = how["pts"][place] if "pts" in how else place
            frame.time_base = time_base
            container.mux(stream.encode(frame))
            if sound:
                sound(place / RATE)
        if sound:
            sound(float(how["sound"]))
        container.mux(stream.encode(None))
    return path


def _add_sound(container: av.container.OutputContainer) -> Callable[[float], None]:
    stream = container.add_stream("aac", rate=48000)
    stream.layout = "mono"
    done = 0

    def until(seconds: float) -> None:
        nonlocal done
        while done < seconds * 48000:
            silence = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, done
            frame.time_base = Fraction(1, 48000)
            container.mux(stream.encode(frame))
            done += 1024

    return until


def copy_packets(source: Path, target: Path, *, shift: int = 0, **how: Any) -> Path:
    """Rewrap the packets of a video, times moved by `shift` frames; `edit` may change a packet."""
    with (
        av.open(str(source)) as old,
        av.open(str(target), "w", options=how.get("muxer", {})) as new,
    ):
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        ticks = int(shift / RATE / stream.time_base)
        for rank, packet in enumerate(p for p in old.demux(stream) if p.size):
            if "edit" in how:
                packet = how["edit"](rank, packet)
            packet.pts += ticks
            packet.dts = packet.dts + ticks if packet.dts is not None else None
            packet.stream = copy
            new.mux(packet)
    return target


def turn(path: Path, target: Path) -> Path:
    """Copy an mp4 with a display matrix that asks for a quarter turn clockwise (ISO 14496-12)."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40 - 4
    one = 1 << 16
    data[place : place + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


def hide_vp8_frame(hidden: int) -> Callable[[int, av.Packet], av.Packet]:
    """An `edit` for `copy_packets` that clears the show_frame bit of one packet."""

    def edit(rank: int, packet: av.Packet) -> av.Packet:
        if rank != hidden:
            return packet
        data = bytearray(bytes(packet))
        data[0] &= ~0x10
        changed = av.Packet(bytes(data))
        changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
        changed.duration = packet.duration
        return changed

    return edit


class Clips:
    """Makes each clip when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cache  # noqa: B019 - one object per session
    def __getitem__(self, name: str) -> Path:
        return MAKERS[name](self, self.folder / name)


def x264(extra: str = "", num_frames: int = 60, **how: Any) -> Callable[[Clips, Path], Path]:
    options = {"x264-params": X264 + extra}
    how["numbers"] = how.get("numbers", range(num_frames))
    return lambda clips, path: encode(path, "libx264", options=options, **how)


def x265(extra: str) -> Callable[[Clips, Path], Path]:
    options = {"x265-params": X265 + extra, "preset": "ultrafast"}
    return lambda clips, path: encode(path, "libx265", options=options, numbers=range(45))


def other(codec: str, num_frames: int = 60, **options: str) -> Callable[[Clips, Path], Path]:
    return lambda clips, path: encode(path, codec, options=options, numbers=range(num_frames))


def copied(name: str, **how: Any) -> Callable[[Clips, Path], Path]:
    return lambda clips, path: copy_packets(clips[name], path, **how)


def _joined(clips: Clips, path: Path) -> Path:
    path.write_bytes(clips["b.ts"].read_bytes() + clips["second.ts"].read_bytes())
    return path


def _midway(clips: Clips, path: Path) -> Path:
    """A transport stream as if recording began between two key pictures."""
    with av.open(str(clips["b.ts"])) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    path.write_bytes(clips["b.ts"].read_bytes()[: 188 * 3] + _after(clips["b.ts"], packets[5].pos))
    return path


def _after(path: Path, position: int) -> bytes:
    return path.read_bytes()[position:]


def _signed_by_old_x264(clips: Clips, path: Path) -> Path:
    """A video that claims, in its first packet only, an x264 whose mistake FFmpeg imitates."""
    data = clips["short-gop.mp4"].read_bytes()
    place = data.index(b"x264 - core ") + len(b"x264 - core ")
    path.write_bytes(data[:place] + b"030" + data[place + 3 :])
    return path


VFR_PTS = [0, *np.cumsum(np.random.default_rng(1).integers(2, 60, 59)).tolist()]
PREVIEW = {"deadline": "realtime", "cpu-used": "8", "g": "20"}
MAKERS: dict[str, Callable[[Clips, Path], Path]] = {
    "long-gop.mp4": x264("keyint=250:b-pyramid=normal", 80),
    "short-gop.mp4": x264("keyint=10:min-keyint=10:b-pyramid=normal", 60),
    "open-gop.mp4": x264("open-gop=1"),
    "open-gop.ts": x264("open-gop=1"),
    "intra.mp4": x264("keyint=1:bframes=0", 40),
    "refresh.mp4": x264("intra-refresh=1:bframes=0"),
    "open-gop-hevc.mp4": x265("open-gop=1"),
    "radl-hevc.mp4": x265("open-gop=0:radl=2"),
    "vp9.webm": other("libvpx-vp9", **PREVIEW),
    "vp8.webm": other("libvpx", 30, **PREVIEW),
    "hidden-vp8.webm": copied("vp8.webm", edit=hide_vp8_frame(23)),
    "av1.mp4": other("libsvtav1", 30, g="10", preset="12"),
    "b.mp4": x264(sound=True, muxer={"movflags": "faststart"}),
    "b.ts": x264(sound=True),
    "b.mkv": x264(sound=True),
    "b.flv": x264(),
    "b.avi": x264(),
    "raw.h264": x264(format="h264"),
    "mpeg2.mpg": other("mpeg2video", g="12", bf="2"),
    "mpeg4.avi": other("mpeg4", g="12", bf="2"),
    "second.ts": x264(numbers=range(60, 100)),
    "joined.ts": _joined,
    "midway.ts": _midway,
    "vfr.mp4": x264(pts=VFR_PTS, time_base=Fraction(1, 600)),
    "turned.mp4": lambda clips, path: turn(clips["b.mp4"], path),
    "late.mkv": copied("b.mkv", shift=130),
    "late.ts": copied("b.ts", shift=2_000_000),
    "edit-list.mp4": copied("long-gop.mp4", shift=-33),
    "live.mkv": x264(muxer={"live": "1"}),
    "fragments.mp4": x264(
        "keyint=10:min-keyint=10", sound=True, muxer={"movflags": "frag_keyframe+empty_moov"}
    ),
    "one.mp4": x264(num_frames=1),
    "old-x264.mp4": _signed_by_old_x264,
    "odd-size.mp4": x264("keyint=12", 30, size=(202, 118)),
}
READABLE = sorted(set(MAKERS) - {"second.ts", "old-x264.mp4"})
