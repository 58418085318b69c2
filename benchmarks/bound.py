"""How many times faster longtake could be at most, were all but its products and attention free.

    OMP_NUM_THREADS=1 python benchmarks/bound.py --hico /tmp/longtake-hico

Both arms of onevision_speed.py and of hico_speed.py, each once, on one thread and under torch's
profiler, with the checkpoints of those scripts. Writes results/bound.md.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import hico_arms
import onevision_arms
import torch
from spent import Cost, seconds_of, spending, spent
from video_xl_speed import machine

import longtake
from longtake.systems.videochat_flash import VideoChatFlash

HERE = Path(__file__).parent
Costs = dict[str, dict[str, Cost]]
"""By arm and operation, longtake's arm first."""


def onevision(folder: Path, frames: int) -> Costs:
    """LLaVA-OneVision and transformers' class."""
    costs, shown = {}, onevision_arms.noise(frames)
    for name, arm in onevision_arms.ARMS.items():
        worker = arm(folder / "checkpoint", onevision_arms.Arm(name=name, frames=frames))
        worker.answer(onevision_arms.noise(2))  # pages code in
        costs[name] = spent(partial(worker.answer, shown))
    return costs


def hico(folder: Path, frames: int, drop: str = "uniform") -> Costs:
    """VideoChat-Flash and the published procedure."""
    system = longtake.load(folder / "checkpoint", device="cpu")
    system = system.variant(drop=hico_arms.DROPS[drop])
    assert isinstance(system, VideoChatFlash)
    costs, shown = {}, hico_arms.noise(frames)
    works = {"longtake": hico_arms.streamed, "literal": hico_arms.at_once}
    for name, work in works.items():
        work(system, hico_arms.noise(8))
        costs[name] = spent(partial(work, system, shown))
    return costs


def bound(costs: Mapping[str, dict[str, Cost]]) -> str:
    """What it is, in a line."""
    (products, total), (_, other) = (seconds_of(cost) for cost in costs.values())
    ours, theirs = costs
    return (
        f"{ours}: {total:.1f} s, {products:.1f} of them in products and attention; {theirs}: "
        f"{other:.1f} s, {other / total:.2f} times as long, and **{other / products:.2f} times** "
        "as long as those products alone."
    )


def section(title: str, costs: Costs) -> str:
    """A case: the bound, and a table for each arm."""
    tables = [f"### {name}\n\n{spending(cost, rows=8)}" for name, cost in costs.items()]
    return "\n\n".join([f"## {title}", bound(costs), *tables])


def main() -> None:
    """All cases, and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onevision", type=Path, default=Path("/tmp/longtake-onevision"))
    parser.add_argument("--hico", type=Path, required=True, help="the folder of hico_speed.py")
    parser.add_argument("--frames", type=int, nargs=2, default=[32, 256])
    options = parser.parse_args()
    torch.set_num_threads(1)  # the profiler sees one
    few, many = options.frames
    command = shlex.join(["python", *sys.argv])
    parts = [
        "# What is left to gain",
        f"`{command}` on {machine()}; fp32, each arm once, under the profiler.",
        section(f"LLaVA-OneVision, {few} frames", onevision(options.onevision, few)),
        section(f"VideoChat-Flash, {many} frames, even drops", hico(options.hico, many)),
    ]
    print(page := "\n\n".join(parts))
    (HERE / "results" / "bound.md").write_text(f"{page}\n")


if __name__ == "__main__":
    main()
