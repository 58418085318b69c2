"""Reading 256 frames spread over an hour: speed, memory and exactness, against other readers.

    python benchmarks/decode.py --folder /tmp/longtake-footage

Makes two one-hour 720p videos (a keyframe every 250 and every 60 frames, B-frames) unless they are
there, then runs every reader in a process of its own. torchcodec and decord take part if they are
installed. Exact means: every fourth row of every picture equals that of a full decode. Writes
results/decode.md; `--only` picks readers, and then nothing is written. Linux only (it reads /proc).
"""

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
SECONDS, RATE, SIZE = 3600, 25, (1280, 720)
NUM_FRAMES = 256
BATCH = 4  # pictures per call, for readers that take several
MIB = 2**20
TRUTH = "PyAV, all frames"

Pictures = Iterator[Any]
Reader = Callable[[str, list[int]], Pictures]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One measured process."""

    wall: float
    """Seconds from opening to the last picture, imports excluded."""
    cpu: float
    """Seconds of all cores together."""
    imported: float
    """MiB resident once the reader's packages are imported."""
    peak: float
    """Highest MiB resident."""
    sums: list[int]
    """Checksum of each picture."""


def ours(threads: int) -> Reader:
    """This project."""
    from longtake.video.decode import open_video

    def read(path: str, wanted: list[int]) -> Pictures:
        with open_video(path) as video:
            for frames in video.read(wanted, chunk=BATCH, threads=threads):
                yield from frames.pixels_TCHW.permute(0, 2, 3, 1).numpy()

    return read


def pyav_all(kind: str) -> Reader:
    """Decode everything in order, convert what is wanted."""
    import av

    def read(path: str, wanted: list[int]) -> Pictures:
        left = set(wanted)
        with av.open(path) as container:
            container.streams.video[0].thread_type = kind
            for number, frame in enumerate(container.decode(video=0)):
                if number in left:
                    yield frame.to_ndarray(format="rgb24")

    return read


def pyav_seek() -> Reader:
    """Seek to each wanted time and decode up to it."""
    import av

    def read(path: str, wanted: list[int]) -> Pictures:
        with av.open(path) as container:
            stream = container.streams.video[0]
            for number in wanted:
                ticks = round(number / RATE / stream.time_base)
                container.seek(ticks, stream=stream)
                frame = next(f for f in container.decode(stream) if f.pts >= ticks)
                yield frame.to_ndarray(format="rgb24")

    return read


def torchcodec(seek_mode: str, threads: int) -> Reader:
    """The decoder of the PyTorch project."""
    from torchcodec.decoders import VideoDecoder

    def read(path: str, wanted: list[int]) -> Pictures:
        decoder = VideoDecoder(
            path, dimension_order="NHWC", seek_mode=seek_mode, num_ffmpeg_threads=threads
        )
        for start in range(0, len(wanted), BATCH):
            yield from decoder.get_frames_at(wanted[start : start + BATCH]).data.numpy()

    return read


def decord() -> Reader:
    """The reader the published systems were written with."""
    import decord as library

    def read(path: str, wanted: list[int]) -> Pictures:
        reader = library.VideoReader(path)
        for start in range(0, len(wanted), BATCH):
            yield from reader.get_batch(wanted[start : start + BATCH]).asnumpy()

    return read


READERS: dict[str, tuple[str, Callable[[], Reader]]] = {
    "longtake, 1 thread": ("longtake", lambda: ours(1)),
    "longtake, 2 threads": ("longtake", lambda: ours(2)),
    TRUTH: ("av", lambda: pyav_all("SLICE")),
    "PyAV, all frames, frame threads": ("av", lambda: pyav_all("AUTO")),
    "PyAV, a seek per frame": ("av", pyav_seek),
    "torchcodec, exact": ("torchcodec", lambda: torchcodec("exact", 1)),
    "torchcodec, exact, 2 threads": ("torchcodec", lambda: torchcodec("exact", 2)),
    "torchcodec, approximate": ("torchcodec", lambda: torchcodec("approximate", 1)),
    "decord": ("decord", decord),
}


def resident(field: str) -> float:
    """VmRSS or VmHWM of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def measure(name: str, path: str) -> Arm:
    """Read in this process."""
    read = READERS[name][1]()
    wanted = [number * (SECONDS * RATE - 1) // (NUM_FRAMES - 1) for number in range(NUM_FRAMES)]
    imported = resident("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    sums = [zlib.crc32(picture[::4].tobytes()) for picture in read(path, wanted)]
    return Arm(
        wall=time.perf_counter() - wall,
        cpu=time.process_time() - cpu,
        imported=imported,
        peak=resident("VmHWM"),
        sums=sums,
    )


def apart(name: str, path: Path, repeat: int) -> Arm:
    """Measure in processes of their own; the fastest counts, since others use the machine too."""
    arms = []
    for _ in range(repeat):
        done = subprocess.run(
            [sys.executable, __file__, "--one", name, str(path)],
            check=True,
            capture_output=True,
            text=True,
        )
        arms.append(Arm(**json.loads(done.stdout)))
    return min(arms, key=lambda arm: arm.wall)


def table(arms: dict[str, Arm]) -> str:
    """Markdown rows; `x` compares with decoding all frames."""
    head = "| reader | wall s | x | CPU s | x | peak RSS MiB | above imports MiB | exact |"
    rows = [head, "|---|---|---|---|---|---|---|---|"]
    truth = arms.get(TRUTH)
    for name, arm in arms.items():
        faster = f"{truth.wall / arm.wall:.1f}" if truth else ""
        less = f"{truth.cpu / arm.cpu:.1f}" if truth else ""
        right = sum(a == b for a, b in zip(arm.sums, truth.sums, strict=False)) if truth else 0
        rows.append(
            f"| {name} | {arm.wall:.1f} | {faster} | {arm.cpu:.1f} | {less} | {arm.peak:.0f} | "
            f"{arm.peak - arm.imported:.0f} | {right}/{NUM_FRAMES} |"
        )
    return "\n".join(rows)


def versions() -> str:
    """What took part."""
    found = [f"Python {platform.python_version()}"]
    for name in ("av", "torch", "torchcodec", "decord"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def main() -> None:
    """All readers on both videos."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/longtake-footage"))
    parser.add_argument("--gop", type=int, nargs="+", default=[250, 60])
    parser.add_argument("--repeat", type=int, default=1, help="runs per reader; the fastest counts")
    parser.add_argument("--only", nargs="+", default=list(READERS), choices=list(READERS))
    parser.add_argument("--machine", default=f"{platform.machine()}, {platform.system()}")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(asdict(measure(*options.one))))
        return
    import footage

    here = [name for name in options.only if importlib.util.find_spec(READERS[name][0])]
    command = f"`python benchmarks/decode.py --repeat {options.repeat}`"
    parts = [
        f"# Reading {NUM_FRAMES} frames of an hour of 720p\n",
        f"{command} on {options.machine}; {versions()}.",
        f"{BATCH} pictures per chunk; the script says what is measured.",
    ]
    for gop in options.gop:
        # Whole GOPs per repeated segment, so that every GOP has its full length.
        segment = 20 if gop == 250 else 24
        path = footage.make(options.folder, seconds=SECONDS, gop=gop, size=SIZE, segment=segment)
        arms = {}
        for name in here:
            arms[name] = apart(name, path, options.repeat)
            took = f"{arms[name].wall:.1f} s, {arms[name].cpu:.1f} CPU s"
            print(f"GOP {gop}: {name}: {took}", file=sys.stderr, flush=True)
        parts.append(f"\n## A keyframe every {gop} frames\n\n{table(arms)}")
    text = "\n".join(parts)
    print(text)
    if here == list(READERS):
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "decode.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
