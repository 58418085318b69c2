"""Frames in, 16 ids out: VideoChat-Flash by longtake, and at once as published.

    OMP_NUM_THREADS=1 python benchmarks/hico_speed.py --folder /tmp/longtake-hico

Random weights of middling size (UMT 512 x 8 at 224 px, decoder 512 x 8, the real vocabulary) in the
published layout, the same for both arms; each arm in a process of its own, in turn. The published
procedure is `literal_videochat_flash.py`. Fails if the arms write different ids. What was measured
lies in --folder and is not measured again. Writes results/hico_speed.md. Linux only (it reads
/proc).
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import literal_videochat_flash
import torch
from hico_checkpoint import Sizes, write_checkpoint
from literal_videochat_flash import Written
from memory import MIB, resident
from video_xl_speed import machine

import longtake
from longtake.reader import Shown
from longtake.systems import videochat_flash
from longtake.systems.videochat_flash import VideoChatFlash
from longtake.types import Frames, Options
from longtake.video.sample import Footage

HERE = Path(__file__).parent
MID = Sizes(
    tower={"hidden": 512, "layers": 8, "mlp": 2048},
    decoder={
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "intermediate_size": 1408,
        "vocab_size": 152064,
    },
)
DROPS = {
    "off": "off",
    "uniform": "uniform:2,5:1,0.75,0.25",
    "mixed": "uniform0_attention:2,5:1,0.75,0.25",
}
"""The model card's drop scaled to 8 layers: all of it even, and as it is there."""
FRAME_COUNTS = (64, 256, 512)
QUESTION = "What happens in this video?"
TOKENS = 16
ARMS = ("longtake", "literal")
STAGES = ("tower", "merge", "projector", "prefill", "head", "answer", "rest")
NAMES = ("tower", "merging", "projector", "decoder", "head over the prompt", "16 ids", "rest")


def noise(num: int, seed: int = 0) -> Frames:
    """Random frames of 224 x 224, a second apart."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num, 3, 224, 224)
    return Frames(
        pixels_TCHW=torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
        seconds_T=torch.arange(num, dtype=torch.float64),
        index_T=torch.arange(num),
    )


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is measured."""

    name: str
    frames: int
    drop: str

    def logits(self, folder: Path) -> Path:
        """Where its logits are put."""
        return folder / f"{self.name}-{self.frames}-{self.drop}.pt"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One measured process."""

    arm: Arm
    seconds: dict[str, float]
    """Wall seconds of each stage."""
    wall: float
    cpu: float
    before: int
    """Resident bytes with the model loaded and used once, and the frames."""
    peak: int
    ids: list[int]

    @property
    def above(self) -> float:
        """MiB above the weights."""
        return (self.peak - self.before) / MIB


@contextmanager
def clocked(out: Written, targets: Sequence[tuple[Any, str, str]]) -> Iterator[None]:
    """Add what calls of (object, attribute) take to a stage."""

    def slowed(function: Callable[..., Any], stage: str, *given: Any) -> Any:
        with out.stage(stage):
            return function(*given)

    with ExitStack() as stack:
        for owner, name, stage in targets:
            timed = partial(slowed, getattr(owner, name), stage)
            stack.enter_context(patch.object(owner, name, timed))
        yield


def streamed(system: VideoChatFlash, frames: Frames) -> Written:
    """Watch and ask, as users do; evidence is off, the literal arm gives none."""
    out, model = Written(), system.model
    options = Options(max_new_tokens=TOKENS, repetition_penalty=1.0, evidence=False)
    targets = [
        (model, "look", "tower"),
        (videochat_flash, "merge_tokens", "merge"),
        (model, "project", "projector"),
        (model.decoder, "through", "prefill"),
    ]
    with clocked(out, targets):
        memory = system.watch(frames, max_frames=len(frames))
    head = model.logits

    def noted(features: torch.Tensor) -> torch.Tensor:
        out.logits.append(head(features))
        return out.logits[-1]

    with patch.object(model, "logits", noted):
        answer = system.ask(memory, QUESTION, options)
    out.ids = list(answer.ids)
    out.add("prefill", answer.stats.prefill_seconds)
    out.add("answer", answer.stats.answer_seconds)
    return out


def at_once(system: VideoChatFlash, frames: Frames) -> Written:
    """The published procedure on the same prompt."""
    footage = Footage(frames=len(frames), fps=1.0)
    lead = system.follow(Shown(frames=len(frames), seconds=footage.seconds), last=True)
    before = system.tokens(system.template.head())
    after = system.tokens(lead + system.template.tail(QUESTION))
    return literal_videochat_flash.answer(system, frames.pixels_TCHW, before, after, TOKENS)


def measure(arm: Arm, folder: Path) -> Run:
    """Run one arm in this process; its logits go to a file."""
    system = longtake.load(folder / "checkpoint", device="cpu").variant(drop=DROPS[arm.drop])
    system = replace(system, end_ids=frozenset())
    assert isinstance(system, VideoChatFlash)
    frames, work = noise(arm.frames), at_once if arm.name == "literal" else streamed
    work(system, noise(8))  # pages code in
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest size is counted anew
    wall, cpu = time.perf_counter(), time.process_time()
    out = work(system, frames)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resident("VmHWM")
    torch.save(torch.stack(out.logits), arm.logits(folder))
    seconds = out.seconds | {"rest": wall - sum(out.seconds.values())}
    return Run(arm=arm, seconds=seconds, wall=wall, cpu=cpu, before=before, peak=peak, ids=out.ids)


def apart(arm: Arm, folder: Path) -> Run:
    """Measure in a process of its own, unless that was done."""
    command = [sys.executable, __file__, "--folder", str(folder), "--one", json.dumps(asdict(arm))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    run = read(done.stdout)
    with (folder / "runs.jsonl").open("a") as log:
        log.write(done.stdout)
    print(f"{arm}: {run.wall:.1f} s, {run.cpu:.1f} s of CPU, {run.above:.0f} MiB", flush=True)
    return run


def read(line: str) -> Run:
    """A run from its line."""
    fields = json.loads(line)
    return Run(**{**fields, "arm": Arm(**fields["arm"])})


def all_runs(counts: Sequence[int], pairs: int, folder: Path) -> list[Run]:
    """Runs of every arm, those that are missing measured now."""
    log = folder / "runs.jsonl"
    runs = [read(line) for line in log.read_text().splitlines()] if log.exists() else []
    for number in range(pairs):
        for frames in counts:
            for drop in DROPS:
                for name in ARMS:
                    arm = Arm(name=name, frames=frames, drop=drop)
                    if sum(run.arm == arm for run in runs) <= number:
                        runs.append(apart(arm, folder))
    return runs


def agreement(ours: Sequence[Run], theirs: Sequence[Run], folder: Path) -> str:
    """Largest difference of logits between arms. Exits if any two of these runs' ids differ."""
    runs = [*ours, *theirs]
    if len({tuple(run.ids) for run in runs}) > 1:
        sys.exit("ids differ: " + "; ".join(f"{run.arm} wrote {run.ids}" for run in runs))
    one, other = (torch.load(arm[0].arm.logits(folder)) for arm in (ours, theirs))
    return f"same, {len(set(runs[0].ids))} distinct | {(one - other).abs().max().item():.1e}"


Groups = dict[tuple[int, str], list[list[Run]]]
"""By frames and drop: runs of each arm."""


def grouped(runs: Sequence[Run], counts: Sequence[int]) -> Groups:
    """Runs of these numbers of frames, in the order of the tables."""
    return {
        (frames, drop): [
            [run for run in runs if run.arm == Arm(name=name, frames=frames, drop=drop)]
            for name in ARMS
        ]
        for frames in sorted(counts)
        for drop in DROPS
    }


def time_table(groups: Groups) -> Iterator[str]:
    """Seconds: medians, the least in brackets, and the literal arm's over longtake's."""
    yield (
        "| frames | drop | longtake s | literal s | **times** | longtake CPU s | literal CPU s | "
        "**times** | of the least |"
    )
    yield "|---" * 9 + "|"
    for (frames, drop), arms in groups.items():
        cells = [str(frames), drop]
        for value in (lambda run: run.wall, lambda run: run.cpu):
            columns = [[value(run) for run in arm] for arm in arms]
            cells += [f"{median(column):.1f} ({min(column):.1f})" for column in columns]
            cells.append(f"{median(columns[1]) / median(columns[0]):.2f}")
        least = min(columns[1]) / min(columns[0])
        yield f"| {' | '.join(cells)} | {least:.2f} |"


def memory_table(groups: Groups, folder: Path) -> Iterator[str]:
    """Median MiB above weights, and what was written."""
    yield "| frames | drop | longtake MiB | literal MiB | **times** | 16 ids | logits differ by |"
    yield "|---" * 7 + "|"
    for (frames, drop), arms in groups.items():
        ours, theirs = (median([run.above for run in arm]) for arm in arms)
        sizes = f"{ours:,.0f} | {theirs:,.0f} | {theirs / ours:.1f}"
        yield f"| {frames} | {drop} | {sizes} | {agreement(*arms, folder)} |"


def stage_table(runs: Sequence[Run], frames: int) -> Iterator[str]:
    """Least seconds of each stage."""
    arms = [Arm(name=name, frames=frames, drop=drop) for drop in DROPS for name in ARMS]
    yield f"| s, {frames} frames | {' | '.join(f'{arm.drop}, {arm.name}' for arm in arms)} |"
    yield "|---" * (len(arms) + 1) + "|"
    for stage, name in zip(STAGES, NAMES, strict=True):
        columns = [[r.seconds.get(stage, 0.0) for r in runs if r.arm == arm] for arm in arms]
        yield f"| {name} | {' | '.join(f'{min(column):.2f}' for column in columns)} |"


def main() -> None:
    """All arms in turn, tables and checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3, help="runs of each arm")
    parser.add_argument("--counts", type=int, nargs="+", default=FRAME_COUNTS)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/longtake-hico"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(asdict(measure(Arm(**json.loads(options.one)), options.folder))))
        return
    if not (options.folder / "checkpoint" / "config.json").exists():
        write_checkpoint(options.folder / "checkpoint", MID)
    runs = all_runs(options.counts, options.pairs, options.folder)
    groups, most = grouped(runs, options.counts), max(options.counts)
    tables = [time_table(groups), memory_table(groups, options.folder), stage_table(runs, most)]
    text = "\n\n".join("\n".join(lines) for lines in tables)
    print(text)
    head = f"`{shlex.join(['python', *sys.argv])}` on {machine()}; fp32.\n"
    options.results.mkdir(exist_ok=True)
    page = f"# VideoChat-Flash, streamed and at once\n\n{head}\n{text}\n"
    (options.results / "hico_speed.md").write_text(page)


if __name__ == "__main__":
    main()
