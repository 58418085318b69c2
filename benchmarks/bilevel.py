"""Accuracy by bytes of one-level and bi-level memories, on a tiny model trained with mixed ratios.

The task and the model are those of `benchmarks/ledger.py`. For every question: one level at each
ratio; two levels (16, and 2 for what the question looks at) at the bytes of some ratios; and, as
controls, the same bytes with windows drawn at random and with the right window known.

    python -m benchmarks.bilevel --weights benchmarks/ledger.safetensors
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from benchmarks import ledger

from longtake.bilevel import Fine, TwoLevelCache, choose_windows, score_windows
from longtake.condense import Condense, Level, condense
from longtake.engine import prefill
from longtake.evaluate.intervals import wilson
from longtake.mixing import mix
from longtake.model import LongtakeModel
from longtake.parts.cache import GrowingCache
from longtake.parts.windows import Ratios
from longtake.types import VisualTokens

RESULTS = Path(__file__).parent / "results"
COARSE, FINE = 16, 2
BYTES_OF = (14, 12, 10, 8, 6, 4)
"""Two levels are measured at the bytes that one level of these ratios takes."""
KINDS = ("one level", "two levels", "random windows", "right window")


@dataclass(frozen=True)
class Point:
    """Share of right answers of one kind of memory."""

    kind: str
    ratio: int
    """Of one level; of two, the ratio whose bytes they may take."""
    kib: float
    """Keys and values a question is answered from, on average."""
    right: int
    asked: int

    @property
    def share(self) -> float:
        """Right answers, 0 to 1."""
        return self.right / self.asked


def read(model: LongtakeModel, visual: VisualTokens, ratios: Sequence[int]) -> list[Level]:
    """A video condensed at each ratio, behind the start token."""
    levels = [
        Level(
            model=model,
            cache=GrowingCache(),
            ratios=Ratios(choices=(ratio,)),
            place="interleave",
        )
        for ratio in ratios
    ]
    how = Condense(window=ledger.WINDOW, ratios=Ratios(choices=(ratios[0],)))
    for level in levels:
        level.text((ledger.START,))
    condense(iter([visual]), 0, how, levels, lambda tokens: None)
    return levels


def two_levels(coarse: Level, fine: Level) -> TwoLevelCache:
    """Two levels as one memory."""
    two = TwoLevelCache(fine.cache)
    two.layers = coarse.cache.layers
    two.windows, two.fine_windows = tuple(coarse.windows), tuple(fine.windows)
    two.fine_entries = tuple(fine.entries)
    return two


def answer(model: LongtakeModel, cache: GrowingCache, ids: Sequence[int]) -> int:
    """The token that follows a question; the cache is left as it was."""
    length = cache.get_seq_length()
    x_SD = model.embed(torch.tensor(ids))
    try:
        return int(model.logits(prefill(model, iter([x_SD]), cache)).argmax())
    finally:
        cache.rewind(length)


@torch.no_grad()
def measure(
    model: LongtakeModel,
    rows: int,
    windows: int,
    questions: int,
    ratios: Sequence[int] = (COARSE, 8, 4, FINE),
    bytes_of: Sequence[int] = BYTES_OF,
) -> list[Point]:
    """Every kind of memory, same questions: one level at `ratios`, two at the bytes of some."""
    tally: dict[tuple[str, int], list[tuple[bool, int]]] = {}
    rng = np.random.default_rng(2026)
    for row in range(rows):
        drawn = ledger.draw(rng, 1, windows, questions)
        features = ledger.features_of(model, drawn)[0]
        frames = len(features) // ledger.FRAME
        visual = VisualTokens(
            features_ND=features,
            counts=(ledger.FRAME,) * frames,
            seconds=tuple(map(float, range(frames))),
        )
        levels = dict(zip(ratios, read(model, visual, ratios), strict=True))
        picks = np.random.default_rng([row, 1])
        for asked, value, window in zip(
            drawn.asked_BQ2[0].tolist(),
            drawn.values_BQ[0].tolist(),
            drawn.windows_BQ[0].tolist(),
            strict=True,
        ):
            ids = (ledger.ASK, *asked)
            for ratio, level in levels.items():
                right = answer(model, level.cache, ids) == value
                tally.setdefault(("one level", ratio), []).append((right, level.cache.nbytes))
            mixtures(model, levels, (ids, value, window), picks, tally, bytes_of)
    return [point(*key, found) for key, found in sorted(tally.items())]


def point(kind: str, ratio: int, found: Sequence[tuple[bool, int]]) -> Point:
    """What answers, right or not, and the bytes they took come to."""
    return Point(
        kind=kind,
        ratio=ratio,
        kib=sum(size for _, size in found) / len(found) / 1024,
        right=sum(right for right, _ in found),
        asked=len(found),
    )


def mixtures(
    model: LongtakeModel,
    levels: dict[int, Level],
    asked: tuple[Sequence[int], int, int],
    picks: np.random.Generator,
    tally: dict[tuple[str, int], list[tuple[bool, int]]],
    bytes_of: Sequence[int],
) -> None:
    """Two levels at each budget, windows chosen by the question, at random, and by the truth."""
    ids, value, window = asked
    coarse = levels[COARSE]
    two = two_levels(coarse, levels[FINE])
    count = len(two.windows)
    choices: dict[str, Callable[[], list[float]]] = {
        "two levels": lambda: score_windows(model, two, ids),
        "random windows": lambda: picks.random(count).tolist(),
        "right window": lambda: [float(n == window) for n in range(count)],
    }
    row_bytes = two.coarse_bytes // two.get_seq_length()
    for kind, scores_of in choices.items():
        scores = scores_of()
        for ratio in bytes_of:
            budget = (1 + count * ledger.WINDOW // ratio) * row_bytes
            chosen = choose_windows(two, scores, Fine(ratio=FINE, budget=budget))
            mixed = mix(model, two, coarse.entries, chosen, 2).cache
            right = answer(model, mixed, ids) == value
            tally.setdefault((kind, ratio), []).append((right, mixed.nbytes))


def recovered(points: Sequence[Point]) -> float:
    """Share of the gap between ratio 16 and ratio 2 that two levels close at the bytes of 12."""
    by = {(point.kind, point.ratio): point.share for point in points}
    low, high = by["one level", COARSE], by["one level", FINE]
    return (by["two levels", 12] - low) / (high - low)


def table(points: Sequence[Point]) -> str:
    """Markdown rows."""
    rows = [
        "| memory | ratio, or whose bytes | KiB | right | 95 % interval |",
        "|---|---|---|---|---|",
    ]
    for kind in KINDS:
        for point in sorted((p for p in points if p.kind == kind), key=lambda p: p.kib):
            low, high = wilson(point.right, point.asked)
            rows.append(
                f"| {kind} | {point.ratio} | {point.kib:.0f} | {point.share:.1%} | "
                f"{low:.1%} - {high:.1%} |"
            )
    return "\n".join(rows)


def draw(points: Sequence[Point], target: Path) -> None:
    """Right answers by bytes."""
    figure, axes = plt.subplots(figsize=(7.4, 4.4), layout="constrained")
    styles = ("o-", "s-", "x:", "^:")
    colours = ("tab:blue", "tab:orange", "tab:grey", "tab:green")
    for kind, style, colour in zip(KINDS, styles, colours, strict=True):
        line = sorted((p for p in points if p.kind == kind), key=lambda p: p.kib)
        spans = [wilson(p.right, p.asked) for p in line]
        axes.plot([p.kib for p in line], [p.share for p in line], style, label=kind, color=colour)
        axes.fill_between(
            [p.kib for p in line],
            [low for low, _ in spans],
            [high for _, high in spans],
            alpha=0.15,
            color=colour,
        )
    for point in points:
        if point.kind == "one level":
            axes.annotate(
                f"1:{point.ratio}", (point.kib, point.share), (6, -12), textcoords="offset points"
            )
    axes.set_xscale("log", base=2)
    axes.set(
        xlabel="KiB of keys and values an answer is written from",
        ylabel="right answers",
        ylim=(0, 1),
    )
    axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
    axes.set_title("Fine where the question looks, coarse elsewhere")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(target, dpi=120)


def main() -> None:
    """Measure, write the table, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=ledger.WEIGHTS)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--questions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    model, began = ledger.trained(options.weights), time.monotonic()
    points = measure(model, options.rows, options.windows, options.questions)
    share = recovered(points)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    text = (
        f"# Bi-level memories\n\n`python -m benchmarks.bilevel --rows {options.rows} --windows "
        f"{options.windows} --questions {options.questions}` on {machine}; {packages}; "
        f"{time.monotonic() - began:.0f} s.\n\n{table(points)}\n\nAt the bytes of ratio 12, two "
        f"levels close {share:.0%} of the gap between ratio {COARSE} and ratio {FINE}.\n\n"
        "![plot](bilevel.png)\n"
    )
    print(text)
    options.out.mkdir(exist_ok=True)
    (options.out / "bilevel.md").write_text(text)
    (options.out / "bilevel.json").write_text(
        json.dumps([asdict(p) for p in points], indent=1) + "\n"
    )
    draw(points, options.out / "bilevel.png")


if __name__ == "__main__":
    main()
