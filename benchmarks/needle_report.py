"""Figures of the needle benchmark: intervals, tables, the heat map, the recorded report."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import PIL
import torch
import transformers
from matplotlib.figure import Figure

from longtake.evaluate.intervals import percent
from longtake.train.questions import FIELDS


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One question."""

    clip: str
    frames: int
    depth: float
    field: str
    wanted: str
    got: str
    moment: bool
    """The heaviest span of the evidence is within one sampling interval of the card."""

    @property
    def right(self) -> bool:
        return self.got == self.wanted


ABOUT = """Exact free-running answers, per cent, with 95 % Wilson intervals. Clips, faces, words
and wordings were never trained on. `moment`: top evidence within one sampling interval."""


def table(trials: Sequence[Trial], sizes: Sequence[int]) -> str:
    """Exact match by field and length, and right moments; then by clip and by depth."""
    lines = [
        "| frames | " + " | ".join(FIELDS) + " | moment | questions |",
        "|---|---|---|---|---|---|",
    ]
    for size in sizes:
        mine = [t for t in trials if t.frames == size]
        cells = [
            percent(sum(t.right for t in mine if t.field == f), len(mine) // 3) for f in FIELDS
        ]
        cells.append(percent(sum(t.moment for t in mine), len(mine)))
        lines.append(f"| {size} | {' | '.join(cells)} | {len(mine)} |")
    for name in ("clip", "depth"):
        values = sorted({getattr(t, name) for t in trials})
        lines += [
            "",
            f"All fields by {name}:",
            "",
            f"| {name} | " + " | ".join(map(str, sizes)) + " |",
        ]
        lines.append("|---" * (len(sizes) + 1) + "|")
        for value in values:
            row = [
                [t.right for t in trials if getattr(t, name) == value and t.frames == s]
                for s in sizes
            ]
            lines.append(f"| {value} | " + " | ".join(percent(sum(r), len(r)) for r in row) + " |")
    return "\n".join(lines)


def heat_map(trials: Sequence[Trial], sizes: Sequence[int], target: Path) -> None:
    """Share of exact answers over length and depth, one panel per field."""
    depths = sorted({t.depth for t in trials})
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, len(FIELDS), sharey=True)
    for panel, field in zip(panels, FIELDS, strict=True):
        cells = np.array(
            [
                [
                    np.mean(
                        [t.right for t in trials if (t.depth, t.frames, t.field) == (d, s, field)]
                    )
                    for s in sizes
                ]
                for d in depths
            ]
        )
        image = panel.imshow(cells, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
        for (row, column), value in np.ndenumerate(cells):
            panel.text(column, row, f"{100 * value:.0f}", ha="center", va="center")
        panel.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        panel.set_yticks(range(len(depths)), [f"{100 * depth:.0f} %" for depth in depths])
        panel.set_title(field)
        panel.set_xlabel("frames")
    panels[0].set_ylabel("depth of the card")
    figure.colorbar(image, ax=panels, label="exact answers")
    figure.savefig(target, dpi=110)


def report(
    command: str, sizes: Sequence[int], trials: list[Trial], filed: list[Trial], seconds: float
) -> str:
    """The recorded result, with what it takes to repeat it."""
    modules = (torch, transformers, av, PIL)
    versions = ", ".join(f"{module.__name__} {module.__version__}" for module in modules)
    python, threads = platform.python_version(), torch.get_num_threads()
    machine = f"{platform.machine()} CPU, {threads} thread(s)"
    lines = ["# Needle: cards in real footage", "", f"`{command}`", ""]
    lines += [f"{machine}, Python {python}, {versions}; {seconds:.0f} s.", "", ABOUT, ""]
    lines.append(table(trials, sizes))
    if filed:
        asked = len(filed) // len(FIELDS)
        cells = [percent(sum(t.right for t in filed if t.field == f), asked) for f in FIELDS]
        cells.append(percent(sum(t.moment for t in filed), len(filed)))
        lines += ["", f"Through files (card for 2 s, H.264, 64 frames, {asked} cards):", ""]
        lines += [f"| {' | '.join(FIELDS)} | moment |", "|---|---|---|---|"]
        lines.append(f"| {' | '.join(cells)} |")
    wrong = [t for t in trials + filed if not t.right][:20]
    lines += ["", f"First {len(wrong)} wrong answers:", ""]
    lines += [
        f"- {t.clip}, {t.frames} frames, depth {t.depth}: {t.wanted} read as {t.got!r}"
        for t in wrong
    ]
    return "\n".join(lines) + "\n"
