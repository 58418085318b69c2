"""Sixteen questions about one memory: one at a time, and in a batch that shares it.

    python benchmarks/many_questions.py --folder /tmp/footage

Watches 256 frames of a made-up video of three minutes with a card in it (bundled model), asks 16
questions both ways in turn, and compares wall-clock and CPU seconds pair by pair; the answers
must be the same. Arms: the model's own short answers, and 48 words whatever it writes; with
evidence and without; a packed memory; fewer rows at a time. Writes results/many_questions.md.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median

import footage
import torch

import longtake
from longtake.system import System
from longtake.train.questions import FIELDS, QUESTIONS
from longtake.types import Answer, Memory, Options
from longtake.video.cards import Card
from longtake.video.insert import Place, insert_card

RESULTS = Path(__file__).parent / "results"
SECONDS, FRAMES, COUNT, WORDS = 180, 256, 16, 48
CARD = Card(number=47, word="RIVER", colour="blue")
ROWS = (1, 2, 4, 8, 16)
HEAD = """One at a time: `System.ask` for each question. Together: `System.ask_many`. Medians over
pairs that took turns; the ratio is the median of the pairs' own ratios, lowest and highest in
brackets. Per question in milliseconds. All answers were the same both ways: ids, text, finish and
moments."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Something asked both ways."""

    name: str
    system: System
    memory: Memory
    options: Options
    most: int = COUNT


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one way took, in seconds."""

    wall: float
    cpu: float


def questions() -> list[str]:
    """Sixteen wordings, the three fields in turn."""
    return [QUESTIONS[FIELDS[n % 3]][n // 3] for n in range(COUNT)]


def clip(folder: Path) -> Path:
    """The video, made once."""
    target = folder / f"card-{SECONDS}s.mp4"
    if not target.exists():
        plain = footage.make(folder, seconds=SECONDS, gop=50)
        insert_card(plain, target, CARD, Place(at_seconds=SECONDS * 0.6))
    return target


def timed(work: Callable[[], list[Answer]]) -> tuple[list[Answer], Cost]:
    """Do it once."""
    wall, cpu = time.perf_counter(), time.process_time()
    answers = work()
    return answers, Cost(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)


def check(alone: Sequence[Answer], together: Sequence[Answer]) -> None:
    """Stop if the answers are not the same."""
    for one, other in zip(alone, together, strict=True):
        said = [(a.ids, a.text, a.finish) for a in (one, other)]
        seen = [[(s.start, s.end, s.visual) for s in a.evidence] for a in (one, other)]
        if said[0] != said[1] or seen[0] != seen[1]:
            raise SystemExit(f"not the same: {one} {other}")


def pairs(arm: Arm, count: int) -> list[tuple[Cost, Cost]]:
    """Both ways, taking turns in who goes first."""
    asked = questions()

    def alone() -> list[Answer]:
        return [arm.system.ask(arm.memory, question, arm.options) for question in asked]

    def together() -> list[Answer]:
        return arm.system.ask_many(arm.memory, asked, arm.options, most=arm.most)

    check(alone(), together())
    found = []
    for number in range(count):
        if number % 2:
            (many, second), (one, first) = timed(together), timed(alone)
        else:
            (one, first), (many, second) = timed(alone), timed(together)
        check(one, many)
        found.append((first, second))
    return found


def row(arm: Arm, found: Sequence[tuple[Cost, Cost]], words: int) -> str:
    """A line of the table."""
    cells = [arm.name, str(arm.most), f"{words / COUNT:.1f}"]
    for kind in ("wall", "cpu"):
        one, other = ([getattr(pair[way], kind) for pair in found] for way in (0, 1))
        ratios = [a / b for a, b in zip(one, other, strict=True)]
        cells += [f"{1e3 * median(times) / COUNT:.1f}" for times in (one, other)]
        cells.append(f"**{median(ratios):.1f}x** ({min(ratios):.1f}-{max(ratios):.1f})")
    return "| " + " | ".join(cells) + " |"


def arms(system: System, source: Path) -> list[Arm]:
    """What is measured."""
    memory = system.watch(str(source), max_frames=FRAMES)
    packed = system.variant(kv="int8")
    small = packed.watch(str(source), max_frames=FRAMES)
    # nothing ends an answer, so that all are as long
    endless, plain = replace(system, end_ids=frozenset()), system.options()
    long = system.options(max_new_tokens=WORDS)
    own = [
        Arm(name="own answers", system=system, memory=memory, options=plain, most=most)
        for most in reversed(ROWS)
    ]
    return [
        *own,
        Arm(
            name="own answers, no evidence",
            system=system,
            memory=memory,
            options=system.options(evidence=False),
        ),
        Arm(name="own answers, int8 memory", system=packed, memory=small, options=plain),
        Arm(name=f"{WORDS} words", system=endless, memory=memory, options=long),
        Arm(
            name=f"{WORDS} words, no evidence",
            system=endless,
            memory=memory,
            options=replace(long, evidence=False),
        ),
    ]


def main() -> None:
    """Measure all arms; write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/longtake-footage"))
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--dry", action="store_true", help="Print, and leave the result as it is.")
    args = parser.parse_args()
    began = time.time()
    system = longtake.load("default", device="cpu")
    listed = arms(system, clip(args.folder))
    lines, memory = [], listed[0].memory
    for arm in listed:
        written = arm.system.ask_many(arm.memory, questions(), arm.options)
        lines.append(row(arm, pairs(arm, args.pairs), sum(len(a.ids) for a in written)))
        print(lines[-1], flush=True)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s)"
    command = " ".join(["python", "benchmarks/many_questions.py", *sys.argv[1:]])
    took = f"Python {platform.python_version()}, {packages}; fp32; {time.time() - began:.0f} s"
    about = f"Bundled model, {FRAMES} frames, {memory.length} tokens; {COUNT} questions."
    table = [
        "| what | rows | words | alone, wall | together | ratio | alone, CPU | together | ratio |",
        "|---" * 9 + "|",
        *lines,
    ]
    head = (
        f"# Many questions about one memory\n\n`{command}` on {machine}, {took}.\n\n{about} {HEAD}"
    )
    if not args.dry:
        text = "\n".join([head, "", *table, ""])
        (RESULTS / "many_questions.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
