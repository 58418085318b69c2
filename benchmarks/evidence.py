"""Does an answer's evidence lie on the card? Which way of adding attention up finds it best?

    python benchmarks/evidence.py --study                        # on generated frames: the rule
    python benchmarks/evidence.py CLIP [CLIP ...]                # on real clips: how good it is

The study compares ways of adding up the attention of layers, heads and tokens on the frames; what
longtake does was chosen by it. Clips were never trained on and took no part in the choice.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from evidence_trials import Haystack, Trial, generated, sampled, trials
from needle_report import wilson
from torch import Tensor

import longtake
from longtake.looks import shares_of, spans_of
from longtake.types import Entry, Span

RESULTS = Path(__file__).parent / "results"
STUDY_DEPTHS = (0, 0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.0)
DEPTHS = (0.0, 0.3, 0.62, 1.0)
LONG_DEPTHS = (0.2, 0.8)
LONG = 8
"""Frames of a card that stays."""

Rule = Callable[[Tensor, Tensor], Tensor]
"""(mass [A, L, H, T], the same [L, H, T] of a token that asks nothing) -> weight of each frame."""


def part(mass: Tensor) -> Tensor:
    """Each head's shares of what it looks at frames."""
    return mass / mass.sum(-1, keepdim=True).clamp(min=1e-30)


RULES: dict[str, Rule] = {
    "sum of all (used)": lambda mass, base: mass.sum((0, 1, 2)),
    "question's last token alone": lambda mass, base: mass[0].sum((0, 1)),
    "answer's tokens alone": lambda mass, base: mass[1:].sum((0, 1, 2)),
    "first layer": lambda mass, base: mass[:, 0].sum((0, 1)),
    "last layer": lambda mass, base: mass[:, -1].sum((0, 1)),
    "last half of the layers": lambda mass, base: mass[:, mass.shape[1] // 2 :].sum((0, 1, 2)),
    "largest head": lambda mass, base: mass.amax(2).sum((0, 1)),
    "each head's shares": lambda mass, base: part(mass).sum((0, 1, 2)),
    "shares squared": lambda mass, base: part(mass).square().sum((0, 1, 2)),
    "mass times shares": lambda mass, base: (mass * part(mass)).sum((0, 1, 2)),
    "above the average frame": lambda mass, base: (
        (mass - mass.mean(-1, keepdim=True)).clamp(min=0).sum((0, 1, 2))
    ),
    "above a token that asks nothing": lambda mass, base: (mass - base).clamp(min=0).sum((0, 1, 2)),
    "divided by that token's": lambda mass, base: mass.sum((0, 1, 2)) / base.sum((0, 1)),
}


@dataclass(frozen=True, kw_only=True)
class Score:
    """How one trial's evidence compares with the truth."""

    hit: bool
    """The heaviest span is within one sampling interval of the card."""
    exact: bool
    """It overlaps the card."""
    weight: float
    """Share of the weight on the card."""
    margin: float
    """Doublings from the heaviest other frame to the card's heaviest."""
    covered: float
    """Share of the card's frames within spans."""
    precise: float
    """Share of the spans' frames on the card."""


def score(trial: Trial, rule: Rule) -> Score:
    """Spans by longtake's own rule from weights by another."""
    mass_T = rule(trial.mass_ALHT.double(), trial.base_LHT.double())
    entries = [Entry(start=n, stop=n + 1, seconds=float(n)) for n in range(trial.frames)]
    shares = shares_of(mass_T.tolist(), entries)
    spans = spans_of(shares, entries, [float(trial.frames)])
    first, last = trial.first, trial.first + trial.stays
    rest = [share for n, share in enumerate(shares) if not first <= n < last]
    inside = sum(max(0.0, min(s.end, last) - max(s.start, first)) for s in spans)
    return Score(
        hit=bool(spans) and near(spans[0], first - 1, last + 1),
        exact=bool(spans) and near(spans[0], first, last),
        weight=sum(shares[first:last]),
        margin=float(np.log2(max(max(shares[first:last]), 1e-12) / max(max(rest), 1e-12))),
        covered=inside / trial.stays,
        precise=inside / max(1.0, sum(s.end - s.start for s in spans)),
    )


def near(span: Span, first: float, last: float) -> bool:
    """Whether a span overlaps frames from `first` to before `last`."""
    return span.start < last and first < span.end


def mean(scores: Sequence[Score], name: str) -> float:
    """Average of one figure."""
    return float(np.mean([getattr(one, name) for one in scores]))


def study(model: str, seed: int) -> Iterator[Trial]:
    """Cards among generated frames of 64, 256 and 1024."""
    system, rng = longtake.load(model, device="cpu"), np.random.default_rng(seed)
    for frames, rows in ((64, 4), (256, 3)):
        for row in range(rows):
            hay = generated(system, frames, rng)
            yield from trials(system, hay, STUDY_DEPTHS, 1, rng)
            yield from trials(system, hay, STUDY_DEPTHS[1::3], LONG, rng)
            print(frames, row, file=sys.stderr)
    yield from trials(system, generated(system, 1024, rng), STUDY_DEPTHS[::2], 1, rng)


def on_clips(model: str, clips: Sequence[Path], sizes: Sequence[int], seed: int) -> Iterator[Trial]:
    """Cards among the frames of real clips."""
    system = longtake.load(model, device="cpu")
    for number, clip in enumerate(clips):
        rng = np.random.default_rng([seed, number])
        for size in sizes:
            hay: Haystack = sampled(system, clip, size)
            yield from trials(system, hay, DEPTHS, 1, rng)
            yield from trials(system, hay, LONG_DEPTHS, LONG, rng)
            print(clip.stem, size, file=sys.stderr)


def groups(found: Sequence[Trial]) -> dict[tuple[int, int], list[Trial]]:
    """Trials by frames and by how long the card stays."""
    made: dict[tuple[int, int], list[Trial]] = {}
    for trial in found:
        made.setdefault((trial.frames, trial.stays), []).append(trial)
    return dict(sorted(made.items()))


HEAD = "top span within one interval | on the card | weight | margin | covered | precise |"


def rules_table(found: Sequence[Trial]) -> str:
    """Every rule on every group."""
    lines = []
    for (frames, stays), mine in groups(found).items():
        words = f"{frames} frames, card of {stays}: {len(mine)} questions"
        lines += ["", words, "", f"| rule | {HEAD}", "|---" * 7 + "|"]
        lines += [f"| {name} | {figures(mine, rule)} |" for name, rule in RULES.items()]
    return "\n".join(lines)


def figures(mine: Sequence[Trial], rule: Rule) -> str:
    """A row's cells."""
    scores = [score(trial, rule) for trial in mine]
    hits, exact = (100 * mean(scores, name) for name in ("hit", "exact"))
    rest = [f"{mean(scores, name):.2f}" for name in ("weight", "margin", "covered", "precise")]
    return " | ".join([f"{hits:.1f}", f"{exact:.1f}", *rest])


def clips_table(found: Sequence[Trial]) -> str:
    """The rule that is used, with intervals."""
    used = RULES["sum of all (used)"]
    lines = [f"| frames | card of | questions | answers right | {HEAD}", "|---" * 10 + "|"]
    for (frames, stays), mine in groups(found).items():
        scores, total = [score(trial, used) for trial in mine], len(mine)
        shares = (
            sum(trial.got == trial.wanted for trial in mine),
            sum(one.hit for one in scores),
            sum(one.exact for one in scores),
        )
        cells = [wilson(share, total) for share in shares]
        cells += [f"{mean(scores, n):.2f}" for n in ("weight", "margin", "covered", "precise")]
        lines.append(f"| {frames} | {stays} | {total} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse, run, write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--study", action="store_true", help="compare rules on generated frames")
    parser.add_argument("--model", default="default")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    if args.study:
        table, name = rules_table(list(study(args.model, args.seed))), "evidence_study.md"
        command = "python benchmarks/evidence.py --study"
    else:
        found = on_clips(args.model, args.clips, args.sizes, args.seed)
        table, name = clips_table(list(found)), "evidence.md"
        names = " ".join(clip.name for clip in args.clips)
        command = f"python benchmarks/evidence.py {names}"
        command += f" --sizes {' '.join(map(str, args.sizes))}"
    about = f"{platform.machine()} CPU, 1 thread, Python {platform.python_version()}, "
    about += f"torch {torch.__version__}; {time.process_time() - began:.0f} s of CPU time."
    text = f"# {__doc__.splitlines()[0]}\n\n`{command}`\n\n{about}\n\n{table}\n"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / name).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
