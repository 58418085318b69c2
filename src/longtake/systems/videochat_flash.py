"""VideoChat-Flash: hierarchical compression for long-context video modeling (arXiv 2501.00574).

Clips of 4 frames are encoded together and merged to 64 tokens, 16 a frame (clip-level compression);
a plain Qwen2 reads them without separators. Optionally only a share of them goes on after certain
of its layers (video-level compression; off as released). Checkpoints: OpenGVLab/VideoChat-Flash-
Qwen2-7B_res448 and _res224, -Qwen2_5-7B-1M_res224, -Qwen2_5-2B_res448, -Qwen2_5-7B_InternVideo2-1B.

Letters: T frames, B clips or crops of an image, F frames of a clip, N tokens of a clip, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from longtake.checkpoint import Names, load_model, published_shapes
from longtake.dropped import CROPS_AT_ONCE, FRAME_TOKENS, Dropped
from longtake.errors import OptionError
from longtake.folder import Folder, end_ids, tokenizer_of
from longtake.hico import HicoConfig
from longtake.model import LongtakeModel
from longtake.parts.abreast import abreast
from longtake.parts.cache import GrowingCache
from longtake.parts.chat import QWEN_1_5
from longtake.parts.layered import StagedCache
from longtake.parts.pooling import KeepAll
from longtake.parts.splice import Piece
from longtake.parts.tome import Merged, merge_tokens
from longtake.reader import Fitted, Following
from longtake.staged import read_question, remember
from longtake.types import Reading, VisualTokens
from longtake.video.anyres import (
    grid_shape,
    pad_to_square,
    squashed_crops,
)
from longtake.video.clips import in_clips
from longtake.video.pixels import ClipProcessor
from longtake.video.sample import PerSecond, Shown
from longtake.wishes import schedule_of

LOOKED_FOR = 'mm_projector_type "tome16_mlp_hd64"'

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

IMAGE_TOKENS = 64
"""Tokens of each crop of a still image."""
IMAGE_SIDE = 8
"""These in a square, as the crops' mosaic is read."""


def recognises(config: Mapping[str, Any]) -> bool:
    """Published model types are "qwen2" and "videochat_flash_qwen", so the connector decides."""
    return config.get("mm_projector_type") == "tome16_mlp_hd64" and "mm_vision_tower" in config


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoChatFlash(Dropped):
    """VideoChat-Flash, for inference."""

    name: ClassVar[str] = "videochat_flash"
    # -- what it sees -----------------------------------------------------------------------------

    def see(self, fitted: Iterator[Fitted]) -> Iterator[VisualTokens]:
        """Tower, merging and projector: one entry of 64 tokens per clip of 4 frames.

        The last clip is filled up with its last frame (the original crashes).
        """
        frames = self.config.tower.frames
        for bytes_BFCHW, seconds in in_clips(fitted, frames):
            features_BND = self.encode(bytes_BFCHW.to(self.model.device))
            yield VisualTokens(
                features_ND=features_BND.flatten(0, 1),
                counts=(features_BND.shape[1],) * len(features_BND),
                seconds=seconds,
                span=frames,
                patches=len(features_BND) * frames * self.config.tower.patches,
            )

    @torch.no_grad()
    def encode(self, pixels_BFCHW: Tensor) -> Tensor:
        """Clips of bytes, or normalised [B, F, 3, h, w] -> projected features [B, 64, D]."""
        on_cpu = self.model.device.type == "cpu"
        at_once = self.config.tower.clips_at_once if on_cpu else CROPS_AT_ONCE
        return torch.cat(abreast(self._encode, pixels_BFCHW, at_once))

    def _encode(self, pixels_BFCHW: Tensor) -> Tensor:
        pixels_TCHW = self.normalised(pixels_BFCHW.flatten(0, 1))
        merged = self.merge(pixels_TCHW.view(pixels_BFCHW.shape))
        return self.model.project(merged.features_BMD)

    def merge(self, pixels_BFCHW: Tensor) -> Merged:
        """Tower features of clips or crops, merged (section 3.2)."""
        frames = pixels_BFCHW.shape[1]
        target = IMAGE_TOKENS if frames == 1 else FRAME_TOKENS * frames
        return merge_tokens(self.model.look(pixels_BFCHW), target, self.config.tower.heads)

    def crops(self, image_CHW: Tensor, alone: bool) -> Tensor:
        """Pixels [B, 3, h, w] of an image: a mosaic if it is the only one, else one padded."""
        if alone and self.config.pinpoints:
            return squashed_crops(image_CHW, self.config.pinpoints, self.processor)
        return self.processor(pad_to_square(image_CHW[None], self.processor.colour))

    def see_image(self, image_CHW: Tensor, alone: bool = True) -> VisualTokens:
        """The whole image's 64 tokens, then the mosaic's row by row across all crops."""
        pixels_BCHW = self.crops(image_CHW, alone)
        features_BND = self.encode(pixels_BCHW[:, None])
        tokens_ND = features_BND[0]
        if len(features_BND) > 1:
            columns = self.columns(image_CHW)
            side = (IMAGE_SIDE, IMAGE_SIDE)
            grid_RKrkD = features_BND[1:].unflatten(1, side).unflatten(0, (-1, columns))
            tokens_ND = torch.cat([tokens_ND, grid_RKrkD.transpose(1, 2).flatten(0, 3)])
        patches = len(features_BND) * self.config.tower.patches
        return VisualTokens(
            features_ND=tokens_ND, counts=(len(tokens_ND),), seconds=(0.0,), patches=patches
        )

    def columns(self, image_CHW: Tensor) -> int:
        """Crops beside each other in an image's mosaic."""
        size = (int(image_CHW.shape[2]), int(image_CHW.shape[1]))
        return grid_shape(size, self.config.pinpoints, self.processor.side)[0]

    def follow(self, shown: Shown, last: bool) -> str:
        """A newline after each visual, and what a video is said to be."""
        if shown.seconds is None:
            return "\n"
        return f"\n{time_message(shown.seconds, shown.frames)} "

    @property
    def no_captions(self) -> str:
        """A video from which tokens are dropped is one stretch of rows."""
        return "" if self.drop is None else f"{self.name} with drop reads a video as one stretch"

    # -- what it remembers ------------------------------------------------------------------------

    def variant(self, **options: Any) -> VideoChatFlash:
        """Drop otherwise, by name or as `longtake.wishes.schedule_of` says. Raises OptionError."""
        said = options.pop("drop", None)
        base = super().variant(**options)
        if said is None:
            return base
        drop = schedule_of(said, self.config.stated)
        if drop is not None:
            drop.check_depth(self.config.decoder.layers)
        return replace(base, drop=drop)

    def shape(self) -> tuple[object, ...]:
        """What it drops is part of a memory."""
        return (*super().shape(), self.sample, self.drop)

    def new_cache(self) -> GrowingCache:
        """All layers alike, or in stages."""
        if self.drop is None:
            return super().new_cache()
        return StagedCache(self.drop, self.config.decoder.layers)

    def remember(
        self, pieces: Iterator[Piece], cache: GrowingCache, following: Following
    ) -> Reading:
        """Stage by stage where tokens are dropped (section 3.3)."""
        if isinstance(cache, StagedCache):
            return remember(self.model, pieces, cache, following)
        return super().remember(pieces, cache, following)

    def read(
        self,
        cache: GrowingCache,
        ids: Sequence[int],
        observe: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Where what stays depends on the question, the layers from there on are run for it."""
        if isinstance(cache, StagedCache) and cache.unread:
            return read_question(self.model, cache, ids, observe)
        return super().read(cache, ids, observe)


def time_message(seconds: float, frames: int) -> str:
    """What the model is told of a video, as its training put it."""
    return (
        f"The video lasts for {seconds:.2f} seconds, and {frames} frames are uniformly sampled "
        "from it."
    )


def load(
    folder: Folder, vision_tower: str | None, device: torch.device, dtype: torch.dtype | None
) -> VideoChatFlash:
    """Load a checkpoint; its tower is among its weights."""
    if vision_tower is not None:
        raise OptionError("the tower of a VideoChat-Flash checkpoint is in it; leave vision_tower")
    shapes = published_shapes(folder)
    config = HicoConfig.from_published(folder.config, shapes)
    names = Names(keys=config.keys(shapes))
    return wired(folder, config, load_model(folder, config.blueprint(), names, device, dtype))


def wired(folder: Folder, config: HicoConfig, model: LongtakeModel) -> VideoChatFlash:
    """A system around a model that is there."""
    tokenizer = tokenizer_of(folder)
    side = config.tower.image
    return VideoChatFlash(
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        processor=ClipProcessor(
            edge=None,
            squash_hw=(side, side),
            crop_hw=None,
            resample=Image.Resampling.BICUBIC,
            rescale_factor=1 / 255,
            mean=MEAN,
            std=STD,
        ),
        template=QWEN_1_5,
        sample=PerSecond(),
        compress=KeepAll(),
        frames=512,
        end_ids=end_ids(folder, tokenizer),
        window=config.window,
        config=config,
        drop=config.drop,
    )
