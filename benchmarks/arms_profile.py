"""Where the CPU time of longtake and of what it is measured beside goes, one thread each.

    OMP_NUM_THREADS=1 python benchmarks/arms_profile.py

The arms, sizes and checkpoints of onevision_speed.py and hico_speed.py, each once under torch's
profiler, in one process. Fails if two arms write different ids. Writes results/arms_profile.md.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import hico_arms
import hico_speed
import onevision_arms
import onevision_speed
import torch
from hico_checkpoint import write_checkpoint
from spent import Cost, seconds_of, spending, spent
from video_xl_speed import machine

import longtake
from longtake.systems.videochat_flash import VideoChatFlash

HERE = Path(__file__).parent
DROP = "uniform"
"""Of VideoChat-Flash: all arms of hico_speed.py, and even."""


@dataclass(frozen=True, kw_only=True)
class Profiled:
    """One arm."""

    costs: dict[str, Cost]
    ids: list[int]

    @classmethod
    def of(cls, work: Callable[[int], list[int]], frames: int) -> Profiled:
        """`work` makes ids of so many frames."""
        work(8)  # pages code in
        ids: list[int] = []
        return cls(costs=spent(lambda: ids.extend(work(frames))), ids=ids)


def onevision(folder: Path, frames: int) -> dict[str, Profiled]:
    """LLaVA-OneVision and transformers' class."""
    checkpoint = folder / "checkpoint"
    if not (checkpoint / "config.json").exists():
        onevision_arms.write_checkpoint(checkpoint, onevision_speed.TOWER, onevision_speed.TEXT)
    made = {}
    for name, kind in onevision_arms.ARMS.items():
        arm = kind(checkpoint, onevision_arms.Arm(name=name, frames=frames))
        made[name] = Profiled.of(
            lambda num, arm=arm: arm.answer(onevision_arms.noise(num))[0], frames
        )
    return made


def hico(folder: Path, frames: int) -> dict[str, Profiled]:
    """VideoChat-Flash and the published procedure."""
    if not (folder / "checkpoint" / "config.json").exists():
        write_checkpoint(folder / "checkpoint", hico_speed.MID)
    system = longtake.load(folder / "checkpoint", device="cpu")
    system = replace(system.variant(drop=hico_arms.DROPS[DROP]), end_ids=frozenset())
    assert isinstance(system, VideoChatFlash)
    return {
        "longtake": Profiled.of(
            lambda num: hico_arms.streamed(system, hico_arms.noise(num)).ids, frames
        ),
        "literal": Profiled.of(
            lambda num: hico_arms.at_once(system, hico_arms.noise(num)).ids, frames
        ),
    }


def section(title: str, arms: dict[str, Profiled]) -> str:
    """A table for each arm, and a line above them. Exits if ids differ."""
    if len({tuple(arm.ids) for arm in arms.values()}) > 1:
        sys.exit("ids differ: " + "; ".join(f"{name} {arm.ids}" for name, arm in arms.items()))
    each = {name: seconds_of(arm.costs) for name, arm in arms.items()}
    told = "; ".join(
        f"{name} {total:.1f} s, {products:.1f} of them in products, convolutions and attention"
        for name, (products, total) in each.items()
    )
    tables = [f"### {name}\n\n{spending(arm.costs, rows=8)}" for name, arm in arms.items()]
    return "\n\n".join([f"## {title}", f"{told}. Same ids.", *tables])


def main() -> None:
    """Both cases, and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onevision", type=Path, default=Path("/tmp/longtake-onevision"))
    parser.add_argument("--hico", type=Path, default=Path("/tmp/longtake-hico"))
    parser.add_argument("--frames", type=int, nargs=2, default=[32, 256])
    options = parser.parse_args()
    torch.set_num_threads(1)  # the profiler sees one
    few, many = options.frames
    command = shlex.join(["python", *sys.argv])
    parts = [
        "# Where the time of both arms goes",
        f"`{command}` on {machine()}; fp32, each arm once, under the profiler.",
        section(f"LLaVA-OneVision, {few} frames", onevision(options.onevision, few)),
        section(f"VideoChat-Flash, {many} frames, even drops", hico(options.hico, many)),
    ]
    print(page := "\n\n".join(parts))
    (HERE / "results" / "arms_profile.md").write_text(f"{page}\n")


if __name__ == "__main__":
    main()
