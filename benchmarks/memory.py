"""Peak memory of watching: by length of the video at the same frames, and by number of frames.

    python benchmarks/memory.py --folder /tmp/footage

Watches made-up videos of three minutes and three hours with the bundled model, each in a process of
its own, and records the highest resident size during `watch` above that before it. Writes
results/memory.md and results/memory.png. Linux only (it reads /proc).
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import footage
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
SHORT, LONG = 180, 3 * 3600
FRAME_COUNTS = (256, 512, 1024, 2048, 4096)
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One measured process; sizes in bytes."""

    seconds: int
    """Length of the video."""
    frames: int
    before: int
    """Resident with the model loaded and used once."""
    peak: int
    """Highest resident while watching."""
    memory: int
    """What came out."""
    wall: float
    """Seconds that watching took."""

    @property
    def beside(self) -> float:
        """MiB that watching took besides the memory itself."""
        return (self.peak - self.before - self.memory) / MIB


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure(clip: Path, seconds: int, frames: int) -> Arm:
    """Watch in this process."""
    import longtake

    model = longtake.load("default", device="cpu")
    with longtake.open_video(clip) as video:
        few = next(video.read(range(4), chunk=4))
    model.ask(model.watch(few, max_frames=4), "What word is on the card?")  # pages code in
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest size is counted anew
    memory = model.watch(clip, max_frames=frames)
    return Arm(
        seconds=seconds,
        frames=frames,
        before=before,
        peak=resident("VmHWM"),
        memory=memory.bytes,
        wall=memory.stats.watch_seconds,
    )


def apart(clip: Path, seconds: int, frames: int) -> Arm:
    """Measure in a process of its own."""
    arguments = ["--one", str(clip), str(seconds), str(frames)]
    done = subprocess.run(
        [sys.executable, __file__, *arguments], check=True, capture_output=True, text=True
    )
    return Arm(**json.loads(done.stdout))


def table(arms: list[Arm]) -> str:
    """Markdown rows."""
    rows = ["| video | frames | memory MiB | peak above start MiB | besides the memory MiB | s |"]
    rows.append("|---|---|---|---|---|---|")
    for arm in arms:
        length = f"{arm.seconds / 3600:g} h" if arm.seconds >= 3600 else f"{arm.seconds // 60} min"
        rows.append(
            f"| {length} | {arm.frames} | {arm.memory / MIB:.1f} | "
            f"{(arm.peak - arm.before) / MIB:.1f} | {arm.beside:.1f} | {arm.wall:.0f} |"
        )
    return "\n".join(rows)


def draw(arms: list[Arm], target: Path) -> None:
    """Peak and memory by number of frames."""
    long = [arm for arm in arms if arm.seconds == LONG]
    counts = [arm.frames for arm in long]
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    peaks = [(arm.peak - arm.before) / MIB for arm in long]
    axes.plot(counts, peaks, "o-", label="peak above the loaded model")
    axes.plot(counts, [arm.memory / MIB for arm in long], "s--", label="keys and values")
    short = next(arm for arm in arms if arm.seconds == SHORT)
    axes.plot(
        short.frames,
        (short.peak - short.before) / MIB,
        "D",
        color="tab:red",
        label="peak, 3-minute video",
    )
    axes.set(xlabel="frames watched of a 3-hour video", ylabel="MiB", ylim=(0, None))
    axes.set_title("Only the memory grows with what is watched")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(target, dpi=120)


def main() -> None:
    """All arms, table and plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/longtake-footage"))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        clip, seconds, frames = options.one
        print(json.dumps(asdict(measure(Path(clip), int(seconds), int(frames)))))
        return
    short = footage.make(options.folder, seconds=SHORT, gop=50)
    long = footage.make(options.folder, seconds=LONG, gop=50)
    arms = [apart(short, SHORT, FRAME_COUNTS[0])]
    arms += [apart(long, LONG, frames) for frames in FRAME_COUNTS]
    text = table(arms)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "av"))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    head = f"# Peak memory of watching\n\n`python benchmarks/memory.py` on {machine}; {packages}.\n"
    (RESULTS / "memory.md").write_text(f"{head}\n{text}\n\n![plot](memory.png)\n")
    draw(arms, RESULTS / "memory.png")


if __name__ == "__main__":
    main()
