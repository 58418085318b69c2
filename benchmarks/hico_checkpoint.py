"""A VideoChat-Flash checkpoint of any size, with random weights, in the published layout."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_xl_memory import fill

from longtake.checkpoint import save_model
from longtake.folder import read_folder
from longtake.hico import UMT_TOWER, HicoConfig
from longtake.model import build

TINY = Path(__file__).parent.parent / "tests/parity/golden/videochat_flash/ckpt-umt224"
"""Its tokenizer is used, and its config.json for every other field."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What differs from the tiny checkpoint."""

    tower: Mapping[str, int]
    """hidden, layers that are stored, mlp."""
    decoder: Mapping[str, Any]
    """Fields of config.json."""


def write_checkpoint(target: Path, sizes: Sizes) -> None:
    """Write weights (fp32, one seed), config.json and tokenizer."""
    tower = sizes.tower
    fields = {"mm_hidden_size": tower["hidden"], "torch_dtype": "float32", **sizes.decoder}
    published = {**read_folder(TINY).config, **fields}
    # the tower's sizes are read off its weights
    shapes = {f"{UMT_TOWER}patch_embed.proj.weight": (tower["hidden"],)}
    for block in range(tower["layers"]):
        shapes[f"{UMT_TOWER}blocks.{block}.mlp.fc1.weight"] = (tower["mlp"],)
    config = HicoConfig.from_published(published, shapes)
    model = build(config.blueprint()).eval()
    fill(model)
    save_model(model, config.keys(shapes), published, target)
    for file in TINY.iterdir():
        if file.name != "config.json" and not file.name.startswith("model"):
            shutil.copy(file, target / file.name)
