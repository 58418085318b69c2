"""Models of any size in the published layouts, from a config.json with other numbers in it.

What is written is a folder as `longtake plan` takes it: config.json, a tokenizer, a tower's config,
and no weights. `grown` makes a working model of such a folder, with random weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from longtake.api import skeleton
from longtake.system import System

GOLDEN = Path(__file__).parent / "parity" / "golden"
CHECKPOINTS = {
    "longva": "longva/checkpoint-a",
    "video_xl": "video_xl/checkpoint",
    "videochat_flash": "videochat_flash/ckpt-umt224",
    "llava_onevision": "llava_onevision/checkpoint-real27-lmms",
}
"""A tiny checkpoint of each system."""

WIDE = {
    "num_hidden_layers": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
"""A decoder whose keys and values are large beside its weights: 8 KiB a token in fp32."""


def sized(target: Path, system: str, changes: Mapping[str, Any], tower: Mapping[str, Any]) -> Path:
    """A folder without weights: a tiny checkpoint's, with other fields."""
    source = GOLDEN / CHECKPOINTS[system]
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors*"))
    rewrite(target / "config.json", changes)
    if (target / "vision_tower" / "config.json").exists():
        rewrite(target / "vision_tower" / "config.json", tower)
    return target


def rewrite(path: Path, changes: Mapping[str, Any]) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def grown(folder: Path, seed: int = 0) -> System:
    """A system of such a folder with random weights, on the CPU, that never ends an answer."""
    return filled(skeleton(folder), seed)


@torch.no_grad()
def filled(made: System, seed: int = 0) -> System:
    """The same with random weights in place of none."""
    model = made.model.to_empty(device="cpu")
    model.tie_weights()
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            weight.fill_(1.0)
        else:
            spread = 0.02 if weight.ndim == 1 else weight[0].numel() ** -0.5
            weight.normal_(0.0, spread, generator=generator)
    model.train(False)
    return replace(made, model=model, end_ids=frozenset())
