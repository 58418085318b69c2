"""How long the first and the second question about a half-hour clip take, and what is kept of it.

    python benchmarks/library.py FOLDER --minutes 30

FOLDER keeps the clip, which is made once: drifting texture with a card for eight seconds. Each row
is a process of its own. "whole command" is what a shell waits for; "in process" leaves out starting
Python, importing torch and loading the model, and is split into its parts. The answers before the
memory is saved, from the file, and after a restart are compared, evidence and all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from footage import make

QUESTION = "What word is on the card?"
OTHER = "What colour is the card?"
CARD_SECONDS = 8


def clip_with_card(folder: Path, minutes: int) -> Path:
    """The clip; its card is shown in the middle, longer than two sampled frames are apart."""
    from longtake.video.cards import Card
    from longtake.video.insert import Place, insert_card

    target = folder / f"{minutes}min-card.mp4"
    if not target.exists():
        plain = make(folder, seconds=minutes * 60 - CARD_SECONDS, gop=250)
        card = Card(number=47, word="RIVER", colour="green")
        place = Place(at_seconds=minutes * 30.0, seconds=float(CARD_SECONDS))
        insert_card(plain, target, card, place)
    return target


def timed(step: Callable[[], Any], times: dict[str, float], name: str) -> Any:
    """The result of a step; its seconds are noted."""
    began = time.perf_counter()
    result = step()
    times[name] = time.perf_counter() - began
    return result


def once(clip: Path, question: str) -> dict[str, Any]:
    """What `longtake ask` does behind its imports, step by step."""
    import longtake

    system, library = longtake.load("default", device="cpu"), longtake.Library()
    ask: dict[str, Any] = {"evidence": True, "max_new_tokens": 64}
    times: dict[str, float] = {}
    found = timed(lambda: library.find(clip, system), times, "find")
    if found is None:
        memory = timed(lambda: system.watch(clip), times, "watch")
        answer = timed(lambda: system.ask(memory, question, system.options(**ask)), times, "ask")
        stored = timed(lambda: library.save(memory, system=system, source=clip), times, "save")
    else:
        with library.open(found, "cpu") as memory:
            answer = timed(
                lambda: system.ask(memory, question, system.options(**ask)), times, "open and ask"
            )
            # the same once more: what the question alone takes
            again = timed(lambda: system.ask(memory, question, system.options(**ask)), {}, "ask")
            assert (again.ids, again.evidence) == (answer.ids, answer.evidence)
            times["of it the question"] = again.stats.prefill_seconds + again.stats.answer_seconds
        stored = found
    return {
        "times": times,
        "total": sum(times[name] for name in times if name != "of it the question"),
        "text": answer.text,
        "ids": answer.ids,
        "evidence": [str(span) for span in answer.evidence],
        "bytes": stored.bytes,
        "frames": stored.frames,
        "tokens": stored.tokens,
    }


def in_process(clip: Path, question: str) -> dict[str, Any]:
    """`once` in a fresh process."""
    command = [sys.executable, __file__, str(clip.parent), "--once", str(clip), question]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def command(*words: str) -> tuple[float, str]:
    """Seconds and output of a command, process start and all."""
    began = time.perf_counter()
    line = [sys.executable, "-m", "longtake", *words]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    return time.perf_counter() - began, done.stdout.strip()


def report(clip: Path) -> list[str]:
    """Measure; lines of a table."""
    rows = ["| | whole command s | answer |", "|---|---|---|"]
    first = command("ask", str(clip), QUESTION)
    again = command("ask", str(clip), QUESTION)
    other = command("ask", clip.stem, OTHER)
    assert first[1] == again[1]
    for name, (seconds, text) in (
        ("`ask CLIP`, first: watch, answer, save", first),
        ("`ask CLIP` again, same question", again),
        ("`ask NAME`, another question", other),
        ("`ls`", (command("ls")[0], "")),
        ("`verify`", command("verify")),
    ):
        rows.append(f"| {name} | {seconds:.2f} | {text} |")
    shutil.rmtree(os.environ["LONGTAKE_LIBRARY"])
    told = [in_process(clip, question) for question in (QUESTION, QUESTION, OTHER)]
    assert told[0]["ids"] == told[1]["ids"]
    assert told[0]["evidence"] == told[1]["evidence"]
    rows += ["", "| | in process s | of which | answer |", "|---|---|---|---|"]
    for name, one in zip(("first", "again", "another question"), told, strict=True):
        parts = ", ".join(f"{part} {seconds:.3f}" for part, seconds in one["times"].items())
        rows.append(f"| {name} | {one['total']:.3f} | {parts} | {one['text']} |")
    times = told[0]["total"] / told[1]["total"]
    kept = f"{told[0]['frames']} frames, {told[0]['tokens']} tokens, {told[0]['bytes']:,} bytes"
    rows += ["", f"The second question takes 1/{times:.0f} of the first in process,"]
    rows += [f"1/{first[0] / again[0]:.1f} as a whole command. The file: {kept}."]
    return rows


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--once", nargs=2, help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.once:
        print(json.dumps(once(Path(said.once[0]), said.once[1])))
        return
    clip = clip_with_card(said.folder, said.minutes)
    os.environ["LONGTAKE_LIBRARY"] = str(said.folder / "library")
    shutil.rmtree(said.folder / "library", ignore_errors=True)
    names = ("torch", "safetensors", "av")
    print(f"Python {platform.python_version()}, {', '.join(f'{n} {version(n)}' for n in names)}")
    print("\n".join(report(clip)))


if __name__ == "__main__":
    main()
