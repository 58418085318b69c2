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

from apart import Run, same_ids
from onevision_arms import ARMS, HERE, Arm, bench, write_checkpoint
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
MEASURES: dict[str, Callable[[Run[Arm]], float]] = {
    "wall s": lambda run: run.wall,
    "CPU s": lambda run: run.cpu,
    "MiB above the weights": lambda run: run.above,
}


def table(runs: Sequence[Run[Arm]]) -> str:
    """Medians, all values in brackets, and how many times longtake's transformers' are."""
    rows = ["| | longtake | transformers | **times** |", "|---" * 4 + "|"]
    for name, value in MEASURES.items():
        columns = [[value(run) for run in runs if run.arm.name == arm] for arm in ARMS]
        cells = [f"{median(c):,.1f} ({', '.join(f'{v:,.1f}' for v in c)})" for c in columns]
        times = median(columns[1]) / median(columns[0])
        rows.append(f"| {name} | {' | '.join(cells)} | {times:.2f} |")
    return "\n".join(rows)


def main() -> None:
    """Pairs in turn, the table, the check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/longtake-onevision"))
    options = parser.parse_args()
    if not (options.folder / "checkpoint" / "config.json").exists():
        write_checkpoint(options.folder / "checkpoint", TOWER, TEXT)
    arms = [Arm(name=name, frames=options.frames) for name in ARMS]
    runs = bench(options.folder).runs(arms, options.pairs)
    text, ids = table(runs), same_ids(runs)
    said = (
        f"`{shlex.join(['python', *sys.argv])}` on {machine()}; fp32, {options.frames} frames, "
        f"{runs[0].notes['tokens']} visual tokens. Every run wrote the same 16 ids, "
        f"{len(set(ids))} of them distinct."
    )
    print(text)
    page = f"# LLaVA-OneVision beside transformers' class\n\n{said}\n\n{text}\n"
    (HERE / "results" / "onevision_speed.md").write_text(page)


if __name__ == "__main__":
    main()
