"""Frames in, 16 ids out: Video-XL streamed by longtake, one-shot as published, and uncondensed.

    OMP_NUM_THREADS=1 python benchmarks/video_xl_speed.py --pairs 3 --profile

Random weights of middling size (ViT 512 x 8 at 336 px, decoder 512 x 8, the real vocabulary), the
same for all arms; each arm in a process of its own, in turn. The published procedure is
`literal_video_xl.py`; the uncondensed arm is longtake's LongVA on the same tower and decoder. Fails
if the first two write different ids. Writes results/video_xl_speed.md, and with --profile
results/video_xl_profile.md. Linux only (it reads /proc).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import literal_video_xl
import torch
from literal_video_xl import Written
from memory import MIB, resident
from spent import spending, spent
from torch import Tensor, nn
from video_xl_memory import random_system

from longtake.system import System
from longtake.systems.longva import LongVA
from longtake.systems.video_xl import VideoXL
from longtake.types import Frames, Options, VisualTokens

HERE = Path(__file__).parent
MID: dict[str, Any] = {
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 1408,
    "vocab_size": 152064,
}
MID_TOWER: dict[str, Any] = {
    "hidden_size": 512,
    "num_hidden_layers": 9,  # the output of the last but one is used
    "num_attention_heads": 8,
    "intermediate_size": 2048,
}
RATIO = 8
QUESTION = "What happens in this video?"
TOKENS = 16
ARMS = ("longtake", "literal", "uncondensed")
STAGES = ("tower", "projector", "windows", "head", "answer")
NAMES = (
    *STAGES[:2],
    "decoder over the video",
    "head over the video",
    "question and 16 ids",
    "rest",
)


def noise(num: int, seed: int = 0) -> Frames:
    """Random frames of 336 x 336, a second apart."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num, 3, 336, 336)
    return Frames(
        pixels_TCHW=torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
        seconds_T=torch.arange(num, dtype=torch.float64),
        index_T=torch.arange(num),
    )


@dataclass(frozen=True, kw_only=True)
class Run:
    """One measured process."""

    arm: str
    seconds: dict[str, float]
    """Wall seconds of each stage."""
    wall: float
    cpu: float
    before: int
    """Resident bytes with the model built and used once, and the frames."""
    peak: int
    ids: list[int]

    @property
    def above(self) -> float:
        """MiB above the weights."""
        return (self.peak - self.before) / MIB


@dataclass
class Clock:
    """Adds what a module's calls take to a stage."""

    out: Written
    stage: str
    began: float = 0.0

    def enter(self, module: nn.Module, given: object) -> None:
        """Before a call."""
        self.began = time.perf_counter()

    def leave(self, module: nn.Module, given: object, x: Tensor) -> None:
        """After it."""
        self.out.add(self.stage, time.perf_counter() - self.began)


@contextmanager
def clocked(out: Written, **modules: nn.Module) -> Iterator[None]:
    """Add what each module's calls take to the stage it is named for."""
    hooks = []
    for name, module in modules.items():
        clock = Clock(out, name)
        hooks.append(module.register_forward_pre_hook(clock.enter))
        hooks.append(module.register_forward_hook(clock.leave))
    yield
    for hook in hooks:
        hook.remove()


def streamed(system: System, frames: Frames) -> Written:
    """Watch and ask, as users do; evidence is off, the literal arm gives none."""
    out, model = Written(), system.model
    options = Options(max_new_tokens=TOKENS, repetition_penalty=1.0, evidence=False)
    with clocked(out, tower=model.tower, projector=model.projector, windows=model.decoder):
        memory = system.watch(frames, max_frames=len(frames))
    head = model.logits

    def noted(features: Tensor) -> Tensor:
        out.logits.append(head(features))
        return out.logits[-1]

    with patch.object(model, "logits", noted), out.stage("answer"):
        out.ids = list(system.ask(memory, QUESTION, options).ids)
    return out


def one_shot(system: VideoXL, frames: Frames) -> Written:
    """The published procedure."""
    before = system.tokens(system.template.head())
    after = system.tokens("\n" + system.template.tail(QUESTION))
    return literal_video_xl.answer(system, frames.pixels_TCHW, before, after, TOKENS)


def measure(arm: str, num: int, logits: Path) -> Run:
    """Run one arm in this process; its logits go to a file."""
    system = random_system(MID | {"beacon_ratio": [RATIO]}, MID_TOWER)
    frames, work = noise(num), partial(streamed, system)
    if arm == "literal":
        work = partial(one_shot, system)
    if arm == "uncondensed":
        shared = {field.name: getattr(system, field.name) for field in fields(LongVA)}
        work = partial(streamed, LongVA(**shared))
    work(noise(1))  # pages code in
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest size is counted anew
    wall, cpu = time.perf_counter(), time.process_time()
    out = work(frames)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resident("VmHWM")
    torch.save(torch.stack(out.logits), logits)
    seconds = out.seconds | {"rest": wall - sum(out.seconds.values())}
    return Run(arm=arm, seconds=seconds, wall=wall, cpu=cpu, before=before, peak=peak, ids=out.ids)


def apart(arm: str, num: int, folder: Path) -> Run:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--one", arm, "--frames", str(num), "--folder", folder]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    run = Run(**json.loads(done.stdout))
    print(f"{arm}: {run.wall:.1f} s, {run.cpu:.1f} s of CPU, {run.above:.0f} MiB", flush=True)
    return run


def table(runs: Sequence[Run]) -> str:
    """Markdown: totals and stages of each arm, medians with the least in brackets."""
    rows: dict[str, Callable[[Run], float]] = {
        "**wall s**": lambda run: run.wall,
        "wall s without the head over the video": lambda run: run.wall - run.seconds.get("head", 0),
        "**CPU s**": lambda run: run.cpu,
        "**peak MiB above weights**": lambda run: run.above,
    }
    for stage, name in zip((*STAGES, "rest"), NAMES, strict=True):
        rows[f"{name}, s"] = lambda run, stage=stage: run.seconds.get(stage, 0.0)
    lines = [f"| median (least) | {' | '.join(ARMS)} | literal / longtake |", "|---" * 5 + "|"]
    for name, value in rows.items():
        columns = [[value(run) for run in runs if run.arm == arm] for arm in ARMS]
        cells = [f"{median(column):.1f} ({min(column):.1f})" for column in columns]
        ours, theirs = median(columns[0]), median(columns[1])
        ratio = f"{theirs / ours:.2f}" if ours > 0.05 else "-"
        lines.append(f"| {name} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines)


def agreement(runs: Sequence[Run], folder: Path) -> str:
    """One line about ids and logits. Exits if the ids of any two runs differ."""
    alike = [run for run in runs if run.arm != "uncondensed"]
    ids = alike[0].ids
    for run in alike:
        if run.ids != ids:
            sys.exit(f"ids differ: {alike[0].arm} wrote {ids}, {run.arm} {run.ids}")
    ours, theirs = (torch.load(folder / f"{arm}.pt") for arm in ARMS[:2])
    error, spread = (ours - theirs).abs().max().item(), ours.std().item()
    return (
        f"longtake and the literal arm write the same {len(ids)} ids ({len(set(ids))} "
        f"distinct); logits differ by at most {error:.1e}, they deviate by {spread:.2f}."
    )


def machine() -> str:
    """Hardware and versions, in one line."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} thread(s)"
    return f"{platform.machine()}, {cores}, Python {platform.python_version()}; {packages}"


@torch.no_grad()
def profiled(num: int) -> str:
    """Where CPU time goes in the window loop (with the text before and one row of the head)."""
    system = random_system(MID | {"beacon_ratio": [RATIO]}, MID_TOWER)
    features_ND = torch.randn(144 * num, MID["hidden_size"], generator=torch.Generator())
    seconds = tuple(float(second) for second in range(num))
    visual = VisualTokens(features_ND=features_ND, counts=(144,) * num, seconds=seconds)
    prompt = f"{system.template.head()}<image>"
    options = Options(max_new_tokens=1, evidence=False)
    system.complete(prompt, [visual], options)
    return spending(spent(lambda: system.complete(prompt, [visual], options)))


def main() -> None:
    """All arms in turn, table and checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3, help="runs of each arm")
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--profile", action="store_true", help="where the window loop's time goes")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--folder", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--one", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run = measure(options.one, options.frames, options.folder / f"{options.one}.pt")
        print(json.dumps(asdict(run)))
        return
    options.results.mkdir(exist_ok=True)
    head = f"`{shlex.join(['python', *sys.argv])}` on {machine()}; fp32, {options.frames} frames.\n"
    if options.profile:
        text = profiled(options.frames)
        print(text)
        (options.results / "video_xl_profile.md").write_text(f"# Window loop\n\n{head}\n{text}\n")
    if not options.pairs:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = [apart(arm, options.frames, folder) for _ in range(options.pairs) for arm in ARMS]
        agreed = agreement(runs, folder)
    text = f"{table(runs)}\n\n{agreed}"
    print(text)
    page = f"# Video-XL, three ways\n\n{head}\n{text}\n"
    (options.results / "video_xl_speed.md").write_text(page)


if __name__ == "__main__":
    main()
