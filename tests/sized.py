"""Models of any size in the published layouts, from a config.json with other numbers in it.

What is written is a folder as `longtake plan` takes it: config.json, a tokenizer, a tower's config,
and no weights. `filled` makes a working model of it, with random weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from longtake import hico
from longtake.api import skeleton
from longtake.sizes import TowerSizes
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
    if system == "longva":  # its own tower sees 84 pixels; this one, as published, 336
        tower_home = GOLDEN / CHECKPOINTS["video_xl"] / "vision_tower"
        shutil.copytree(tower_home, target / "vision_tower", dirs_exist_ok=True)
        changes = {"image_grid_pinpoints": [], **changes}
    rewrite(target / "config.json", changes)
    if (target / "vision_tower" / "config.json").exists():
        rewrite(target / "vision_tower" / "config.json", tower)
    return target


def rewrite(path: Path, changes: Mapping[str, Any]) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


SMALL_UMT = TowerSizes(hidden=128, layers=3, heads=2, mlp=256, image=224, patch=16)


@contextmanager
def small_umt() -> Iterator[None]:
    """A small tower stands for the published one, whose sizes no config.json carries."""
    known, hico.UMT_L_224 = hico.UMT_L_224, SMALL_UMT
    try:
        yield
    finally:
        hico.UMT_L_224 = known


def bare(folder: Path, **loading: Any) -> System:
    """The system of such a folder, without numbers."""
    with small_umt():
        return skeleton(folder, **loading)


@torch.no_grad()
def filled(made: System, seed: int = 0) -> System:
    """A system with random weights in place of none, on the CPU, that never ends an answer."""
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
