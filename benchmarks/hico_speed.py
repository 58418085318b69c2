"""Frames in, 16 ids out: VideoChat-Flash by longtake, and at once as published.

    python benchmarks/hico_speed.py --folder /tmp/longtake-hico

Random weights of middling size (UMT 512 x 8 at 224 px, decoder 512 x 8, the real vocabulary) in the
published layout, the same for both arms (`hico_arms.py`). Fails if the arms write different ids.
What was measured lies in --folder and is not measured again. Writes results/hico_speed.md. Linux
only.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import torch
from apart import Bench, Run, same_ids
from hico_arms import ARMS, DROPS, Arm
from hico_checkpoint import Sizes, write_checkpoint
from video_xl_speed import machine

HERE = Path(__file__).parent
MID = Sizes(
    tower={"hidden": 512, "layers": 8, "mlp": 2048},
    decoder={
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "intermediate_size": 1408,
        "vocab_size": 152064,
    },
)
FRAME_COUNTS = (64, 256, 512)
STAGES = ("tower", "merge", "projector", "prefill", "head", "answer", "rest")
NAMES = ("tower", "merging", "projector", "decoder", "head over the prompt", "16 ids", "rest")


def agreement(ours: Sequence[Run[Arm]], theirs: Sequence[Run[Arm]], folder: Path) -> str:
    """Largest difference of logits between arms. Exits if any two of these runs' ids differ."""
    ids = same_ids([*ours, *theirs])
    one, other = (torch.load(arm[0].arm.logits(folder)) for arm in (ours, theirs))
    return f"same, {len(set(ids))} distinct | {(one - other).abs().max().item():.1e}"


Groups = dict[tuple[int, str], list[list[Run[Arm]]]]
"""By frames and drop: runs of each arm."""


def grouped(runs: Sequence[Run[Arm]], counts: Sequence[int]) -> Groups:
    """Runs of these numbers of frames, in the order of the tables."""
    return {
        (frames, drop): [
            [run for run in runs if run.arm == Arm(name=name, frames=frames, drop=drop)]
            for name in ARMS
        ]
        for frames in sorted(counts)
        for drop in DROPS
    }


def time_table(groups: Groups) -> Iterator[str]:
    """Seconds: medians, the least in brackets, and the literal arm's over longtake's."""
    yield (
        "| frames | drop | runs | longtake s | literal s | **times** | longtake CPU s | "
        "literal CPU s | **times** | of the least |"
    )
    yield "|---" * 10 + "|"
    for (frames, drop), arms in groups.items():
        cells = [str(frames), drop, str(min(map(len, arms)))]
        for value in (lambda run: run.wall, lambda run: run.cpu):
            columns = [[value(run) for run in arm] for arm in arms]
            cells += [f"{median(column):.1f} ({min(column):.1f})" for column in columns]
            cells.append(f"{median(columns[1]) / median(columns[0]):.2f}")
        least = min(columns[1]) / min(columns[0])
        yield f"| {' | '.join(cells)} | {least:.2f} |"


def memory_table(groups: Groups, folder: Path) -> Iterator[str]:
    """Median MiB above weights, and what was written."""
    yield "| frames | drop | longtake MiB | literal MiB | **times** | 16 ids | logits differ by |"
    yield "|---" * 7 + "|"
    for (frames, drop), arms in groups.items():
        ours, theirs = (median([run.above for run in arm]) for arm in arms)
        sizes = f"{ours:,.0f} | {theirs:,.0f} | {theirs / ours:.1f}"
        yield f"| {frames} | {drop} | {sizes} | {agreement(*arms, folder)} |"


def stage_table(runs: Sequence[Run[Arm]], frames: int) -> Iterator[str]:
    """Least seconds of each stage."""
    arms = [Arm(name=name, frames=frames, drop=drop) for drop in DROPS for name in ARMS]
    yield f"| s, {frames} frames | {' | '.join(f'{arm.drop}, {arm.name}' for arm in arms)} |"
    yield "|---" * (len(arms) + 1) + "|"
    for stage, name in zip(STAGES, NAMES, strict=True):
        columns = [[r.notes.get(stage, 0.0) for r in runs if r.arm == arm] for arm in arms]
        yield f"| {name} | {' | '.join(f'{min(column):.2f}' for column in columns)} |"


def main() -> None:
    """All arms in turn, tables and checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3, help="runs of each arm")
    parser.add_argument("--counts", type=int, nargs="+", default=FRAME_COUNTS)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/longtake-hico"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    if not (options.folder / "checkpoint" / "config.json").exists():
        write_checkpoint(options.folder / "checkpoint", MID)
    bench = Bench(script=HERE / "hico_arms.py", folder=options.folder, arm=Arm)
    arms = [
        Arm(name=name, frames=frames, drop=drop)
        for frames in options.counts
        for drop in DROPS
        for name in ARMS
    ]
    logged = (options.folder / "runs.jsonl").exists()
    runs = bench.runs(arms, options.pairs)
    groups, most = grouped(runs, options.counts), max(options.counts)
    tables = [time_table(groups), memory_table(groups, options.folder), stage_table(runs, most)]
    text = "\n\n".join("\n".join(lines) for lines in tables)
    print(text)
    head = f"`{shlex.join(['python', *sys.argv])}` on {machine()}; fp32.\n"
    if logged:
        head += "Runs that earlier commands left in the same folder are among them.\n"
    options.results.mkdir(exist_ok=True)
    page = f"# VideoChat-Flash, streamed and at once\n\n{head}\n{text}\n"
    (options.results / "hico_speed.md").write_text(page)


if __name__ == "__main__":
    main()
