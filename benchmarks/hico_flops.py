"""How much less compute VideoChat-Flash takes than LongVA, by number of frames: arithmetic.

    python benchmarks/hico_flops.py

Counts with longtake.costs from published sizes; nothing is run. Writes results/hico_flops.md and
results/hico_flops.png.
"""

from __future__ import annotations

import argparse
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from longtake.costs import (
    Comparison,
    Stage,
    bytes_of,
    compare,
    dropping_stages,
    flops_of,
    whole_stages,
)
from longtake.parts.dropping import Schedule
from longtake.sizes import FLASH_7B_224, FLASH_7B_448, LONGVA_7B
from longtake.wishes import PRESETS

RESULTS = Path(__file__).parent / "results"
FRAME_COUNTS = (256, 512, 1024, 2048, 4096, 10000)
CURVE = tuple(round(256 * (10000 / 256) ** (n / 40) / 4) * 4 for n in range(41))
CLAIM = 100
FAR = 10**10
"""Frames at which a ratio is as good as its limit."""

SIZES = {"224": FLASH_7B_224, "448": FLASH_7B_448}
NONE, CARD, DEFAULT = "no drop", "card's drop", "repository's drop"
DROPS: dict[str, Schedule | None] = {
    NONE: None,
    CARD: PRESETS["card"],
    DEFAULT: PRESETS["repository"],
}

HEAD = """# Compute of VideoChat-Flash beside LongVA

`python benchmarks/hico_flops.py`: arithmetic on published sizes (`longtake.sizes`,
`longtake.costs`); nothing was run. tests/test_costs.py holds the arithmetic against what torch
counts of the modules.

- Both read the same frames: LongVA-7B (CLIP-L/14 at 336, 23 of its 24 blocks; Qwen2-7B; 144 tokens
  a frame) and VideoChat-Flash-7B (UMT-L/16, 23 of its 24 blocks, clips of 4 frames; Qwen2-7B; 16
  tokens a frame) at 224 and at 448 pixels.
- Counted, two FLOPs a multiply-add: matrix products of tower, merging, projector and language
  model, and the additions of pooling. Causal attention counts as half of its matrix. Not counted:
  video decoding, norms, activations, the ranking of what is dropped (under 0.1 %), prompt and
  question, the head, the answer.
- "encode" is everything before the language model, "LLM" its prefill of the visual tokens. KV is
  what it keeps, in bf16.
- Drops in the language model: none (what the released evaluation ran), the model card's example
  (after layers 4 and 18 to 3/4 and 1/4), the repository's default (after layers 8, 16 and 24 to
  1/2, 1/4 and 1/8). The released models were trained without.
- LongVA's window is 224,000 tokens, 1,555 frames: beyond, its rows are what it would take.
"""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """VideoChat-Flash-7B at a resolution with a drop."""

    pixels: str
    drop: str

    @property
    def name(self) -> str:
        """As tables say it."""
        return f"{self.pixels} px, {self.drop}"

    def stages(self, frames: int) -> tuple[Stage, ...]:
        """What so many frames take."""
        sizes, drop = SIZES[self.pixels], DROPS[self.drop]
        if drop is None:
            return whole_stages(sizes, frames)
        return dropping_stages(sizes, frames, drop)

    def beside(self, frames: int) -> Comparison:
        """Beside LongVA."""
        others = whole_stages(LONGVA_7B, frames)
        return compare(frames, self.name, self.stages(frames), "LongVA-7B", others)


SETTINGS = [Setting(pixels=pixels, drop=drop) for pixels in SIZES for drop in DROPS]
Ratio = Callable[[Comparison], float]
RATIOS: dict[str, Ratio] = {
    "everything": lambda found: found.flops_times,
    "LLM alone": lambda found: found.decoder_flops_times,
    "KV": lambda found: found.kv_times,
}


def short(ratio: float) -> str:
    """Two or three figures."""
    return f"{ratio:.1f}" if ratio < 99.5 else f"{ratio:.0f}"


def reached(setting: Setting, ratio: Ratio) -> str:
    """Frames from which LongVA takes CLAIM times as much."""
    if ratio(setting.beside(FAR)) < CLAIM:
        return "never"
    clips = range(4, FAR, 4)
    found = bisect_left(clips, CLAIM, key=lambda frames: ratio(setting.beside(frames)))
    return f"{clips[found]:,}"


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table."""
    names = list(head)
    lines = [names, ["---"] * len(names), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratio_table(settings: Iterable[tuple[str, Setting]], ratio: Ratio) -> str:
    """LongVA's over each setting's, by frames; then the limit, and where CLAIM is reached."""
    head = ["frames", *(f"{frames:,}" for frames in FRAME_COUNTS), "limit", f"{CLAIM} from"]
    rows = [
        [
            name,
            *(short(ratio(setting.beside(frames))) for frames in FRAME_COUNTS),
            short(ratio(setting.beside(FAR))),
            reached(setting, ratio),
        ]
        for name, setting in settings
    ]
    return markdown(head, rows)


def amounts(name: str, frames: int, stages: tuple[Stage, ...]) -> list[str]:
    """PFLOP to encode, to read and of both, and GB."""
    read = flops_of(stage for stage in stages if stage.kv_bytes)
    total = flops_of(stages)
    flops = (f"{count / 1e15:.3g}" for count in (total - read, read, total))
    return [name, f"{frames:,}", *flops, f"{bytes_of(stages) / 1e9:.3g}"]


def amount_table() -> str:
    """A row for each setting and number of frames, LongVA first."""
    head = ["model", "frames", "encode PFLOP", "LLM PFLOP", "total PFLOP", "KV GB"]
    head += ["LongVA's LLM", "LongVA's total"]
    rows = []
    for frames in FRAME_COUNTS:
        rows.append([*amounts("LongVA-7B", frames, whole_stages(LONGVA_7B, frames)), "1", "1"])
        for setting in SETTINGS:
            found = setting.beside(frames)
            times = (short(found.decoder_flops_times), short(found.flops_times))
            rows.append([*amounts(setting.name, frames, found.stages), *times])
    return markdown(head, rows)


def report() -> str:
    """The whole of hico_flops.md."""
    by_name = [(setting.name, setting) for setting in SETTINGS]
    by_drop = [(setting.drop, setting) for setting in SETTINGS if setting.pixels == "224"]
    memory = ", ".join(
        f"{short(setting.beside(10000).kv_times)} ({name})" for name, setting in by_drop
    )
    parts = [
        HEAD,
        "## LongVA's compute over VideoChat-Flash's\n\nEverything, tower and language model:\n",
        ratio_table(by_name, RATIOS["everything"]),
        "\nThe language model alone, at either resolution:\n",
        ratio_table(by_drop, RATIOS["LLM alone"]),
        f"\nKeys and values, at any number of frames: {memory}.\n\n![plot](hico_flops.png)\n",
        "## Amounts\n\nThe last two columns are LongVA's amount over that of the row.\n",
        amount_table(),
    ]
    return "\n".join(parts) + "\n"


COLOURS = {NONE: "tab:blue", CARD: "tab:orange", DEFAULT: "tab:green"}
STYLES = {"224": "-", "448": (0, (1, 1))}

APART = 1.13
"""What two names' heights differ by, at least."""


def panel(axes: Axes, lines: Iterable[tuple[str, Setting]], ratio: Ratio) -> None:
    """One line per setting, named at its right end; names keep apart."""
    lowest = 0.0
    for name, setting in sorted(lines, key=lambda line: ratio(line[1].beside(CURVE[-1]))):
        ratios = [ratio(setting.beside(frames)) for frames in CURVE]
        color, last = COLOURS[setting.drop], ratios[-1]
        axes.plot(CURVE, ratios, linewidth=2, color=color, linestyle=STYLES[setting.pixels])
        height = max(last, lowest)
        lowest = APART * height
        axes.annotate(
            f"{short(last)}  {name}",
            (CURVE[-1], height),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=color,
            fontsize=9,
        )
    axes.axhline(CLAIM, color="black", linestyle="--", linewidth=1)
    axes.annotate(f"{CLAIM} times", (260, CLAIM), xytext=(0, 4), textcoords="offset points")
    axes.set(xscale="log", yscale="log", xlabel="frames", ylim=(3, 250), xlim=(240, 10500))
    axes.grid(alpha=0.3)


def draw(target: Path) -> None:
    """Ratios by frames: of everything, and of the language model alone."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12.5, 5.5), sharey=True, layout="constrained"
    )
    panel(left, [(setting.name, setting) for setting in SETTINGS], RATIOS["everything"])
    alone = [(setting.drop, setting) for setting in SETTINGS if setting.pixels == "224"]
    panel(right, alone, RATIOS["LLM alone"])
    left.set_title("Tower and language model")
    right.set_title("Language model alone")
    left.set_ylabel("LongVA-7B's FLOPs / VideoChat-Flash-7B's")
    for axes in (left, right):
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(FRAME_COUNTS, [f"{frames:,}" for frames in FRAME_COUNTS])
        axes.spines[["top", "right"]].set_visible(False)
    left.yaxis.set_minor_formatter(NullFormatter())
    left.set_yticks((5, 10, 20, 50, 100, 200))
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figure.suptitle("How many times the compute LongVA takes for the same frames")
    figure.savefig(target, dpi=120)


def main() -> None:
    """Table and plot."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    text = report()
    print(text)
    (RESULTS / "hico_flops.md").write_text(text)
    draw(RESULTS / "hico_flops.png")


if __name__ == "__main__":
    main()
