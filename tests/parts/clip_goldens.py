"""The golden cases of VideoChat-Flash up to its projector: pixels, towers, what came out.

B clips, F frames, C channels, H W pixels, N tokens of a clip, M merged ones, D width.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from tests.parity.cases import Case, load_case
from torch import Tensor

from longtake.parts.internvideo2 import InternVideo2, internvideo2_config
from longtake.parts.projector import Projector
from longtake.parts.tome import Merged, merge_tokens
from longtake.parts.umt import UMT, umt_config
from longtake.video.anyres import best_resolution, pad_to_square
from longtake.video.pixels import ClipProcessor, resize_image

GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "videochat_flash"
TOWER = "model.vision_tower.vision_tower."
PROJECTOR = "model.mm_projector.mlp."
MARGIN = 1e-5
"""Of outputs of unit scale; the fixtures' README allows 1e-4, other orders of summing give 9e-6."""

Shapes = dict[str, tuple[int, ...]]
Tower = UMT | InternVideo2


def golden(name: str) -> Case:
    return load_case(GOLDEN / f"case-{name}.json")


@cache
def weights(checkpoint: str) -> dict[str, Tensor]:
    """All tensors of a checkpoint folder, bf16 as stored."""
    tensors = {}
    for path in sorted((GOLDEN / checkpoint).glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def part(checkpoint: str, prefix: str) -> dict[str, Tensor]:
    found = weights(checkpoint).items()
    return {name.removeprefix(prefix): w for name, w in found if name.startswith(prefix)}


def image_side(checkpoint: str) -> int:
    return 448 if "448" in checkpoint else 224


def tower_prefix(checkpoint: str) -> str:
    return TOWER + ("" if "iv2" in checkpoint else "encoder.")


def meta_tower(shapes: Shapes, prefix: str, side: int) -> Tower:
    """The tower that these names and shapes describe, without weights."""
    with torch.device("meta"):
        if prefix == TOWER:
            return InternVideo2(internvideo2_config(shapes, prefix))
        return UMT(umt_config(shapes, prefix, side))


def stored_tower(checkpoint: str) -> Tower:
    """Loaded strictly, in bf16 as stored."""
    prefix = tower_prefix(checkpoint)
    shapes = {name: tuple(w.shape) for name, w in weights(checkpoint).items()}
    tower = meta_tower(shapes, prefix, image_side(checkpoint))
    copies = {name: w.clone() for name, w in part(checkpoint, prefix).items()}
    tower.load_state_dict(copies, assign=True)
    return tower


def golden_tower(checkpoint: str) -> Tower:
    """The same in fp32."""
    return stored_tower(checkpoint).float()


def golden_projector(checkpoint: str) -> Projector:
    tensors = part(checkpoint, PROJECTOR)
    hidden, vision = tensors["0.weight"].shape
    projector = Projector(vision, hidden)
    projector.load_state_dict(tensors)
    return projector


def processor(side: int) -> ClipProcessor:
    return ClipProcessor(
        edge=None,
        squash_hw=(side, side),
        crop_hw=None,
        resample=Image.Resampling.BICUBIC,
        rescale_factor=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


def entries(image_CHW: Tensor, side: int, mode: str) -> Tensor:
    """The single-frame clips an image becomes: float32 [B, 1, 3, side, side]."""
    process = processor(side)
    if mode == "pad":
        return process(pad_to_square(image_CHW[None], process.colour))[:, None]
    boxes = [(side * i, side * j) for i in range(1, 7) for j in range(1, 7)]
    width, height = best_resolution((image_CHW.shape[2], image_CHW.shape[1]), boxes)
    whole_CHW = resize_image(image_CHW, (height, width))
    tiles = [
        whole_CHW[:, top : top + side, left : left + side]
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]
    return torch.cat([process(image_CHW[None]), process(torch.stack(tiles))])[:, None]


def pixels(case: Case) -> Tensor:
    """What the tower saw: [B, F, 3, H, W]."""
    side = image_side(str(case.spec["checkpoint"]))
    if "frames_u8" not in case.tensors:
        images = [case.pictures(name) for name in sorted(case.tensors) if name.endswith("_u8")]
        return torch.cat([entries(image, side, case.spec["image_mode"]) for image in images])
    frames_TCHW = case.pictures("frames_u8")
    if "frame_indices" in case.tensors:
        frames_TCHW = frames_TCHW[case.tensors["frame_indices"]]
    return processor(side)(frames_TCHW).unflatten(0, (-1, 4))


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What our parts make of a case."""

    features_BND: Tensor
    merged: Merged
    projected_BMD: Tensor


@torch.no_grad()
def see(case: Case, tower: Tower) -> Seen:
    features_BND = tower(pixels(case))
    merged = merge_tokens(features_BND, 64, tower.config.heads)
    projector = golden_projector(str(case.spec["checkpoint"]))
    return Seen(
        features_BND=features_BND, merged=merged, projected_BMD=projector(merged.features_BMD)
    )


def expected(case: Case, name: str) -> Tensor:
    """A stored tensor; where each picture has its own, one behind the other."""
    if name in case.tensors:
        return case.tensors[name]
    found = [n for n in sorted(case.tensors) if n.startswith(f"{name}_") and n[-1].isdigit()]
    return torch.cat([case.tensors[n] for n in found])


def gap(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference."""
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()


def vision_gap(case: Case, features_BND: Tensor) -> float:
    """From what the case stores of the tower's output; 0 where it stores nothing."""
    if "vision_features_sub" not in case.tensors:
        if case.spec["kind"] == "train":
            return 0.0
        return gap(features_BND, case.tensors["vision_features"])
    stored = case.tensors["vision_features_sub"]
    stride = features_BND.shape[1] // stored.shape[1]
    return gap(features_BND[:, ::stride], stored)


def wrong_sizes(case: Case, merged: Merged) -> int:
    """Tokens that do not hold as many patches as the original's; must be none."""
    if case.spec["kind"] == "train":
        return 0
    stored_BM = expected(case, "tome_sizes").flatten(1)
    assert merged.sizes_BM.shape == stored_BM.shape
    return int((merged.sizes_BM != stored_BM).sum())


def gaps(case: Case, seen: Seen) -> dict[str, float]:
    """How far each stage is from the original."""
    found = {"vision": vision_gap(case, seen.features_BND)}
    if case.spec["kind"] == "chat":
        found["projected"] = gap(seen.projected_BMD[:, ::8], case.tensors["projected_sub"])
        return found
    found["tome"] = gap(seen.merged.features_BMD, expected(case, "tome_tokens"))
    found["projected"] = gap(seen.projected_BMD, expected(case, "projected"))
    return found


def published_towers() -> dict[str, Shapes]:
    """Names and shapes of the towers of each published layout, every block written out."""
    layouts = json.loads((GOLDEN / "published_keys.json").read_text(encoding="utf-8"))
    layouts.pop("_note")
    return {layout: dict(_written_out(keys)) for layout, keys in layouts.items()}


def _written_out(keys: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for pattern, entry in keys.items():
        first, last = (int(n) for n in entry.get("i", "0..0").split(".."))
        if pattern.startswith(TOWER):
            for block in range(first, last + 1):
                yield pattern.replace("{i}", str(block)), tuple(entry["shape"])
