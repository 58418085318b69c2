"""Reading beyond the trained visual window without training: which stretch of positions works.

The claim of arXiv 2409.20018 on tiny models: positions must be stretched by the *visual* tokens of
training, not by the longer window of language. The task is `benchmarks/window_task.py`; every
method answers the same questions about the same videos, with the same weights.

    OMP_NUM_THREADS=1 python -m benchmarks.window_study
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from benchmarks import window_task as task

from longtake.evaluate.intervals import wilson
from longtake.extend import VisualWindow
from longtake.model import LongtakeModel
from longtake.parts.rope import Linear, Ntk, Rope

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"
STRETCHES = (1, 2, 4, 8)
"""Visual tokens of a test video, in trained windows."""
ROWS = 8
"""Videos read at a time."""
SHOWN = {
    "none": "tab:grey",
    "linear": "tab:green",
    "NTK": "tab:purple",
    "YaRN, language window": "tab:red",
    "visual window": "tab:blue",
    "visual window, rotations": "tab:orange",
}
"""Methods of the plot."""
READING = "\n## Reading\n"
"""What follows in the page is written by hand, and kept."""


@dataclass(frozen=True)
class Point:
    """Right answers of one model, read by one method, at one length."""

    seed: int
    stretch: int
    method: str
    tally: task.Tally


def visual(target: int, window: int = task.WINDOW, **readings: Any) -> Rope:
    """Positions for `target` visual tokens where `window` are said to have been trained."""
    return VisualWindow(window=window, **readings).rope(task.SIZES.rope, target)


def methods(tokens: int) -> dict[str, Rope]:
    """Positions by method; where nothing is to be stretched, those of training."""
    plain, window, factor = task.SIZES.rope, task.WINDOW, tokens / task.WINDOW
    return {
        "none": plain,
        "linear": plain.stretched(Linear(factor=factor)),
        "NTK": plain.stretched(Ntk(factor=factor)),
        "YaRN, language window": visual(tokens, task.LANGUAGE),
        "visual window": visual(tokens),
        "visual window, no temperature": visual(tokens, temperature="none"),
        "visual window, rotations": visual(tokens, ramp="rotations"),
        "visual window, rotations, no temperature": visual(
            tokens, ramp="rotations", temperature="none"
        ),
        "window declared W/2": visual(tokens, window // 2),
        "window declared 2W": visual(tokens, window * 2),
        "target n/2": visual(tokens // 2),
        "target 2n": visual(tokens * 2),
    }


def measure(model: LongtakeModel, seed: int, stretch: int, videos: int) -> list[Point]:
    """Every method on the same videos; positions that are the same are measured once."""
    tokens, known = stretch * task.WINDOW, dict[Rope, task.Tally]()
    for rope in methods(tokens).values():
        if rope not in known:
            read = model.positioned(rope)
            rng = np.random.default_rng([2026, seed, stretch])
            drawn = [task.draw(rng, ROWS, tokens) for _ in range(videos // ROWS)]
            known[rope] = total([task.marked(read, part) for part in drawn])
    return [Point(seed, stretch, name, known[rope]) for name, rope in methods(tokens).items()]


def total(tallies: Sequence[task.Tally]) -> task.Tally:
    """The sum of some tallies."""
    names = ("recall", "recall_asked", "order", "order_asked")
    return task.Tally(*(sum(getattr(tally, name) for tally in tallies) for name in names))


def pooled(points: Sequence[Point], method: str, stretch: int) -> task.Tally:
    """All models together."""
    return total([p.tally for p in points if (p.method, p.stretch) == (method, stretch)])


def counts(tally: task.Tally, question: str) -> tuple[int, int]:
    """Right answers to one kind of question, and how many were asked."""
    if question == "recall":
        return tally.recall, tally.recall_asked
    return tally.order, tally.order_asked


def table(points: Sequence[Point], question: str) -> str:
    """Markdown: a row for each method, with intervals."""
    heads = " | ".join(f"{stretch}W" for stretch in STRETCHES)
    rows = [f"| {question} | {heads} |", "|---" * (1 + len(STRETCHES)) + "|"]
    for method in methods(task.WINDOW):
        cells = []
        for stretch in STRETCHES:
            right, asked = counts(pooled(points, method, stretch), question)
            low, high = (abs(100 * edge) for edge in wilson(right, asked))
            cells.append(f"{right / asked:.1%} ({low:.0f}-{high:.0f})")
        rows.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(rows)


def models_table(points: Sequence[Point]) -> str:
    """Markdown: recall/order of each model alone."""
    seeds = sorted({point.seed for point in points})
    columns = [(seed, stretch) for stretch in STRETCHES for seed in seeds]
    heads = " | ".join(f"{stretch}W, model {seed}" for seed, stretch in columns)
    rows = [f"| recall/order, % | {heads} |", "|---" * (1 + len(columns)) + "|"]
    by = {(point.method, point.seed, point.stretch): point.tally for point in points}
    for method in methods(task.WINDOW):
        tallies = [by[method, *column] for column in columns]
        cells = (
            f"{100 * t.recall / t.recall_asked:.0f}/{100 * t.order / t.order_asked:.0f}"
            for t in tallies
        )
        rows.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(rows)


def text_table(seeds: Sequence[int]) -> str:
    """Markdown: words of texts foretold, as trained and with positions stretched."""
    sizes = [stretch * task.WINDOW for stretch in STRETCHES if stretch * task.WINDOW <= 1024]
    heads = " | ".join(f"{size} tokens" for size in sizes)
    rows = [f"| text, positions | {heads} |", "|---" * (1 + len(sizes)) + "|"]
    for stretch in STRETCHES:
        rope = visual(stretch * task.WINDOW)
        read = [task.trained(seed).positioned(rope) for seed in seeds]
        cells = (np.mean([task.text_right(model, size) for model in read]) for size in sizes)
        shown = " | ".join(f"{cell:.1%}" for cell in cells)
        rows.append(f"| {f'stretched x{stretch}' if rope.scaling else 'as trained'} | {shown} |")
    return "\n".join(rows)


def plot(points: Sequence[Point], target: Path) -> None:
    """Recall and order by length, a line for each method."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained", sharey=True)
    chances = {"recall": 1 / task.NEEDLES, "order": 1 / 2}
    lengths = [stretch * task.WINDOW for stretch in STRETCHES]
    for axes, (question, chance) in zip(panels, chances.items(), strict=True):
        for method, colour in SHOWN.items():
            found = [counts(pooled(points, method, s), question) for s in STRETCHES]
            shares = [right / asked for right, asked in found]
            low, high = zip(*(wilson(right, asked) for right, asked in found), strict=True)
            axes.plot(lengths, shares, "o-", color=colour, label=method, markersize=4)
            axes.fill_between(lengths, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.axhline(chance, color="black", linestyle=":", linewidth=1)
        axes.annotate("chance", (lengths[0], chance), (0, 4), textcoords="offset points")
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [f"{n}\n({n // task.WINDOW}W)" for n in lengths])
        axes.set(xlabel="visual tokens of the video", title=question, ylim=(0, 1.03))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("right answers")
    panels[1].legend(loc="lower left", fontsize=8)
    figure.suptitle(f"Trained on videos of {task.WINDOW} tokens, asked about longer ones")
    figure.savefig(target, dpi=120)


def page(points: Sequence[Point], how: str) -> str:
    """The results but for the reading."""
    seeds = sorted({point.seed for point in points})
    asked = pooled(points, "none", 1)
    return (
        f"# Visual window, language window\n\n{how}\n\n{len(seeds)} models (seeds "
        f"{', '.join(map(str, seeds))}), together {asked.recall_asked} recall and "
        f"{asked.order_asked} order questions a cell, the same for every method. W is "
        f"{task.WINDOW} visual tokens, the language window {task.LANGUAGE} = 4W. In brackets: "
        "Wilson 95 % intervals, of the questions and not of the models. Chance: recall 1/6 by "
        "naming any value of the video, order 1/2.\n\n"
        f"{table(points, 'recall')}\n\n{table(points, 'order')}\n\n"
        f"Each model alone:\n\n{models_table(points)}\n\n"
        f"Words of texts foretold:\n\n{text_table(seeds)}\n\n"
        "![plot](../../docs/window-study.png)\n"
    )


def main() -> None:
    """Measure, write the tables, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=120, help="of each model and length")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    points, began = [], time.process_time()
    for seed in task.SEEDS:
        model = task.trained(seed)
        for stretch in STRETCHES:
            points += measure(model, seed, stretch, options.videos)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    how = (
        f"`python -m benchmarks.window_study --videos {options.videos}` on {machine}; {packages}; "
        f"{torch.get_num_threads()} threads, {math.ceil(time.process_time() - began)} CPU seconds."
    )
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / "window_study.md"
    reading = target.read_text().partition(READING)[2] if target.exists() else ""
    target.write_text(page(points, how) + READING + reading)
    rows = json.dumps([asdict(point) for point in points], indent=1)
    (options.out / "window_study.json").write_text(rows + "\n")
    plot(points, (DOCS if options.out == RESULTS else options.out) / "window-study.png")


if __name__ == "__main__":
    main()
