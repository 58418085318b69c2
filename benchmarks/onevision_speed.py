"""Frames in, 16 ids out: LLaVA-OneVision by longtake and by transformers' own class.

    python benchmarks/onevision_speed.py --pairs 5

Random weights of middling size (SigLIP 512 x 8 at 384 px, decoder 512 x 8, the real vocabulary) in
transformers' layout, 32 frames; see onevision_arms.py. Fails if any two runs write different ids.
Writes results/onevision_speed.md.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from onevision_arms import HERE, Arm, Run, all_runs, write_checkpoint
from video_xl_speed import machine

TOWER = {
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
}
TEXT = {
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 1408,
    "vocab_size": 152064,
}
MEASURES: dict[str, Callable[[Run], float]] = {
    "wall s": lambda run: run.wall,
    "CPU s": lambda run: run.cpu,
    "MiB above the weights": lambda run: run.above,
}


def arms_of(frames: int) -> tuple[Arm, ...]:
    """longtake; transformers in float32, which writes the same; and as it loads by default."""
    return (
        Arm(name="longtake", frames=frames),
        Arm(name="transformers", frames=frames),
        Arm(name="transformers", frames=frames, dtype="auto"),
    )


def table(runs: Sequence[Run], arms: Sequence[Arm]) -> str:
    """Medians, all values in brackets, and how many times longtake's transformers' are."""
    names = ("longtake", "transformers, float32", "**times**", "transformers, bfloat16", "times")
    rows = [f"| | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for name, value in MEASURES.items():
        columns = [[value(run) for run in runs if run.arm == arm] for arm in arms]
        ours, *others = [f"{median(c):,.1f} ({', '.join(f'{v:,.1f}' for v in c)})" for c in columns]
        cells = [ours]
        for other, column in zip(others, columns[1:], strict=True):
            cells += [other, f"{median(column) / median(columns[0]):.2f}"]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two answers begin with alike."""
    pairs = zip(one, other, strict=True)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), len(one))


def main() -> None:
    """Pairs in turn, the table, the check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/longtake-onevision"))
    options = parser.parse_args()
    if not (options.folder / "checkpoint" / "config.json").exists():
        write_checkpoint(options.folder / "checkpoint", TOWER, TEXT)
    arms = arms_of(options.frames)
    all_runs(list(arms[:2]), options.pairs, options.folder)
    runs = [run for run in all_runs(list(arms[2:]), 1, options.folder) if run.arm in arms]
    exact = [run for run in runs if run.arm.dtype == "float32"]
    if len({tuple(run.ids) for run in exact}) > 1:
        sys.exit("ids differ: " + "; ".join(f"{run.arm.name} {run.ids}" for run in exact))
    text, first = table(runs, arms), exact[0]
    alike = min(common(first.ids, run.ids) for run in runs if run not in exact)
    said = (
        f"`{shlex.join(['python', *sys.argv])}` on {machine()}; weights in bfloat16, "
        f"{options.frames} frames, {first.tokens} visual tokens. Every run in float32 wrote the "
        f"same 16 ids, {len(set(first.ids))} of them distinct; transformers in bfloat16, which is "
        f"how it loads such a folder by default, wrote the same first {alike}."
    )
    print(text)
    page = f"# LLaVA-OneVision beside transformers' class\n\n{said}\n\n{text}\n"
    (HERE / "results" / "onevision_speed.md").write_text(page)


if __name__ == "__main__":
    main()
