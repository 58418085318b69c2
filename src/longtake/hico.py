"""The layout of VideoChat-Flash checkpoints: config fields, weight names, what is built.

Their config.json carries no sizes of the tower; these are read off its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from longtake.errors import CheckpointError, OptionError
from longtake.folder import require
from longtake.model import Blueprint
from longtake.parts.clips import ClipTowerConfig
from longtake.parts.dropping import Schedule
from longtake.parts.fields import text, whole
from longtake.parts.internvideo2 import InternVideo2, InternVideo2Config, internvideo2_config
from longtake.parts.projector import Projector
from longtake.parts.qwen2 import Decoder, DecoderConfig, decoder_config
from longtake.parts.rope import rope_from_config
from longtake.parts.umt import UMT, UMTConfig, umt_config
from longtake.sizes import INTERNVIDEO2_1B, UMT_L_224
from longtake.video.anyres import Size, parse_pinpoints

TOWER = "model.vision_tower.vision_tower."
UMT_TOWER = f"{TOWER}encoder."


TOWERS = (("umt-hd", 448), ("umt", 224), ("internvideo2", 224))
"""What mm_vision_tower contains, first match, and the pictures' side: no field carries it."""


@dataclass(frozen=True, kw_only=True)
class HicoConfig:
    """A published VideoChat-Flash config.json, checked, with the sizes its weights tell."""

    tower: ClipTowerConfig
    decoder: DecoderConfig
    tied: bool
    pinpoints: tuple[Size, ...]
    window: int
    drop: Schedule | None
    """What config.json says of video-level compression, if it switches it on."""
    stated: Schedule | None
    """The same, whether it is on or not."""

    @classmethod
    def from_published(
        cls, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
    ) -> HicoConfig:
        """Read the fields the original reads; CheckpointError for what it cannot do either."""
        require("mm_vision_select_layer", config.get("mm_vision_select_layer"), (-2, None))
        require("mm_local_num_frames", config.get("mm_local_num_frames"), (4, None))
        require("mm_newline_position", config.get("mm_newline_position"), ("nothing", None))
        require("mm_patch_merge_type", config.get("mm_patch_merge_type"), ("spatial_nopad", None))
        require("image_aspect_ratio", config.get("image_aspect_ratio"), ("anyres_nopad", None))
        tower = tower_config(text(config, "mm_vision_tower", ""), shapes)
        if whole(config, "mm_hidden_size", tower.hidden) != tower.hidden:
            raise CheckpointError(
                f"config.json: mm_hidden_size is {config['mm_hidden_size']}, the tower's weights "
                f"are {tower.hidden} wide"
            )
        rope = rope_from_config(config)
        decoder = decoder_config(config, rope)
        stated = stated_schedule(config, decoder.layers)
        return cls(
            tower=tower,
            decoder=decoder,
            tied=bool(config.get("tie_word_embeddings", False)),
            pinpoints=parse_pinpoints(config.get("image_grid_pinpoints") or [], tower.image),
            window=rope.window(whole(config, "tokenizer_model_max_length", 32768)),
            drop=stated if config.get("mm_llm_compress") else None,
            stated=stated,
        )

    def keys(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[tuple[str, str], ...]:
        """Published prefix, own prefix; some folders call LayerScale `gamma`."""
        scales = tuple(
            (name, f"tower.{name.removeprefix(TOWER).removesuffix('gamma')}weight")
            for name in shapes
            if name.startswith(TOWER) and name.endswith((".ls1.gamma", ".ls2.gamma"))
        )
        tower = UMT_TOWER if isinstance(self.tower, UMTConfig) else TOWER
        return (
            *scales,
            (tower, "tower."),
            ("model.mm_projector.mlp.", "projector."),
            ("model.", "decoder."),
        )

    def blueprint(self) -> Blueprint:
        """What to build."""
        tower = self.tower
        return Blueprint(
            tower=lambda: (
                InternVideo2(tower)
                if isinstance(tower, InternVideo2Config)
                else UMT(cast(UMTConfig, tower))
            ),
            projector=lambda: Projector(tower.hidden, self.decoder.hidden),
            decoder=lambda: Decoder(self.decoder),
            sizes=self.decoder,
            tied=self.tied,
        )


def tower_config(name: str, shapes: Mapping[str, tuple[int, ...]]) -> ClipTowerConfig:
    """The tower that a config names, of the sizes its weights have. Raises CheckpointError."""
    for part, image in TOWERS:
        if part in name and not shapes:  # a bare folder
            return published_tower(part, image)
        if part in name and part == "internvideo2":
            return internvideo2_config(shapes, TOWER)
        if part in name:
            return umt_config(shapes, UMT_TOWER, image)
    known = ", ".join(part for part, _ in TOWERS)
    raise CheckpointError(f"config.json: mm_vision_tower is {name!r}, expected one with {known}")


def published_tower(part: str, image: int) -> ClipTowerConfig:
    """The tower of the published checkpoints; their config.json carries no sizes."""
    kind = InternVideo2Config if part == "internvideo2" else UMTConfig
    known = INTERNVIDEO2_1B if part == "internvideo2" else UMT_L_224
    sizes = {"hidden": known.hidden, "layers": known.layers, "heads": known.heads}
    return kind(**sizes, mlp=known.mlp, image=image)


def stated_schedule(config: Mapping[str, Any], layers: int) -> Schedule | None:
    """Video-level compression as config.json states it; None if it fits no model of this depth.

    Raises CheckpointError for that where config.json switches it on.
    """
    try:
        schedule = Schedule(
            kind=config.get("llm_compress_type", "attention"),
            layers=tuple(config.get("llm_compress_layer_list", (8, 16, 24))),
            ratios=tuple(config.get("llm_image_token_ratio_list", (1.0, 0.5, 0.25, 0.125))),
        )
        schedule.check_depth(layers)
    except (OptionError, TypeError) as error:
        if not config.get("mm_llm_compress"):
            return None
        lists = "llm_compress_layer_list, llm_image_token_ratio_list must be lists of numbers"
        reason = lists if isinstance(error, TypeError) else error
        raise CheckpointError(f"config.json: mm_llm_compress is on, but {reason}") from error
    return schedule
