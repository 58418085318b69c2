"""What checkpoints of the LLaVA family share: config fields, weight names, loading, UniRes images.

A CLIP tower inside the checkpoint (or beside it), an MLP projector, grid pooling, a Qwen2 decoder.
A system of this layout adds what is its own.

Letters: T frames or crops, P patches, D width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from longtake.checkpoint import Keys, Names, load_model, load_part, published_shapes
from longtake.folder import Folder, TowerFiles, end_ids, require, tokenizer_of
from longtake.gridded import Gridded
from longtake.model import Blueprint, LongtakeModel, blueprint
from longtake.parts.chat import QWEN_1_5
from longtake.parts.clip import clip_config, clip_layers
from longtake.parts.fields import mapping, text, whole
from longtake.parts.pooling import PoolMode, grid_pool, uniform_pool
from longtake.parts.projector import projector_depth
from longtake.parts.qwen2 import Decoder, DecoderConfig, decoder_config
from longtake.parts.rope import Rope, rope_from_config
from longtake.parts.vit import ViTConfig
from longtake.types import VisualTokens
from longtake.video.anyres import Size, image_crops, parse_pinpoints
from longtake.video.pixels import ClipProcessor
from longtake.video.sample import evenly

TOWER = "model.vision_tower.vision_tower.vision_model."

KEYS = (
    (TOWER, "tower."),
    ("model.mm_projector.", "projector."),
    ("model.", "decoder."),
)
"""Published prefix, own prefix."""

ALONE = (("vision_model.", ""),)
"""The same for a tower in a folder of its own."""

CROP_CHUNK = 8
"""Crops of an image encoded at a time."""

IMAGE_POOL = 2
"""Images pool 2 x 2 whatever mm_spatial_pool_stride says: the original has it in the code."""


@dataclass(frozen=True, kw_only=True)
class LlavaConfig:
    """A published config.json of this layout, checked."""

    tower: ViTConfig
    tower_layers: int
    """Blocks the checkpoint holds; `tower.layers` are used."""
    decoder: DecoderConfig
    projector_depth: int
    tied: bool
    stride: int
    mode: PoolMode
    merge: Literal["unires", "flat"]
    aspect: str
    pinpoints: tuple[Size, ...]
    frames: int
    window: int | None
    """tokenizer_model_max_length: the original cuts what is longer, question and all; None where
    none is stated."""
    still_as_frame: bool
    """A still image is read as a video of one frame (the bundled model knows no other)."""

    @property
    def keys(self) -> Keys:
        """Published prefix, own prefix."""
        return KEYS

    @classmethod
    def from_published(cls, config: Mapping[str, Any], tower: Mapping[str, Any]) -> Self:
        """Read the fields the original reads; CheckpointError for what it cannot do either."""
        return cls(**cls.fields_of(config, tower))

    @staticmethod
    def fields_of(config: Mapping[str, Any], tower: Mapping[str, Any]) -> dict[str, Any]:
        """The common fields, as keyword arguments."""
        mode, merge = (
            config.get("mm_spatial_pool_mode", "average"),
            config.get("mm_patch_merge_type"),
        )
        require("mm_spatial_pool_mode", mode, ("average", "max"))
        require("mm_patch_merge_type", merge, ("unires", "flat"))
        require("mm_vision_select_feature", config.get("mm_vision_select_feature"), ("patch", None))
        vit = clip_config(tower, config.get("mm_vision_select_layer", -2))
        rope = rope_from_config(config)
        return {
            "tower": vit,
            "tower_layers": clip_layers(tower),
            "decoder": decoder_config(config, rope),
            "projector_depth": projector_depth(text(config, "mm_projector_type", "linear")),
            "tied": bool(config.get("tie_word_embeddings", False)),
            "stride": whole(config, "mm_spatial_pool_stride", 2),
            "mode": mode,
            "merge": merge,
            "aspect": text(config, "image_aspect_ratio", "square"),
            "pinpoints": parse_pinpoints(config.get("image_grid_pinpoints") or [], vit.image),
            "frames": whole(mapping(config, "longtake"), "frames", 32),
            "window": stated_window(config, rope),
            "still_as_frame": bool(mapping(config, "longtake").get("still_as_frame")),
        }

    def blueprint(self, decoder: Callable[[DecoderConfig], nn.Module] = Decoder) -> Blueprint:
        """What to build."""
        plain = blueprint(self.tower, self.decoder, self.projector_depth, self.tied)
        return replace(plain, decoder=lambda: decoder(self.decoder))

    def ignored(self, prefix: str = TOWER) -> tuple[str, ...]:
        """Tower names expected and unused."""
        return unused_tower(prefix, range(self.tower.layers, self.tower_layers))


def stated_window(config: Mapping[str, Any], rope: Rope) -> int | None:
    """How far a checkpoint reads, its own scaling included; None where that is not said."""
    if config.get("tokenizer_model_max_length") is None:
        return None
    return rope.window(whole(config, "tokenizer_model_max_length"))


def unused_tower(prefix: str, blocks: range) -> tuple[str, ...]:
    """Patterns of what follows the blocks whose output is taken: further blocks, norm, head."""
    behind = [f"encoder.layers.{n}." for n in blocks]
    unused = ["post_layernorm.", "head.", "embeddings.position_ids", *behind]
    return tuple(re.escape(prefix + name) for name in unused)


@dataclass(frozen=True, kw_only=True, eq=False)
class Llava(Gridded):
    """A system of this layout."""

    name: ClassVar[str]
    config: LlavaConfig

    def see_image(self, image_CHW: Tensor, alone: bool = True) -> VisualTokens:
        """UniRes (LongVA, section 3.3): the grid's crops pooled like frames, the base one dropped.

        An image of one crop keeps all its patches; "flat" keeps everything of every crop.
        """
        config = self.config
        if config.still_as_frame:
            fitted = (self.processor.fit(image_CHW[None]), (0.0,))
            return VisualTokens.join(list(self.compress(self.see(iter([fitted])))))
        crops_TCHW = image_crops(image_CHW, config.aspect, config.pinpoints, self.processor)
        pooled = config.merge == "unires" and len(crops_TCHW) > 1
        if pooled:
            crops_TCHW = crops_TCHW[1:]  # the original drops this one after the tower
        parts = [self.encode(part) for part in crops_TCHW.split(CROP_CHUNK)]
        features_TPD = grid_pool(torch.cat(parts), IMAGE_POOL) if pooled else torch.cat(parts)
        features_ND = features_TPD.flatten(0, 1)
        return VisualTokens(features_ND=features_ND, counts=(len(features_ND),), seconds=(0.0,))


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where a model is loaded from, and onto what."""

    folder: Folder
    tower: TowerFiles
    device: torch.device
    dtype: torch.dtype | None


class Layout(Protocol):
    """How a config's folder names its weights."""

    @property
    def keys(self) -> Keys:
        """Published prefix, own prefix."""

    def ignored(self, prefix: str) -> tuple[str, ...]:
        """Patterns of tower names behind `prefix` that are expected and unused."""


def load_weights(config: Layout, plan: Blueprint, where: Where) -> LongtakeModel:
    """Load strictly; the tower's weights come from its own folder only if they lie nowhere else."""
    folder = where.folder
    tower = next(published for published, own in config.keys if own == "tower.")
    inside = any(name.startswith(tower) for name in published_shapes(folder))
    absent = () if inside else ("tower.",)
    names = Names(keys=config.keys, ignored=config.ignored(tower), absent=absent)
    model = load_model(folder, plan, names, where.device, where.dtype)
    if not inside and where.device.type != "meta":
        # a whole CLIP or SigLIP
        other = (r"text_model\.", r"(visual|text)_projection\.", r"logit_(scale|bias)$")
        alone = Names(keys=ALONE, ignored=(*config.ignored(ALONE[0][0]), *other))
        load_part(model.tower, where.tower.weights(), alone)
    return model


def wiring(config: LlavaConfig, where: Where) -> dict[str, Any]:
    """The common fields of a system of this layout, as keyword arguments (all but the model)."""
    tokenizer = tokenizer_of(where.folder)
    return {
        "folder": where.folder,
        "tokenizer": tokenizer,
        "processor": ClipProcessor.from_config(where.tower.pixels),
        "template": QWEN_1_5,
        "sample": evenly,
        "compress": uniform_pool(config.stride, config.mode),
        "frames": config.frames,
        "end_ids": end_ids(where.folder, tokenizer),
        "window": config.window,
        "config": config,
    }
