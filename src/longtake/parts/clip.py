"""CLIP towers by their published configs: sizes, and the layer that is used."""

from collections.abc import Mapping
from typing import Any

from longtake.errors import CheckpointError
from longtake.parts.vit import ACTIVATIONS, ViTConfig

CLIP_L_336: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
"""openai/clip-vit-large-patch14-336, so that checkpoints that only name it load without the hub."""

CLIP_336_PIXELS: dict[str, Any] = {
    "size": {"shortest_edge": 336},
    "crop_size": {"height": 336, "width": 336},
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_convert_rgb": True,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
"""Its preprocessor_config.json."""

KNOWN = {"openai/clip-vit-large-patch14-336": (CLIP_L_336, CLIP_336_PIXELS)}
"""Towers that need no folder of their own."""


def used_layers(layers: int, select: int) -> int:
    """Blocks to run so that the output is `hidden_states[select]` of a tower of `layers` blocks.

    hidden_states has layers + 1 entries, the first before any block. Raises CheckpointError out of
    range.
    """
    used = select if select >= 0 else layers + 1 + select
    if not 0 <= used <= layers:
        raise CheckpointError(f"mm_vision_select_layer {select} of a tower with {layers} layers")
    return used


def clip_layers(published: Mapping[str, Any]) -> int:
    """Blocks of a published CLIP tower."""
    return int(published.get("vision_config", published)["num_hidden_layers"])


def clip_config(published: Mapping[str, Any], select: int) -> ViTConfig:
    """A tower from a published CLIP config.json (or its `vision_config`), up to the layer used."""
    fields = published.get("vision_config", published)
    try:
        activation = fields.get("hidden_act", "quick_gelu")
        if activation not in ACTIVATIONS:
            raise CheckpointError(f"tower activation {activation!r} is unknown")
        return ViTConfig(
            hidden=int(fields["hidden_size"]),
            layers=used_layers(int(fields["num_hidden_layers"]), select),
            heads=int(fields["num_attention_heads"]),
            mlp=int(fields["intermediate_size"]),
            image=int(fields["image_size"]),
            patch=int(fields["patch_size"]),
            activation=activation,
            eps=float(fields.get("layer_norm_eps", 1e-5)),
            class_token=True,
        )
    except KeyError as error:
        raise CheckpointError(f"the tower's config.json lacks {error}") from error
