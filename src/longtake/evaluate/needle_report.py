"""Results of needles as tables, and as the field's heat map: lengths across, depths down."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from longtake.evaluate.intervals import percent
from longtake.evaluate.results import Row
from longtake.evaluate.whole import write_whole

COLOURS = ("#F0496E", "#EBB839", "#9ad5b3")
"""Of V-NIAH's map, from 0 to 1."""

NAMES = {
    "forced": "teacher-forced answers",
    "generated": "generated answers",
    "exact": "generated answers, exact",
    "moment": "right moment",
}
MOST_NUMBERS = 400
"""Cells beyond which a map shows colours alone."""


def whole(rows: Sequence[Row]) -> list[Row]:
    """Rows that did not fail."""
    return [row for row in rows if "error" not in row]


def ways_of(rows: Sequence[Row]) -> list[str]:
    """How answers were scored in these rows."""
    return [way for way in NAMES if any(way in row for row in rows)]


def mean_score(rows: Sequence[Row], way: str) -> float:
    """Unweighted mean over cells, as the originals report it; nan without one."""
    scores = [score_of(row, way) for row in whole(rows)]
    return sum(scores) / len(scores) if scores else math.nan


def score_of(row: Row, way: str) -> float:
    """A cell's share of right answers."""
    found = row[way]
    return float(found.get("score", found)["share"])


def grid_table(rows: Sequence[Row], way: str, fresh: bool) -> list[list[str]]:
    """Depths down, lengths across: share and interval in per cent.

    `fresh`: depths have needles of their own. Else those of a length are not independent, and all
    of them together have no interval.
    """
    lengths = sorted({row["frames"] for row in rows})
    shares = sorted({row["share"]: row["depth"] for row in rows}.items())
    held = {(row["share"], row["frames"]): row for row in rows}
    lines = [["depth", *(f"{n} frames" for n in lengths)]]
    for share, label in shares:
        cells = [cell_text(held.get((share, n)), way) for n in lengths]
        lines.append([f"{label:g} %", *cells])
    lines.append(["all", *(pooled(rows, n, way, fresh) for n in lengths)])
    return lines


def cell_text(row: Row | None, way: str) -> str:
    """One cell of a table."""
    if row is None:
        return ""
    return "failed" if "error" in row else percent(row[way]["right"], row["asked"])


def pooled(rows: Sequence[Row], frames: int, way: str, fresh: bool) -> str:
    """All cells of a length together, and how many if some failed."""
    every = [row for row in rows if row["frames"] == frames]
    mine = whole(every)
    right, asked = sum(row[way]["right"] for row in mine), sum(row["asked"] for row in mine)
    told = percent(right, asked) if fresh or not asked else f"{100 * right / asked:.1f}"
    return told if len(mine) == len(every) else f"{told}, {len(mine)} of {len(every)} cells"


def about_table(rows: Sequence[Row], way: str) -> list[list[str]]:
    """What is asked about down, lengths across; empty where only one thing is asked."""
    answers = [(row["frames"], one) for row in whole(rows) for one in row["answers"]]
    abouts = list(dict.fromkeys(one["about"] for _, one in answers))
    if len(abouts) < 2:
        return []
    lengths = sorted({frames for frames, _ in answers})
    lines = [["asked about", *(f"{n} frames" for n in lengths)]]
    for about in abouts:
        cells = []
        for n in lengths:
            mine = [one[way] for frames, one in answers if frames == n and one["about"] == about]
            cells.append(percent(sum(mine), len(mine)))
        lines.append([about, *cells])
    return lines


def chain_table(rows: Sequence[Row], way: str) -> list[list[str]]:
    """Lengths down: score, caption, answer and both, with intervals, and how the rest went."""
    names = ("caption", "answer", "both")
    lines = [["frames", "score", *names, "only caption", "only answer", "neither"]]
    for row in sorted(rows, key=lambda row: int(row["frames"])):
        if "error" in row:
            lines.append([str(row["frames"]), "failed", *[""] * 6])
            continue
        found: Mapping[str, Any] = row[way]
        rates = [percent(found[name]["right"], found["chains"]) for name in names]
        rest = [str(found[name]) for name in ("only_caption", "only_answer", "neither")]
        score = percent(found["score"]["right"], 2 * found["chains"])
        lines.append([str(row["frames"]), score, *rates, *rest])
    return lines


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    head, *body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([head, f"|{'---|' * len(lines[0])}", *body])


def failures(rows: Sequence[Row]) -> list[str]:
    """A line for each cell that failed."""
    return [f"{row['key']}: {row['error']}" for row in rows if "error" in row]


def report(header: Row, rows: Sequence[Row]) -> str:
    """All tables of a run in Markdown, and what it takes to repeat it."""
    chains = header["what"].endswith("multihop")
    about = [f"{name}: {value}" for name, value in header.items() if name in TOLD]
    lines = [f"# {header['what'].capitalize()}", "", "; ".join(about) + ".", ""]
    lines += ["Per cent of right answers with 95 % intervals (Wilson).", ""]
    if not chains and not header.get("fresh"):
        lines += ["The depths of a length share their needles: together they have no interval.", ""]
    cells = f"{len(whole(rows))} of {len(rows)} cells"
    for way in ways_of(rows):
        mean = mean_score(rows, way)
        lines += [f"## {NAMES[way].capitalize()}: {100 * mean:.1f} on average over {cells}", ""]
        lines += [markdown(main_table(header, rows, way)), ""]
        if not chains and (more := about_table(rows, way)):
            lines += [markdown(more), ""]
    if failed := failures(rows):
        lines += [
            f"{len(failed)} cells failed and are in no average:",
            "",
            *(f"- {line}" for line in failed),
            "",
        ]
    return "\n".join(lines)


def main_table(header: Row, rows: Sequence[Row], way: str) -> list[list[str]]:
    """The table of one way of scoring; empty without a row that holds it."""
    if not any(way in row for row in rows):
        return []
    chains = header["what"].endswith("multihop")
    if chains:
        return chain_table(rows, way)
    return grid_table(rows, way, bool(header.get("fresh")))


def save_report(header: Row, rows: Sequence[Row], way: str, out: Path) -> list[Path]:
    """Write needle.md, and needle.png where there is a grid; returns what was written.

    Written aside and renamed. Without matplotlib there is no picture. Raises StoreError.
    """
    files: dict[str, Callable[[Path], object]] = {
        "needle.md": lambda path: path.write_text(report(header, rows), encoding="utf-8")
    }
    grid = [row for row in rows if "depth" in row]
    if find_spec("matplotlib") is not None and any(way in row for row in grid):
        title = f"{Path(header['model']).name}, {header['rule']} needles, {NAMES[way]}"
        across = "Token Limit" if header["what"].endswith("text") else "Num. of Frames"
        files["needle.png"] = lambda path: heat_map(grid, way, (title, across), path)
    made = []
    for name, write in files.items():
        write_whole(out / name, write)
        made.append(out / name)
    return made


def no_map(rows: Sequence[Row]) -> bool:
    """Whether there is a grid that cannot be drawn here."""
    return find_spec("matplotlib") is None and any("depth" in row for row in whole(rows))


TOLD = (
    *("longtake", "model", "system", "fingerprint", "given", "dtype", "device", "seed", "rule"),
    "videos",
)


def heat_map(rows: Sequence[Row], way: str, titles: tuple[str, str], target: Path) -> None:
    """Save the map as V-NIAH draws it, with each cell's score in it where there is room.

    `titles`: above, and across. Cells of one label are averaged, as there. Needs matplotlib.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    lengths = sorted({row["frames"] for row in rows})
    labels = sorted({row["depth"] for row in rows})
    scores = np.full((len(labels), len(lengths)), np.nan)
    cells: dict[tuple[float, int], list[float]] = {}
    for row in whole(rows):
        cells.setdefault((row["depth"], row["frames"]), []).append(score_of(row, way))
    for (label, frames), found in cells.items():
        scores[labels.index(label), lengths.index(frames)] = np.mean(found)
    figure = Figure(figsize=figure_size(len(lengths), len(labels)), layout="constrained")
    axes = figure.subplots()
    colours = LinearSegmentedColormap.from_list("needle", COLOURS).with_extremes(bad="#dddddd")
    image = axes.pcolormesh(
        100 * scores, cmap=colours, vmin=0, vmax=100, edgecolors="white", linewidth=1.5
    )
    axes.invert_yaxis()
    if scores.size <= MOST_NUMBERS:
        for (i, j), score in np.ndenumerate(scores):
            said = "failed" if np.isnan(score) else f"{100 * score:.0f}"
            axes.text(j + 0.5, i + 0.5, said, ha="center", va="center", fontsize=11)
    axes.set_xticks(np.arange(len(lengths)) + 0.5, [short(n) for n in lengths], rotation=45)
    axes.set_yticks(np.arange(len(labels)) + 0.5, [f"{label:g}" for label in labels])
    axes.tick_params(length=0, labelsize=12)
    axes.set_xlabel(titles[1], fontsize=13)
    axes.set_ylabel("Depth Percent", fontsize=13)
    axes.set_title(titles[0], fontsize=12)
    figure.colorbar(image, ax=axes, label="Score, %")
    figure.savefig(target, dpi=110, format="png")


def figure_size(lengths: int, labels: int) -> tuple[float, float]:
    """Inches: V-NIAH's 17.5 x 8 for its 15 x 6 cells, less for fewer."""
    return min(17.5, 4.0 + 0.9 * lengths), min(12.0, 2.2 + 0.55 * labels)


def short(frames: int) -> str:
    """A length as V-NIAH labels it: 200, 1.0K."""
    return f"{frames / 1000:.1f}K" if frames >= 1000 else str(frames)
