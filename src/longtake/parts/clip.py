"""CLIP towers by their published configs: sizes, and the layer that is used."""

from collections.abc import Mapping
from typing import Any

from longtake.errors import CheckpointError
from longtake.parts.fields import real, whole
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


def used_layers(layers: int, select: Any, field: str = "mm_vision_select_layer") -> int:
    """Blocks to run so that the output is `hidden_states[select]` of a tower of `layers` blocks.

    hidden_states has layers + 1 entries, the first before any block. Raises CheckpointError out of
    range.
    """
    if not isinstance(select, int) or not -layers - 1 <= select <= layers:
        raise CheckpointError(f"{field} {select!r} of a tower of {layers} layers")
    return select if select >= 0 else layers + 1 + select


def clip_layers(published: Mapping[str, Any]) -> int:
    """Blocks of a published CLIP tower."""
    return whole(published.get("vision_config", published), "num_hidden_layers")


def clip_config(published: Mapping[str, Any], select: Any) -> ViTConfig:
    """A tower from a published CLIP config.json (or its `vision_config`), up to the layer used."""
    fields = published.get("vision_config", published)
    activation = fields.get("hidden_act", "quick_gelu")
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise CheckpointError(f"the tower's hidden_act is {activation!r}, expected {known}")
    return ViTConfig(
        hidden=whole(fields, "hidden_size"),
        layers=used_layers(clip_layers(published), select),
        heads=whole(fields, "num_attention_heads"),
        mlp=whole(fields, "intermediate_size"),
        image=whole(fields, "image_size"),
        patch=whole(fields, "patch_size"),
        activation=activation,
        eps=real(fields, "layer_norm_eps", 1e-5),
        class_token=True,
    )
