"""Our ViT against transformers' CLIP and SigLIP on tiny random weights: exactly equal."""

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from longtake.errors import CheckpointError
from longtake.parts.clip import clip_config, used_layers
from longtake.parts.projector import Projector, projector_depth
from longtake.parts.vit import ViT, ViTConfig

SIZES = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "image_size": 56,
    "patch_size": 14,
}


def own_weights(reference: torch.nn.Module, tower: ViT) -> dict[str, torch.Tensor]:
    """The reference's weights by our names, without what the tower does not build."""
    names = {name.removeprefix("vision_model."): w for name, w in reference.state_dict().items()}
    return {name: names[name] for name in tower.state_dict()}


@pytest.mark.parametrize("select", [-1, -2, -3, 2])
def test_clip(select: int) -> None:
    torch.manual_seed(0)
    config = CLIPVisionConfig(**SIZES, hidden_act="quick_gelu", attn_implementation="sdpa")
    reference = CLIPVisionModel(config).eval()
    tower = ViT(clip_config(config.to_dict(), select))
    tower.load_state_dict(own_weights(reference, tower))
    pixels = torch.randn(3, 3, 56, 56)
    with torch.no_grad():
        expected = reference(pixels, output_hidden_states=True).hidden_states[select][:, 1:]
        torch.testing.assert_close(tower(pixels), expected, rtol=0, atol=0)


@pytest.mark.parametrize("layers", [3, 4])
def test_siglip(layers: int) -> None:
    torch.manual_seed(1)
    config = SiglipVisionConfig(**SIZES, attn_implementation="sdpa")
    reference = SiglipVisionModel(config).eval()
    tower = ViT(
        ViTConfig(
            hidden=48,
            layers=layers,
            heads=3,
            mlp=96,
            image=56,
            patch=14,
            activation="gelu_pytorch_tanh",
            eps=1e-6,
            class_token=False,
        )
    )
    tower.load_state_dict(own_weights(reference, tower))
    pixels = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        expected = reference(pixels, output_hidden_states=True).hidden_states[layers]
        torch.testing.assert_close(tower(pixels), expected, rtol=0, atol=0)


def test_bf16_weights_compute_in_fp32() -> None:
    torch.manual_seed(2)
    tower = ViT(clip_config(SIZES | {"hidden_act": "quick_gelu"}, -2)).bfloat16()
    wide = ViT(tower.config)
    wide.load_state_dict(tower.state_dict())
    pixels = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        torch.testing.assert_close(tower(pixels), wide(pixels), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("layers", "select", "used"), [(24, -2, 23), (24, -1, 24), (24, 24, 24), (24, 0, 0), (4, -5, 0)]
)
def test_used_layers(layers: int, select: int, used: int) -> None:
    assert used_layers(layers, select) == used


@pytest.mark.parametrize("select", [-6, 5])
def test_layer_out_of_range(select: int) -> None:
    with pytest.raises(CheckpointError, match="mm_vision_select_layer"):
        used_layers(4, select)


def test_projector_names_and_kinds() -> None:
    assert projector_depth("linear") == 1
    assert projector_depth("mlp2x_gelu") == 2
    assert sorted(Projector(4, 6, 3).state_dict())[::2] == ["0.bias", "2.bias", "4.bias"]
    with pytest.raises(CheckpointError, match="resampler"):
        projector_depth("resampler")
