"""Tables and plot of hico_length.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from memory import MIB


@dataclass(frozen=True, kw_only=True)
class Run:
    """One measured process; sizes in bytes."""

    frames: int
    """As asked for; taken are whole groups of 8."""
    drop: str
    taken: int
    seconds: dict[str, float]
    """Wall seconds of each stage; decode and resize ran on a thread beside the others."""
    watch: float
    ask: float
    """Seconds of question and answer."""
    cpu: float
    before: int
    """Resident with the model loaded and used once."""
    peaks: tuple[int, int]
    """Highest resident while watching, and while asking."""
    cache: int
    """Keys and values after watching."""
    waiting: int
    """Rows that wait for a question, after watching."""

    @property
    def total(self) -> float:
        """Seconds from file to answer."""
        return self.watch + self.ask

    @property
    def above(self) -> float:
        """MiB above the loaded model."""
        return (max(self.peaks) - self.before) / MIB


@dataclass(frozen=True, kw_only=True)
class Work:
    """FLOPs before the question."""

    seen: int
    """Of tower, merging and projector."""
    total: int


Works = Mapping[tuple[str, int], Work]
"""By drop and number of frames."""

STAGES = {
    "see": "tower",
    "merge": "merging, projector",
    "layer 0": "layer 0",
    "layers 1-4": "layers 1-4",
    "layers 5-7": "layers 5-7",
    "all layers": "all layers",
    "looks": "ranking",
    "write": "16 ids",
}
"""One after another; decoding and resizing run beside them."""


def ordered(runs: Sequence[Run]) -> list[Run]:
    """By drop, in the order they are plotted in, then by frames."""
    return sorted(runs, key=lambda run: (list(NAMES).index(run.drop), run.frames))


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def time_table(runs: Sequence[Run]) -> str:
    """Seconds of each stage; what is left is mostly waiting for frames."""
    head = [
        "drop",
        "frames",
        "**total s**",
        "CPU s",
        "decode*",
        "resize*",
        *STAGES.values(),
        "rest",
    ]
    rows = []
    for run in ordered(runs):
        spent = [run.seconds.get(stage, 0.0) for stage in STAGES]
        decoding = run.seconds["decode"]
        cells = [run.total, run.cpu, decoding, run.seconds["fit"] - decoding, *spent]
        cells.append(run.total - sum(spent))
        rows.append([run.drop, f"{run.taken:,}", *(f"{cell:.1f}" for cell in cells)])
    return markdown(head, rows)


def memory_table(runs: Sequence[Run]) -> str:
    """MiB above the loaded model."""
    head = ["drop", "frames", "visual tokens", "keys and values", "waiting rows"]
    head += ["peak watching", "besides", "peak asking"]
    rows = []
    for run in ordered(runs):
        peaks = [(peak - run.before) / MIB for peak in run.peaks]
        held, waiting = run.cache / MIB, run.waiting / MIB
        cells = [held, waiting, peaks[0], peaks[0] - held - waiting, peaks[1]]
        tokens = f"{16 * run.taken:,}"
        rows.append([run.drop, f"{run.taken:,}", tokens, *(f"{cell:.0f}" for cell in cells)])
    return markdown(head, rows)


def slope_table(runs: Sequence[Run], works: Works) -> str:
    """Log-log slopes from the fewest to the most frames."""
    head = ["drop", "from", "to", "**slope of CPU s**", "of s", "of FLOPs"]
    head += ["of peak memory", "vision, share of FLOPs", "share of s"]
    rows = []
    for drop in NAMES:
        own = [run for run in ordered(runs) if run.drop == drop]
        if len(own) < 2:
            continue
        first, last = own[0], own[-1]
        flops = [works[drop, run.frames].total for run in (first, last)]
        work = works[drop, last.frames]
        slopes = [
            slope(first, last, lambda run: run.cpu),
            slope(first, last, lambda run: run.total),
            math.log(flops[1] / flops[0]) / math.log(last.taken / first.taken),
            slope(first, last, lambda run: run.above),
        ]
        seen = (last.seconds["see"] + last.seconds["merge"]) / last.total
        ends = [f"{first.taken:,}", f"{last.taken:,}"]
        shares = [f"{work.seen / work.total:.0%}", f"{seen:.0%}"]
        rows.append([drop, *ends, *(f"{value:.2f}" for value in slopes), *shares])
    return markdown(head, rows)


def slope(first: Run, last: Run, value: Callable[[Run], float]) -> float:
    """Between two runs, log-log over frames."""
    return math.log(value(last) / value(first)) / math.log(last.taken / first.taken)


def report(runs: Sequence[Run], works: Works) -> str:
    """All tables."""
    return "\n".join(
        [
            "One frame a second, 16 tokens a frame, one question, 16 ids; from file to answer:\n",
            slope_table(runs, works),
            "Seconds. *On threads beside the rest: waiting for the decoder, and resizing.\n",
            time_table(runs),
            "MiB above the loaded model.\n",
            memory_table(runs),
        ]
    )


NAMES = {
    "off": ("no drop", "tab:blue"),
    "uniform": ("card's drop, even", "tab:orange"),
    "mixed": ("card's drop, by the question", "tab:green"),
}


def panel(axes: Axes, runs: Sequence[Run], value: Callable[[Run], float]) -> None:
    """One line per drop."""
    for drop, (name, color) in NAMES.items():
        own = [run for run in ordered(runs) if run.drop == drop]
        if own:
            counts = [run.taken for run in own]
            label = name
            if len(own) > 1:
                label = f"{name}: slope {slope(own[0], own[-1], value):.2f}"
            axes.plot(counts, [value(run) for run in own], "o-", color=color, label=label)
    axes.set(xscale="log", yscale="log", xlabel="frames, one a second")
    counts = sorted({run.frames for run in runs})
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axes.grid(alpha=0.3, which="both")
    axes.spines[["top", "right"]].set_visible(False)


def draw(runs: Sequence[Run], target: Path) -> None:
    """Time and memory by frames."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    panel(left, runs, lambda run: run.cpu)
    panel(right, runs, lambda run: run.above)
    first = min(runs, key=lambda run: run.cpu)
    counts = sorted({run.taken for run in runs})
    line = [first.cpu * count / first.taken for count in counts]
    left.plot(counts, line, ":", color="grey", label="proportional")
    left.set(title="From file to answer, one thread", ylabel="CPU seconds")
    right.set(title="Peak above the loaded model", ylabel="MiB")
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=9)
    figure.savefig(target, dpi=120)
