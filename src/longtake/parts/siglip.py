"""SigLIP towers by their published configs: sizes, and the blocks that are used."""

from collections.abc import Mapping
from typing import Any

from longtake.errors import CheckpointError
from longtake.parts.fields import real, whole
from longtake.parts.vit import ACTIVATIONS, ViTConfig

SIGLIP_SO400M_384: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
"""google/siglip-so400m-patch14-384, so that checkpoints that only name it load without the hub.

384 is no multiple of 14: 27 x 27 patches, the last 6 rows and columns of pixels are not seen."""

SIGLIP_384_PIXELS: dict[str, Any] = {
    "size": {"height": 384, "width": 384},
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
"""Its preprocessor_config.json."""

SO400M = "google/siglip-so400m-patch14-384"
KNOWN = {SO400M: (SIGLIP_SO400M_384, SIGLIP_384_PIXELS)}
"""Towers that need no folder of their own."""

MODEL_TYPES = ("siglip_vision_model", "siglip", None)


def siglip_layers(published: Mapping[str, Any]) -> int:
    """Blocks of a published SigLIP tower."""
    return whole(published.get("vision_config", published), "num_hidden_layers")


def siglip_config(published: Mapping[str, Any], layers: int) -> ViTConfig:
    """A tower from a published SigLIP config.json (or its `vision_config`), of so many blocks.

    Raises CheckpointError for another kind of tower.
    """
    if published.get("model_type") not in MODEL_TYPES:
        found = published["model_type"]
        raise CheckpointError(f"the tower is a {found!r}, expected 'siglip_vision_model'")
    fields = published.get("vision_config", published)
    activation = fields.get("hidden_act", "gelu_pytorch_tanh")
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise CheckpointError(f"the tower's hidden_act is {activation!r}, expected {known}")
    return ViTConfig(
        hidden=whole(fields, "hidden_size"),
        layers=layers,
        heads=whole(fields, "num_attention_heads"),
        mlp=whole(fields, "intermediate_size"),
        image=whole(fields, "image_size"),
        patch=whole(fields, "patch_size"),
        activation=activation,
        eps=real(fields, "layer_norm_eps", 1e-6),
        class_token=False,
    )
