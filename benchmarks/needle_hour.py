"""The command `longtake needle` on more than an hour of real footage: single needles and chains.

    python -m benchmarks.needle_hour CLIP [CLIP ...] --frames 64,256,1024 --cards 8

Clips of seconds are made long by repeating their packets: the pictures are real, but each clip
comes round again every few seconds. The long clips are searched one after another.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.footage import repeat

from longtake.video.decode import open_video

RESULTS = Path(__file__).parent / "results"


def lengthened(clip: Path, folder: Path, seconds: int) -> Path:
    """A clip repeated until it lasts so long; made once, then found again."""
    target = folder / f"{clip.stem}-{seconds}s.mp4"
    if not target.exists():
        with open_video(clip) as video:
            each = -(-video.frames // video.fps)
        aside = target.with_name(f".part-{target.name}")
        repeat(clip, aside, -int(-seconds // each), int(each))
        aside.rename(target)
    return target


def main() -> None:
    """Make the videos, run both kinds, keep what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--frames", default="64,256,1024")
    parser.add_argument("--cards", default="8")
    parser.add_argument("--kinds", nargs="+", default=["single", "multihop"])
    parser.add_argument("--seconds", type=int, default=3700, help="of all videos together")
    parser.add_argument("--folder", type=Path, required=True, help="for videos and unfinished runs")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    each = -(-options.seconds // len(options.clips))
    films = [lengthened(clip, options.folder, each) for clip in options.clips]
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "av"))
    for kind in options.kinds:
        out = options.folder / kind
        said = ["longtake", "needle", *(film.name for film in films), "--kind", kind]
        said += ["--frames", options.frames, "--cards", options.cards]
        command = [sys.executable, "-m", *said[:2], *map(str, films), *said[2 + len(films) :]]
        subprocess.run([*command, "--out", str(out)], check=True)
        told = (
            f"`{' '.join(said)}`\n\n{platform.machine()} CPU, Python {platform.python_version()}, "
        )
        text = (out / "needle.md").read_text(encoding="utf-8")
        name = f"needle_hour_{kind}"
        head, rest = text.split("\n", 1)
        (RESULTS / f"{name}.md").write_text(
            f"{head}\n\n{told}{packages}.\n{rest}", encoding="utf-8"
        )
        shutil.copy(out / "needle.jsonl", RESULTS / f"{name}.jsonl")
        if (out / "needle.png").exists():
            shutil.copy(out / "needle.png", RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
