"""Arms of a measurement: each in a process of its own, in turn, logged so that nothing runs twice.

A script of arms is run as `python SCRIPT FOLDER ARM`, ARM in JSON, and prints its run as one line.
Linux only (it reads /proc).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from memory import MIB, resident

A = TypeVar("A")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Run(Generic[A]):
    """One measured process."""

    arm: A
    wall: float
    cpu: float
    before: int
    """Resident bytes with the model loaded and used once, and the frames."""
    peak: int
    ids: list[int]
    threads: int
    notes: dict[str, Any]
    """What an arm tells besides."""

    @property
    def above(self) -> float:
        """MiB above the weights."""
        return (self.peak - self.before) / MIB


def measured(
    arm: A, work: Callable[[], T], told: Callable[[T, float], tuple[list[int], dict[str, Any]]]
) -> Run[A]:
    """Run `work` in this process; `told` makes ids and notes of its result and the seconds."""
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest size is counted anew
    wall, cpu = time.perf_counter(), time.process_time()
    out = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resident("VmHWM")
    ids, notes = told(out, wall)
    return Run(
        arm=arm,
        wall=wall,
        cpu=cpu,
        before=before,
        peak=peak,
        ids=ids,
        threads=torch.get_num_threads(),
        notes=notes,
    )


@dataclass(frozen=True, kw_only=True)
class Bench(Generic[A]):
    """A script of arms, and the folder its runs are logged in."""

    script: Path
    folder: Path
    arm: Callable[..., A]
    """Makes an arm of its fields."""

    def runs(self, arms: Sequence[A], pairs: int) -> list[Run[A]]:
        """So many runs of every arm, in turn; those that are logged are not measured again."""
        log = self.folder / "runs.jsonl"
        logged = map(self.read, log.read_text().splitlines()) if log.exists() else ()
        runs = [run for run in logged if run.arm in arms]
        for number in range(pairs):
            for arm in arms:
                if sum(run.arm == arm for run in runs) <= number:
                    runs.append(self.one(arm, log))
        return runs

    def one(self, arm: A, log: Path) -> Run[A]:
        """Measure in a process of its own."""
        given = json.dumps(asdict(arm))  # type: ignore[call-overload]
        command = [sys.executable, str(self.script), str(self.folder), given]
        line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        with log.open("a") as file:
            file.write(line)
        run = self.read(line)
        told = f"{run.wall:.1f} s, {run.cpu:.1f} s of CPU, {run.above:.0f} MiB"
        print(f"{arm}: {told}", flush=True)
        return run

    def read(self, line: str) -> Run[A]:
        """A run from its line."""
        fields = json.loads(line)
        try:
            return Run(**{**fields, "arm": self.arm(**fields["arm"])})
        except (KeyError, TypeError):
            sys.exit(f"{self.folder}/runs.jsonl is of an earlier version; choose another --folder")


def serve(bench_arm: Callable[..., A], measure: Callable[[A, Path], Run[A]]) -> None:
    """Be the process of one arm: measure what the command line names and print the run."""
    folder, given = Path(sys.argv[1]), json.loads(sys.argv[2])
    print(json.dumps(asdict(measure(bench_arm(**given), folder))))


def same_ids(runs: Sequence[Run[A]]) -> list[int]:
    """The ids that all of them wrote. Exits if any two differ."""
    if len({tuple(run.ids) for run in runs}) > 1:
        sys.exit("ids differ: " + "; ".join(f"{run.arm} wrote {run.ids}" for run in runs))
    return runs[0].ids
