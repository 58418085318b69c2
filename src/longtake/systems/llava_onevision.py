"""LLaVA-OneVision: easy visual task transfer (arXiv 2408.03326), the base of "Visual Context Window
Extension: a new perspective for long video understanding" (arXiv 2409.20018).

A frame is 27 x 27 patches of SigLIP, pooled bilinearly to 14 x 14 tokens; a learned newline ends a
video, and each row of an image's crops. The second paper reads further than that was trained for,
in two steps that any system has: positions are stretched by what the *visual* part of training
covered (`longtake.extend`), and most frames are pooled harder (`longtake.parts.pooling`).
Checkpoints: lmms-lab/llava-onevision-qwen2-7b-ov and -0.5b-ov (also -si, -chat), llava-hf/llava-
onevision-qwen2-7b-ov-hf and -0.5b-ov-hf, and lmms-lab/LLaVA-Video-7B-Qwen2, which differs in where
newlines stand and in a sentence behind the video that tells when each frame is.

Letters: T frames or crops, P patches, R K rows and columns of a map, N tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from longtake.folder import Folder, end_ids, tokenizer_of
from longtake.gridded import Gridded
from longtake.llava import CROP_CHUNK, Where, load_weights
from longtake.needs import Place
from longtake.onevision import OneVisionConfig, is_lmms, is_transformers, read_layout
from longtake.parts.chat import QWEN_1_5
from longtake.parts.mosaic import crop_map, shrunk, unpadded
from longtake.parts.newlines import ended, rows_ended, with_newlines
from longtake.parts.pooling import pooled_side, uniform_pool
from longtake.types import VisualTokens
from longtake.video.anyres import grid_shape, image_crops
from longtake.video.pixels import ClipProcessor
from longtake.video.sample import Shown, evenly

LOOKED_FOR = (
    'mm_patch_merge_type "spatial_unpad" with model_type "llava" or "llava_qwen", or '
    'model_type "llava_onevision"'
)

FRAMES = 32
"""As in training."""


def recognises(config: Mapping[str, Any]) -> bool:
    """The authors' layout or that of transformers."""
    return is_lmms(config) or is_transformers(config)


@dataclass(frozen=True, kw_only=True, eq=False)
class LlavaOneVision(Gridded):
    """LLaVA-OneVision, for inference."""

    name: ClassVar[str] = "llava_onevision"
    config: OneVisionConfig

    def arrange(self, stream: Iterator[VisualTokens]) -> Iterator[VisualTokens]:
        """A video's tokens with newlines; each counts to the frame before it."""
        return with_newlines(stream, self.model.newline, self.config.newlines)

    def follow(self, shown: Shown, last: bool) -> str:
        """What the base says; of LLaVA-Video, a sentence that tells when each frame is."""
        if not self.config.times_told or shown.seconds is None:
            return super().follow(shown, last)
        return f"\n{time_instruction(shown)}\n"

    def see_image(self, image_CHW: Tensor, alone: bool = True) -> VisualTokens:
        """An image whole, then the map of its crops, each row with a newline.

        One of several images is padded to a square and has one newline, as in training.
        """
        config = self.config
        aspect = config.aspect
        if not alone and aspect.startswith("anyres"):
            aspect = "pad"
        crops_TCHW = image_crops(image_CHW, aspect, config.pinpoints, self.processor)
        features_TPD = torch.cat([self.encode(part) for part in crops_TCHW.split(CROP_CHUNK)])
        tokens_ND, newlines = ended(features_TPD[0], self.model.newline), 1
        if len(features_TPD) > 1:
            map_RKD = self.image_map(features_TPD[1:], image_CHW)
            rows_ND = rows_ended(map_RKD, self.model.newline)
            tokens_ND, newlines = torch.cat([features_TPD[0], rows_ND]), len(map_RKD)
        return VisualTokens(
            features_ND=tokens_ND,
            counts=(len(tokens_ND),),
            seconds=(0.0,),
            patches=len(features_TPD) * config.tower.patches,
            newlines=newlines,
        )

    def image_map(self, crops_TPD: Tensor, image_CHW: Tensor) -> Tensor:
        """Crops put together, without what padded them: [T, P, D] -> [R, K, D]."""
        size_wh = (int(image_CHW.shape[2]), int(image_CHW.shape[1]))
        columns, _ = grid_shape(size_wh, self.config.pinpoints, self.processor.side)
        map_RKD = unpadded(crop_map(crops_TPD, columns), size_wh)
        most = self.config.most_patches
        return map_RKD if most is None else shrunk(map_RKD, most)

    def read_of(self, seen: int, place: Place, chunk: int) -> int:
        """Where only the last chunk gets a newline, each waits for the next."""
        held = chunk if self.config.newlines == "one_token" else 0
        return super().read_of(max(0, seen - held), place, chunk)

    def arranged(self, frames: int) -> int | None:
        """Visual tokens that so many frames become, newlines among them."""
        tokens, pool, where = self.planned(frames), self.pool, self.config.newlines
        if tokens is None or pool is None:
            return None
        if where == "grid":
            side = math.isqrt(self.config.tower.patches)
            return tokens + sum(
                pooled_side(side, pool.stride(frame), pool.mode) for frame in range(frames)
            )
        return tokens + {"one_token": 1, "frame": frames}.get(where, 0)


def time_instruction(shown: Shown) -> str:
    """What a model that is told times is told, as its training put it."""
    times = ",".join(f"{time:.2f}s" for time in shown.times)
    located = f" These frames are located at {times}." if times else ""
    return (
        f"The video lasts for {shown.seconds:.2f} seconds, and {shown.frames} frames are uniformly "
        f"sampled from it.{located}Please answer the following questions related to this video."
    )


def load(
    folder: Folder, vision_tower: str | None, device: torch.device, dtype: torch.dtype | None
) -> LlavaOneVision:
    """Load a checkpoint of either layout.

    Every row of the head is scored, as the originals do; those that stand for no token are far
    from being written in trained weights.
    """
    config, tower = read_layout(folder, vision_tower)
    where = Where(folder=folder, tower=tower, device=device, dtype=dtype)
    tokenizer = tokenizer_of(folder)
    return LlavaOneVision(
        folder=folder,
        model=load_weights(config, config.blueprint(), where),
        tokenizer=tokenizer,
        processor=ClipProcessor.from_config(tower.pixels),
        template=QWEN_1_5,
        sample=evenly,
        compress=uniform_pool(config.stride, config.mode),
        frames=FRAMES,
        end_ids=end_ids(folder, tokenizer),
        window=config.window,
        config=config,
    )
