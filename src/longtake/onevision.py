"""The layouts of LLaVA-OneVision checkpoints: config fields, weight names, what is built.

The authors' (lmms-lab) names its tower and holds no sizes of it; transformers' (llava-hf) nests a
text and a vision config. Weights of the latter go by several sets of names: those of the published
files, which transformers writes back, those that its versions 4.52 to 5.0 wrote, and those of today
for models of its own making.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from longtake.checkpoint import Keys, published_shapes
from longtake.errors import CheckpointError, OptionError
from longtake.folder import Folder, TowerFiles, find_tower, require
from longtake.llava import KEYS, unused_tower
from longtake.model import Blueprint, blueprint
from longtake.parts.clip import used_layers
from longtake.parts.fields import mapping, text, whole
from longtake.parts.newlines import Newlines
from longtake.parts.pooling import PoolMode
from longtake.parts.projector import projector_depth
from longtake.parts.qwen2 import DecoderConfig, decoder_config
from longtake.parts.rope import rope_from_config
from longtake.parts.siglip import SIGLIP_384_PIXELS, SO400M, siglip_config, siglip_layers
from longtake.parts.vit import ViTConfig
from longtake.places import read_json
from longtake.video.anyres import Size, parse_pinpoints

NEWLINE = "image_newline"
LMMS: Keys = ((f"model.{NEWLINE}", NEWLINE), *KEYS)


def transformers_keys(names: Collection[str]) -> Keys:
    """Published prefix, own prefix, of the names that a folder has."""
    inner = "model." if any(name.startswith("model.") for name in names) else ""
    tower = f"{inner}vision_tower."
    if any(name.startswith(f"{tower}vision_model.") for name in names):
        tower += "vision_model."
    head = "lm_head." if inner else "language_model.lm_head."
    return (
        (head, "lm_head."),
        (f"{inner}language_model." if inner else "language_model.model.", "decoder."),
        (tower, "tower."),
        (f"{inner}multi_modal_projector.linear_1.", "projector.0."),
        (f"{inner}multi_modal_projector.linear_2.", "projector.2."),
        (f"{inner}{NEWLINE}", NEWLINE),
    )


POOLS: tuple[PoolMode, ...] = ("bilinear", "average", "max")
POSITIONS = ("one_token", "grid", "frame", "no_token")
ASPECTS = r"square|pad|anyres|anyres_max_[1-9][0-9]*"

UNREACHABLE: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("mm_resampler_type", (None,)),
    ("mm_use_im_start_end", (False, None)),
    ("mm_pooling_position", ("after", None)),
    ("add_faster_video", (False, None)),  # slow and fast frames with a token of their own
)
"""Fields whose other values need what is not here; no LLaVA-OneVision has them."""

UNREACHABLE_HF: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("vision_feature_select_strategy", ("full", None)),
    ("projector_hidden_act", ("gelu", None)),
    ("multimodal_projector_bias", (True, None)),
)


def is_lmms(config: Mapping[str, Any]) -> bool:
    """The authors' layout: patches merged "spatial_unpad", and no other system's fields."""
    return (
        config.get("model_type") in ("llava", "llava_qwen")
        and config.get("mm_patch_merge_type") == "spatial_unpad"
        and not any(field.startswith("beacon_") for field in config)
        and not str(config.get("mm_projector_type")).startswith("tome")
    )


def is_transformers(config: Mapping[str, Any]) -> bool:
    """The layout of transformers."""
    nested = "text_config" in config and "vision_config" in config
    return config.get("model_type") == "llava_onevision" and nested


@dataclass(frozen=True, kw_only=True)
class OneVisionConfig:
    """A published config.json of either layout, checked."""

    tower: ViTConfig
    tower_layers: int
    """Blocks its config counts; `tower.layers` are used."""
    decoder: DecoderConfig
    projector_depth: int
    tied: bool
    keys: Keys
    """How the folder names its weights."""
    stride: int
    """A video's frames are pooled by this in both directions."""
    mode: PoolMode
    newlines: Newlines
    """Where a video has them."""
    times_told: bool
    """Whether a sentence behind a video tells the time of every frame (LLaVA-Video)."""
    aspect: str
    """How a still image is cut."""
    pinpoints: tuple[Size, ...]
    window: int
    """Tokens it was trained to read. The original cuts what is longer, question and all."""

    @classmethod
    def from_lmms(cls, config: Mapping[str, Any], tower: Mapping[str, Any]) -> OneVisionConfig:
        """Read the fields the original reads; CheckpointError for what cannot be done."""
        for name, allowed in UNREACHABLE:
            require(name, config.get(name), allowed)
        mode = config.get("mm_spatial_pool_mode") or "bilinear"
        newlines = config.get("mm_newline_position") or "one_token"
        require("mm_spatial_pool_mode", mode, POOLS)
        require("mm_newline_position", newlines, POSITIONS)
        layers = siglip_layers(tower)
        # the original deletes the last block, whatever mm_vision_select_layer says
        vit = siglip_config(tower, layers - 1)
        plain = dict(config)
        plain["rope_scaling"] = None  # the original sets it so when it builds the model
        return cls(
            tower=vit,
            tower_layers=layers,
            decoder=decoder_config(plain, rope_from_config(plain)),
            projector_depth=projector_depth(text(config, "mm_projector_type", "linear")),
            tied=bool(config.get("tie_word_embeddings", False)),
            keys=LMMS,
            stride=whole(config, "mm_spatial_pool_stride", 2),
            mode=cast(PoolMode, mode),
            newlines=cast(Newlines, newlines),
            times_told=bool(config.get("add_time_instruction")),
            aspect=aspect_of(config, "image_aspect_ratio", "square"),
            pinpoints=parse_pinpoints(config.get("image_grid_pinpoints") or [], vit.image),
            window=whole(config, "tokenizer_model_max_length", 32768),
        )

    @classmethod
    def from_transformers(
        cls, config: Mapping[str, Any], names: Collection[str]
    ) -> OneVisionConfig:
        """Read the fields that transformers reads; `names`: those of the weights."""
        words, tower = mapping(config, "text_config"), mapping(config, "vision_config")
        for name, allowed in UNREACHABLE_HF:
            require(name, config.get(name), allowed)
        layers, field = siglip_layers(tower), "vision_feature_layer"
        vit = siglip_config(tower, used_layers(layers, config.get(field, -1), field))
        grids = config.get("image_grid_pinpoints")
        grids = "(1x1),...,(6x6)" if grids is None else grids  # transformers' own default
        heights_first = parse_pinpoints(grids, vit.image)
        rope = rope_from_config(words)
        return cls(
            tower=vit,
            tower_layers=layers,
            decoder=decoder_config(words, rope),
            projector_depth=2,
            tied=bool(config.get("tie_word_embeddings") or words.get("tie_word_embeddings")),
            keys=transformers_keys(names),
            stride=2,
            mode="bilinear",
            newlines="one_token",
            times_told=False,
            aspect=aspect_of(config, "vision_aspect_ratio", "anyres_max_9"),
            pinpoints=tuple((width, height) for height, width in heights_first),
            window=rope.window(whole(words, "max_position_embeddings", 32768)),
        )

    def blueprint(self) -> Blueprint:
        """What to build."""
        plain = blueprint(self.tower, self.decoder, self.projector_depth, self.tied)
        return replace(plain, newline=True)

    def ignored(self, prefix: str) -> tuple[str, ...]:
        """Tower names expected and unused."""
        return unused_tower(prefix, range(self.tower.layers, self.tower_layers))

    @property
    def most_patches(self) -> int | None:
        """Patches that an image's map is shrunk to; anyres_max_9 allows those of 9 crops."""
        crops = self.aspect.removeprefix("anyres_max_")
        return int(crops) * self.tower.patches if crops.isdigit() else None


def aspect_of(config: Mapping[str, Any], field: str, default: str) -> str:
    """How a config says that still images are cut. Raises CheckpointError."""
    aspect = text(config, field, default)
    if re.fullmatch(ASPECTS, aspect) is None:
        known = "square, pad, anyres or anyres_max_N"
        raise CheckpointError(f"config.json: {field} is {aspect!r}, expected {known}")
    return aspect


def read_layout(folder: Folder, vision_tower: str | None) -> tuple[OneVisionConfig, TowerFiles]:
    """A folder's config, and its tower's. Raises CheckpointError, OptionError."""
    if not is_transformers(folder.config):
        tower = find_tower(folder, vision_tower, unnamed=SO400M)
        return OneVisionConfig.from_lmms(folder.config, tower.config), tower
    if vision_tower is not None:
        raise OptionError("the tower of this checkpoint is in it; leave vision_tower")
    config = OneVisionConfig.from_transformers(folder.config, published_shapes(folder))
    pixels = picture_steps(folder)
    name = str(folder.path)
    return config, TowerFiles(config=folder.config["vision_config"], pixels=pixels, name=name)


def picture_steps(folder: Folder) -> Mapping[str, Any]:
    """preprocessor_config.json, which transformers 5 writes into processor_config.json.

    Of a bare folder that has neither, what SigLIP's own says, for pictures of the tower's size.
    """
    file, newer = (folder.path / f"{name}_config.json" for name in ("preprocessor", "processor"))
    if folder.bare and not file.exists() and not newer.exists():
        side = whole(mapping(folder.config, "vision_config"), "image_size")
        return SIGLIP_384_PIXELS | {"size": {"height": side, "width": side}}
    if not file.exists():
        return mapping(read_json(newer), "image_processor") or read_json(file)
    return read_json(file)
