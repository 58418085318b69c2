"""LongVA: long context transfer from language to vision (arXiv 2406.16852).

The language model was first trained on long text; images then taught it to see, cut into as many
squares as they need and pooled like video frames (UniRes), so that a video reads as one very long
image. Checkpoints: lmms-lab/LongVA-7B, lmms-lab/LongVA-7B-DPO, and longtake's bundled default
model. Its layout is the one `longtake.llava` describes; nothing is added to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from longtake.folder import Folder, find_tower
from longtake.llava import Llava, LlavaConfig, Where, load_weights, wiring

LOOKED_FOR = 'model_type "llava_qwen" with mm_patch_merge_type "unires" or "flat"'


def recognises(config: Mapping[str, Any]) -> bool:
    """LongVA merges patches "unires" (or "flat") and has no other system's fields."""
    return (
        config.get("model_type") in ("llava_qwen", "llava")
        and config.get("mm_patch_merge_type") in ("unires", "flat")
        and not any(field.startswith("beacon_") for field in config)
        and "mm_vision_tower" in config
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class LongVA(Llava):
    """LongVA, for inference."""

    name: ClassVar[str] = "longva"


def load(
    folder: Folder, vision_tower: str | None, device: torch.device, dtype: torch.dtype | None
) -> LongVA:
    """Load a checkpoint; the tower's weights are its own unless the checkpoint has none."""
    tower = find_tower(folder, vision_tower)
    config = LlavaConfig.from_published(folder.config, tower.config)
    where = Where(folder=folder, tower=tower, device=device, dtype=dtype)
    model = load_weights(config, config.blueprint(), where)
    fields = wiring(config, where)
    model.usable_vocab = min(len(fields["tokenizer"]), config.decoder.vocab)
    return LongVA(model=model, **fields)
