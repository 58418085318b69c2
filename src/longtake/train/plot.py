"""A run's log as a picture."""

from __future__ import annotations

import json
from itertools import cycle
from pathlib import Path


def plot_log(log: Path, target: Path) -> None:
    """Draw loss and checks of a log over the steps; the newest line of a repeated step counts."""
    # only here: training itself must run without matplotlib
    from matplotlib import color_sequences
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    entries = {entry["step"]: entry for entry in lines}
    steps = sorted(entries)
    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(steps, [entries[step]["loss"] for step in steps], linewidth=0.8)
    above.set_yscale("log")
    above.set_ylabel("loss")
    names = sorted({key for entry in lines for key in entry if key.startswith("check_")})
    for name, colour in zip(names, cycle(color_sequences["tab20"]), strict=False):
        points = [(step, entries[step][name]) for step in steps if name in entries[step]]
        label = name.removeprefix("check_")
        below.plot(*zip(*points, strict=True), marker=".", label=label, color=colour)
    below.set_ylabel("check")
    below.set_xlabel("step")
    if below.lines:
        below.legend(fontsize=6, ncols=3)
    figure.savefig(target, dpi=110)
