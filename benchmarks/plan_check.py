"""Plans against what watching really took: seconds by stage of work, and peak bytes.

    python -m benchmarks.plan_check --folder /tmp/longtake-footage

Each system at middling sizes with random weights: a plan is made from its folder, which holds no
weights, then the video is watched and a question answered by a model of these sizes, several times
in turn, in one process with one thread. Both are timed by the processor time of the process, so
that what others do on the machine counts less; stages that go on side by side are added up, and
wall time is not compared. Peak bytes come from processes of
their own (tests/peak.py). Writes results/plan_check.md. Linux only.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from benchmarks import footage
from tests.peak import Case, measured
from tests.sized import bare, filled, sized, small_umt

from longtake import rates
from longtake.clock import cores
from longtake.needs import Needs
from longtake.pictures import THREADS
from longtake.planning import Setting, plan
from longtake.system import System
from longtake.targets import Where, fitting_of
from longtake.video import effort
from longtake.video.decode import open_video
from longtake.video.sample import Footage

RESULTS = Path(__file__).parent / "results"
MIB = 2**20
QUESTION = "What happens in this video, and when?"
WORDS = 16

DECODER = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "torch_dtype": "float32",
}
TOWER = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4}
MIDDLING: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "longva": (32, DECODER | {"mm_hidden_size": 256}, TOWER),
    "video_xl": (32, DECODER | {"mm_hidden_size": 256, "beacon_ratio": [8]}, TOWER),
    "videochat_flash": (64, DECODER, {}),
    "llava_onevision": (24, DECODER | {"mm_hidden_size": 256}, TOWER),
}
"""Frames, and changed fields of the config and of the tower's."""
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "longva": ({}, {"pool": "paper"}, {"kv": "int8"}),
    "video_xl": ({}, {"ratio": 2}, {"ratio": 16}),
    "videochat_flash": ({}, {"drop": "2,4:1,0.75,0.25"}),
    "llava_onevision": ({}, {"pool": "paper", "extend": "visual-window"}),
}


Seconds = tuple[float, float, float]
"""Of watching, of a question up to its answer's first word, of each further word."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting: planned and found seconds, round by round."""

    name: str
    frames: int
    planned: Sequence[Seconds]
    found: Sequence[Seconds]


def work_seconds(planned: Setting) -> float:
    """Processor seconds of watching, one thread each for what goes on side by side."""
    stages = {stage.name: stage.seconds for stage in planned.stages}
    names = ("resize", "tower", "compress", "prefill")
    return stages["decode"] * min(THREADS, cores()) + sum(stages[name] for name in names)


def answered(system: System, clip: Path, frames: int) -> Seconds:
    """Watch and ask."""
    began = time.process_time()
    memory = system.watch(str(clip), max_frames=frames)
    watched, taken = time.process_time() - began, []
    for words in (1, WORDS):
        began = time.process_time()
        system.ask(memory, QUESTION, system.options(max_new_tokens=words))
        taken.append(time.process_time() - began)
    return watched, taken[0], (taken[1] - taken[0]) / (WORDS - 1)


def check(name: str, options: Mapping[str, Any], clip: Path, rounds: int) -> Row:
    """Plan, watch, plan, watch, ..."""
    frames, config, tower = MIDDLING[name]
    with tempfile.TemporaryDirectory() as place, small_umt():
        folder = sized(Path(place) / "model", name, config, tower)
        system = filled(bare(folder)).variant(**options)
        system.ask(system.watch(str(clip), max_frames=4), QUESTION)
        plans, runs = [], []
        for _ in range(rounds):
            rates.KNOWN.clear()
            plans.append(plan(str(clip), folder, device="cpu", options=options, max_frames=frames))
            runs.append(answered(system, clip, frames))
    said = " ".join(f"{key}={value}" for key, value in options.items())
    own = [one.own for one in plans]
    return Row(
        name=f"{name} {said}".strip(),
        frames=own[0].frames,
        planned=[(work_seconds(one), one.question_seconds, one.token_seconds) for one in own],
        found=runs,
    )


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Milliseconds, planned and found, and the planned over the found."""
    yield "| setting | frames | watch | first word | each word |"
    yield "|---|---|---|---|---|"
    for row in rows:
        cells = []
        for number in range(3):
            told, took = (median(r[number] for r in of) for of in (row.planned, row.found))
            cells.append(f"{1000 * told:,.0f} / {1000 * took:,.0f} ({told / took:.2f})")
        yield f"| {row.name} | {row.frames} | {' | '.join(cells)} |"


def peaks(clip: Path) -> Iterator[str]:
    """Bytes, planned and found."""
    yield "| setting | frames | memory | while watching | while asking |"
    yield "|---|---|---|---|---|"
    cases = [
        Case(system=name, clip=str(clip), frames=frames, config=config, tower=tower, options=one)
        for name, (frames, config, tower) in MIDDLING.items()
        for one in OPTIONS[name]
    ]
    for case, taken in zip(cases, measured(cases), strict=True):
        needs = told_bytes(case, taken.question)
        pairs = (
            (needs.memory, taken.memory),
            (needs.watching, taken.watching),
            (needs.asking, taken.asking),
        )
        cells = [f"{a / MIB:.1f} / {b / MIB:.1f} ({a / b:.2f})" for a, b in pairs]
        said = " ".join(f"{key}={value}" for key, value in case.options.items())
        yield f"| {case.system} {said} | {case.frames} | {' | '.join(cells)} |"


def told_bytes(case: Case, question: int) -> Needs:
    """What a plan says of a case; `question`: tokens that were asked."""
    with tempfile.TemporaryDirectory() as place, open_video(case.clip) as video:
        folder = sized(Path(place) / "model", case.system, case.config, case.tower)
        made = bare(folder, dtype=case.dtype).variant(**case.options)
        where = Where(device=torch.device("cpu"), name="cpu", memory=2**40)
        footage = Footage(frames=video.frames, fps=video.fps)
        fitting = fitting_of(made, video, footage, where)
        showing = replace(fitting.showing(case.frames), question=question, answer=2)
        return made.needs(showing, fitting.place)


def main() -> None:
    """All settings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/longtake-footage"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=120, help="length of the video")
    parser.add_argument("--results", type=Path, default=RESULTS / "plan_check.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rates.now = effort.now = time.process_time
    clip = footage.make(options.folder, seconds=options.seconds, gop=50)
    load = os.getloadavg()[0]
    rows = []
    for name, every in OPTIONS.items():
        for one in every:
            rows.append(check(name, one, clip, options.rounds))
            print(list(table(rows[-1:]))[-1], flush=True)
    bytes_table = list(peaks(clip))
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "av"))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    after = os.getloadavg()[0]
    command = ["python", "-m", "benchmarks.plan_check", *sys.argv[1:]]
    text = "\n".join(
        [
            "# Plans against what watching took\n",
            (
                f"`{shlex.join(command)}` on {machine}, one thread; {packages}; fp32. "
                f"Load average {load:.1f} to {after:.1f}: others used the machine too.\n"
            ),
            (
                "Planned / found (ratio). Milliseconds of processor time, medians of "
                f"{options.rounds} rounds.\n"
            ),
            *table(rows),
            "\nMiB above the weights, from processes of their own.\n",
            *bytes_table,
            "",
        ]
    )
    print(text)
    options.results.write_text(text)


if __name__ == "__main__":
    main()
