"""What watching and asking really take, measured in a process of its own. Linux only.

    python -m tests.peak '[{"system": "longva", "frames": 64, ...}]'

prints a JSON list: for each case the tokens and bytes of the memory, and the highest resident size
while watching and while asking, above what was resident before. Memory that was freed is given back
to the system at once (see `measured`), so that cases do not see one another.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is run."""

    system: str
    clip: str
    frames: int
    config: Mapping[str, Any] = field(default_factory=dict)
    tower: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What it took, in bytes and tokens."""

    length: int
    memory: int
    watching: int
    """Highest resident size above that before."""
    asking: int
    """The same while a question is answered, above that before watching."""
    question: int
    """Tokens of it."""


def resident(name: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def settle() -> int:
    """Give back what is free, count the highest size anew; returns the resident size."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def take(case: Case) -> Taken:
    """Run one case in this process."""
    from tests.sized import bare, filled, sized

    with tempfile.TemporaryDirectory() as place:
        folder = sized(Path(place) / "model", case.system, case.config, case.tower)
        system = filled(bare(folder, dtype=case.dtype)).variant(**case.options)
        options = system.options(max_new_tokens=2)
        few = system.watch(case.clip, max_frames=4)  # pages code in
        system.ask(few, "What happens?", options)
        del few
        before = settle()
        memory = system.watch(case.clip, max_frames=case.frames)
        watching = resident("VmHWM") - before
        settle()
        system.ask(memory, "What happens?", options)
        asked = system.tokens(memory.lead + system.template.tail("What happens?"))
        return Taken(
            length=memory.length,
            memory=memory.bytes,
            watching=watching,
            asking=resident("VmHWM") - before,
            question=len(asked),
        )


def measured(cases: Sequence[Case]) -> list[Taken]:
    """Run cases one after another in a process of their own."""
    code = "from tests.peak import main; main()"
    environment = dict(os.environ, PYTHONPATH=f"{ROOT / 'src'}:{ROOT}", OMP_NUM_THREADS="1")
    # or glibc keeps freed pages for later, as many as happen to lie at the end of its heaps
    environment |= {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([asdict(case) for case in cases])],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [Taken(**one) for one in json.loads(done.stdout)]


def main() -> None:
    """Print what the cases on the command line take."""
    taken = []
    for case in json.loads(sys.argv[1]):
        taken.append(asdict(take(Case(**case))))
        gc.collect()
    sys.stdout.write(json.dumps(taken))
