"""How VideoChat-Flash's time and memory grow with the frames of one long video, to 10,000.

    OMP_NUM_THREADS=2 python benchmarks/hico_length.py --folder /tmp/longtake-footage

Watches the beginning of a made-up H.264 file at one frame a second and asks one question, each
number of frames in a process of its own, without a drop and with the model card's (all of it even,
and as it is there), scaled to 8 layers. The model is small and random, in the published layout; its
tower and its decoder take about the share of the work that they take in the published 448-pixel
model. What was measured lies in --folder and is not measured again. Writes results/hico_length.md
and .png. Linux only (it reads /proc).
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any
from unittest.mock import patch

import footage
from hico_arms import clocked
from hico_checkpoint import Sizes, write_checkpoint
from hico_length_report import Run, Work, draw, report
from literal_videochat_flash import Written
from memory import resident
from torch import Tensor
from video_xl_speed import machine

import longtake
from longtake import staged
from longtake.costs import dropping_stages, flops_of, whole_stages
from longtake.parts.layered import StagedCache
from longtake.parts.qwen2 import Between, Step
from longtake.reader import Fitted
from longtake.sizes import VideoSizes
from longtake.systems import videochat_flash
from longtake.systems.videochat_flash import VideoChatFlash
from longtake.types import Frames, Memory
from longtake.wishes import schedule_of

RESULTS = Path(__file__).parent / "results"
SMALL = Sizes(
    tower={"hidden": 192, "layers": 4, "mlp": 768},
    decoder={
        "hidden_size": 128,
        "num_hidden_layers": 8,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "intermediate_size": 2048,
        "tokenizer_model_max_length": 10**6,
    },
)
DROPS = {
    "uniform": "uniform:1,5:1,0.75,0.25",
    "mixed": "uniform0_attention:1,5:1,0.75,0.25",
    "off": "off",
}
"""The card's 4 and 18 of 28 layers are 1 and 5 of 8."""
FRAME_COUNTS = (1250, 2500, 5000, 10000)
QUESTION = "What happens in this video?"
CUTS = {range(1): "layer 0", range(1, 5): "layers 1-4", range(5, 8): "layers 5-7"}


class Watched(VideoChatFlash):
    """Notes what decoding and resizing take."""

    def fit(self, frames: Iterator[Frames]) -> Iterator[Fitted]:
        """On a thread; its time, waiting for whoever takes the frames left out."""
        stream = super().fit(timed(frames, "decode"))
        yield from timed(stream, "fit")


OUT = Written()
"""What this process measured."""


def timed(items: Iterator[Any], stage: str) -> Iterator[Any]:
    """The same items; adds what making them takes."""
    while True:
        with OUT.stage(stage):
            item = next(items, None)
        if item is None:
            return
        yield item


def measure(clip: Path, checkpoint: Path, frames: int, drop: str) -> Run:
    """Watch and ask in this process."""
    loaded = longtake.load(checkpoint, device="cpu").variant(drop=DROPS[drop])
    parts = {field.name: getattr(loaded, field.name) for field in fields(loaded)}
    system = Watched(**{**parts, "end_ids": frozenset()})
    system.ask(system.watch(clip, max_frames=64, end=64), QUESTION, system.options())
    OUT.seconds.clear()  # that paged code in
    before, cpu = resident("VmRSS"), time.process_time()
    with ExitStack() as stack:
        stack.enter_context(clocked(OUT, targets(system)))
        stack.enter_context(patch.object(system.model.decoder, "through", layers_timed(system)))
        started = time.perf_counter()
        memory, watching = peaked(lambda: system.watch(clip, max_frames=frames, end=float(frames)))
        watched = time.perf_counter()
        answer, asking = peaked(
            lambda: system.ask(memory, QUESTION, system.options(max_new_tokens=16))
        )
    asked = time.perf_counter()
    cpu, waiting = time.process_time() - cpu, waiting_bytes(memory)
    return Run(
        frames=frames,
        drop=drop,
        taken=answer.stats.frames,
        seconds={**OUT.seconds, "write": answer.stats.answer_seconds},
        watch=watched - started,
        ask=asked - watched,
        cpu=cpu,
        before=before,
        peaks=(watching, asking),
        cache=memory.stats.memory_bytes - waiting,
        waiting=waiting,
    )


def targets(system: VideoChatFlash) -> list[tuple[Any, str, str]]:
    """What is timed, by stage."""
    return [
        (system.model, "look", "see"),
        (videochat_flash, "merge_tokens", "merge"),
        (system.model, "project", "merge"),
        (staged, "ranking_keys", "looks"),
        (staged, "ranking_scores", "looks"),
        (staged, "looks", "looks"),
    ]


def layers_timed(system: VideoChatFlash) -> Any:
    """The decoder's `through`, its time noted by layers."""
    through = system.model.decoder.through

    def slowed(x: Tensor, step: Step, layers: range, between: Between | None = None) -> Tensor:
        if x.shape[1] == 1:
            return through(x, step, layers, between)  # an id that is written
        with OUT.stage(CUTS.get(layers, "all layers")):
            return through(x, step, layers, between)

    return slowed


def peaked(work: Any) -> tuple[Any, int]:
    """What work gives, and the highest resident size meanwhile."""
    Path("/proc/self/clear_refs").write_text("5")  # the highest size is counted anew
    return work(), resident("VmHWM")


def waiting_bytes(memory: Memory) -> int:
    """Bytes of rows that wait for a question."""
    cache = memory.cache
    if not isinstance(cache, StagedCache) or cache.held is None:
        return 0
    return cache.held.nbytes


def work_of(checkpoint: Path, frames: int, drop: str) -> Work:
    """FLOPs before the question, from the sizes."""
    system = longtake.load(checkpoint, device="meta")
    assert isinstance(system, VideoChatFlash)
    tower, decoder = system.config.tower, system.config.decoder
    sizes = VideoSizes(tower=tower, decoder=decoder, per_frame=16, clip=4, merged=True)
    schedule = schedule_of(DROPS[drop])
    stages = whole_stages(sizes, frames)
    if schedule is not None:
        stages = dropping_stages(sizes, frames, schedule)
    seen = flops_of(stage for stage in stages if not stage.kv_bytes)
    return Work(seen=seen, total=flops_of(stages))


def decoded_alone(clip: Path, frames: int) -> str:
    """What decoding these frames takes without anything beside it."""
    wall, cpu = time.perf_counter(), time.process_time()
    with longtake.open_video(clip) as video:
        rate = round(video.fps)
        middles = range(rate // 2, frames * rate, rate)
        count = sum(len(chunk) for chunk in video.read(middles, chunk=16))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return f"Decoding {count:,} of them alone took {wall:.0f} s, {cpu:.0f} s of CPU.\n"


def read(line: str) -> Run:
    """A run from its line."""
    return Run(**{**json.loads(line), "peaks": tuple(json.loads(line)["peaks"])})


def all_runs(counts: Sequence[int], folder: Path, clip: Path) -> list[Run]:
    """Each drop and number of frames, measured in processes of their own unless that was done."""
    log = folder / "hico_length.jsonl"
    runs = [read(line) for line in log.read_text().splitlines()] if log.exists() else []
    for frames in counts:
        for drop in DROPS:
            if any((run.frames, run.drop) == (frames, drop) for run in runs):
                continue
            command = [sys.executable, __file__, "--one", clip, folder, str(frames), drop]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs.append(read(done.stdout))
            with log.open("a") as out:
                out.write(done.stdout)
            run = runs[-1]
            print(f"{drop}, {frames}: {run.total:.0f} s, {run.above:.0f} MiB", flush=True)
    return runs


def main() -> None:
    """All runs, tables and plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/longtake-footage"))
    parser.add_argument("--counts", type=int, nargs="+", default=FRAME_COUNTS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        clip, folder, frames, drop = options.one
        run = measure(Path(clip), Path(folder) / "checkpoint", int(frames), drop)
        print(json.dumps(asdict(run)))
        return
    clip = footage.make(options.folder, seconds=max(options.counts) + 20, gop=25, size=(320, 180))
    checkpoint = options.folder / "checkpoint"
    if not (checkpoint / "config.json").exists():
        write_checkpoint(checkpoint, SMALL)
    runs = all_runs(options.counts, options.folder, clip)
    works = {(run.drop, run.frames): work_of(checkpoint, run.taken, run.drop) for run in runs}
    text = f"{report(runs, works)}\n{decoded_alone(clip, max(options.counts))}"
    print(text)
    head = f"`{shlex.join(['python', *sys.argv])}` on {machine()}; fp32.\n"
    options.results.mkdir(exist_ok=True)
    page = f"# VideoChat-Flash to 10,000 frames\n\n{head}\n{text}\n![plot](hico_length.png)\n"
    (options.results / "hico_length.md").write_text(page)
    draw(runs, options.results / "hico_length.png")


if __name__ == "__main__":
    main()
