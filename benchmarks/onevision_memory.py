"""What 256 frames take: LLaVA-OneVision with and without progressive pooling.

    python benchmarks/onevision_memory.py

First the setting of arXiv 2409.20018, Table 5, at the published sizes of the 7B model, by formula:
weights, keys and values, and the logits of every prompt position that the paper's code computed.
Then measured, on random weights of small size (onevision_arms.py): longtake and transformers' own
class in processes of their own. Writes results/onevision_memory.md and .png.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import torch
from apart import Run, same_ids
from onevision_arms import HERE, Arm, bench, write_checkpoint
from video_xl_speed import machine

from longtake.model import build
from longtake.onevision import OneVisionConfig
from longtake.parts.pooling import pooled_side
from longtake.parts.siglip import SIGLIP_SO400M_384

PUBLISHED: dict[str, Any] = {
    "model_type": "llava",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_projector_type": "mlp2x_gelu",
    "image_aspect_ratio": "anyres_max_9",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 32768,
    "vocab_size": 152064,
}
"""Fields of lmms-lab/llava-onevision-qwen2-7b-ov that sizes depend on."""
FRAMES, SIDE, GB, MIB = 256, 27, 1e9, 2**20
PAPER = {
    (2, 2, 1): 73,
    (4, 4, 1): 37,
    (8, 8, 1): 29,
    (2, 4, 4): 45,
    (2, 8, 4): 40,
    (2, 4, 8): 41,
    (2, 8, 8): 35,
    (2, 4, 16): 40,
    (2, 8, 16): 31,
}
"""GB reported at 256 frames for (high stride, low stride, group)."""
HALF = 2
LOGIT = 2 + 4
"""Bytes of a logit in the paper's code: half precision, and its float32 copy."""
TOWER = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
}
TEXT = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 704,
    "vocab_size": 152064,
}
ARMS = (
    Arm(name="transformers", frames=FRAMES),
    Arm(name="longtake", frames=FRAMES),
    Arm(name="longtake", frames=FRAMES, pool="2,8,4"),
    Arm(name="longtake", frames=FRAMES, pool="4"),
)


def tokens_of(high: int, low: int, group: int) -> int:
    """Visual tokens of 256 frames, with the newline at their end."""
    first = -(-FRAMES // group)
    sides = [pooled_side(SIDE, stride, "bilinear") for stride in (high, low)]
    return first * sides[0] ** 2 + (FRAMES - first) * sides[1] ** 2 + 1


def published_sizes() -> tuple[int, int]:
    """Bytes of the 7B model's weights in half precision, and of one token's keys and values."""
    config = OneVisionConfig.from_lmms(PUBLISHED, SIGLIP_SO400M_384)
    with torch.device("meta"):
        model = build(config.blueprint())
    weights = HALF * sum(weight.numel() for weight in model.parameters())
    decoder = config.decoder
    return weights, HALF * 2 * decoder.layers * decoder.kv_heads * decoder.head_dim


def computed() -> Iterator[str]:
    """The paper's settings at the published sizes."""
    weights, token = published_sizes()
    yield (
        "| pooling | tokens | weights GB | keys and values GB | **sum GB** | "
        "logits of every position, GB | paper reports GB |"
    )
    yield "|---" * 7 + "|"
    for setting, reported in PAPER.items():
        tokens = tokens_of(*setting)
        kv, logits = tokens * token, tokens * LOGIT * PUBLISHED["vocab_size"]
        high, low, group = setting
        name = f"({high},{low}), K = {group}" if group > 1 else f"stride {high} for all"
        numbers = (weights / GB, kv / GB, (weights + kv) / GB, logits / GB)
        yield f"| {name} | {tokens:,} | {' | '.join(f'{n:.2f}' for n in numbers)} | {reported} |"


def savings() -> str:
    """What pooling (2,8), K = 4 saves at the published sizes, by three accounts."""
    weights, token = published_sizes()
    plain, pooled = tokens_of(2, 2, 1), tokens_of(2, 8, 4)
    held = [weights + tokens * token for tokens in (plain, pooled)]
    return (
        f"(2,8), K = 4 instead of stride 2 saves {1 - pooled / plain:.0%} of the tokens, and so of "
        f"the keys and values; {1 - held[1] / held[0]:.0%} of weights, keys and values together; "
        f"by the paper's figures {1 - 40 / 73:.0%} of all, of which most are logits that nothing "
        "reads."
    )


def label(arm: Arm) -> str:
    """An arm's name in table and plot."""
    return arm.name if arm.pool == "model" else f"{arm.name} --pool {arm.pool}"


def measured(runs: Sequence[Run[Arm]]) -> Iterator[str]:
    """Median MiB above weights and frames."""
    yield "| arm | visual tokens | MiB above | of transformers | CPU s |"
    yield "|---" * 5 + "|"
    above = {arm: median(run.above for run in runs if run.arm == arm) for arm in ARMS}
    for arm in ARMS:
        mine = [run for run in runs if run.arm == arm]
        share, cpu = above[arm] / above[ARMS[0]], median(run.cpu for run in mine)
        cells = f"{mine[0].notes['tokens']:,} | {above[arm]:,.0f} | {share:.1%} | {cpu:.0f}"
        yield f"| {label(arm)} | {cells} |"


def plot(runs: Sequence[Run[Arm]], target: Path) -> None:
    """Bars: the published sizes by formula, beside what was measured in small."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    weights, token = published_sizes()
    settings = [(2, 2, 1), (2, 8, 4), (4, 4, 1)]
    names = ["stride 2", "(2,8), K = 4", "stride 4"]
    bottom = [0.0] * len(settings)
    parts = {
        "weights": [weights / GB] * len(settings),
        "keys and values": [tokens_of(*s) * token / GB for s in settings],
        "logits of every position": [
            tokens_of(*s) * LOGIT * PUBLISHED["vocab_size"] / GB for s in settings
        ],
    }
    for (name, values), colour in zip(
        parts.items(), ("tab:grey", "tab:blue", "tab:red"), strict=True
    ):
        left.bar(names, values, bottom=bottom, label=name, color=colour, width=0.6)
        bottom = [low + value for low, value in zip(bottom, values, strict=True)]
    left.plot(names, [PAPER[s] for s in settings], "k_", markersize=40, label="paper reports")
    left.set(title="7B, 256 frames, by formula", ylabel="GB")
    left.legend(fontsize=8, markerscale=0.4)
    above = [median(run.above for run in runs if run.arm == arm) for arm in ARMS]
    bars = right.barh([label(arm) for arm in ARMS], above, color="tab:blue")
    right.bar_label(bars, fmt="{:,.0f}", padding=3)
    right.invert_yaxis()
    right.margins(x=0.15)
    right.set(title="small model, 256 frames, measured", xlabel="MiB above weights and frames")
    figure.savefig(target, dpi=110)


def main() -> None:
    """Compute, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="of each arm")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/longtake-onevision-memory"))
    options = parser.parse_args()
    if not (options.folder / "checkpoint" / "config.json").exists():
        write_checkpoint(options.folder / "checkpoint", TOWER, TEXT)
    runs = bench(options.folder).runs(ARMS, options.runs)
    same_ids([run for run in runs if run.arm.pool == "model"])
    above = [median(run.above for run in runs if run.arm == arm) for arm in ARMS]
    saved = (
        f"Pooling saves {1 - above[2] / above[1]:.0%} of what longtake takes without it, and "
        f"{1 - above[2] / above[0]:.0%} of what transformers takes. transformers and longtake "
        "without further pooling wrote the same 16 ids."
    )
    how = f"`{shlex.join(['python', *sys.argv])}` on {machine()}; fp32, medians of {options.runs}."
    sizes = (
        f"{how} Tower {TOWER['hidden_size']} x {TOWER['num_hidden_layers']} at 384 px, decoder "
        f"{TEXT['hidden_size']} x {TEXT['num_hidden_layers']}, vocabulary {TEXT['vocab_size']:,}. "
        "Above the weights and the frames."
    )
    text = "\n\n".join(
        [
            "# What 256 frames take",
            "## The paper's setting, by formula",
            "Half precision, decimal GB; workspace (a chunk's tower and MLP) is not in it.",
            "\n".join(computed()),
            savings(),
            "## Measured in small",
            sizes,
            "\n".join(measured(runs)),
            saved,
            "![plot](onevision_memory.png)",
        ]
    )
    print(text)
    (HERE / "results" / "onevision_memory.md").write_text(text + "\n")
    plot(runs, HERE / "results" / "onevision_memory.png")


if __name__ == "__main__":
    main()
