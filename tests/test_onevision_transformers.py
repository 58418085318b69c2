"""LLaVA-OneVision against transformers' own classes, on random weights of sizes no case has.

The folder is written by transformers, so that its names and config are those of today.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from longtake.api import load
from longtake.parts.splice import Piece
from longtake.systems.llava_onevision import LlavaOneVision
from longtake.types import VisualTokens
from longtake.video.anyres import image_crops
from tests.parity.llava_onevision import expanded, joined
from tests.test_onevision import image, tokens_of
from tests.test_onevision_folder import HF_FOLDER
from tests.tiny import noise

SIDE = 70
"""5 x 5 patches, pooled to 3 x 3."""
TOKENS = {"bos_token_id": 797, "eos_token_id": 799}


def config_of(tied: bool) -> LlavaOnevisionConfig:
    """Small, with grids of up to 3 rows and 5 columns, images of more than 4 crops shrunk."""
    return LlavaOnevisionConfig(
        text_config={
            "model_type": "qwen2",
            "vocab_size": 900,
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_theta": 1e6,
            **TOKENS,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": 14,
            "vision_use_head": False,
        },
        image_token_index=800,
        video_token_index=801,
        vision_aspect_ratio="anyres_max_4",
        image_grid_pinpoints=[[SIDE * a, SIDE * b] for a in range(1, 4) for b in range(1, 6)],
        tie_word_embeddings=tied,
    )


@pytest.fixture(params=[False, True], ids=["head", "tied"])
def theirs(request: pytest.FixtureRequest) -> LlavaOnevisionForConditionalGeneration:
    """A model with random weights, norms and biases included."""
    torch.manual_seed(7)
    model = LlavaOnevisionForConditionalGeneration(config_of(request.param)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


@pytest.fixture
def ours(theirs: LlavaOnevisionForConditionalGeneration, tmp_path: Path) -> LlavaOneVision:
    """The same, from the folder that they write."""
    theirs.save_pretrained(tmp_path)
    for file in HF_FOLDER.iterdir():
        if file.is_file() and file.suffix != ".safetensors" and not (tmp_path / file.name).exists():
            shutil.copyfile(file, tmp_path / file.name)
    steps = json.loads((tmp_path / "preprocessor_config.json").read_text())
    steps["size"] = {"height": SIDE, "width": SIDE}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(steps))
    system = load(tmp_path, device="cpu")
    assert isinstance(system, LlavaOneVision)
    return system


def logits(system: LlavaOneVision, pieces: list[Piece]) -> Tensor:
    """Of every position: [S, V]."""
    with torch.no_grad():
        logits_SV: Tensor = system.model(inputs_embeds=joined(system, pieces)[None]).logits[0]
    return logits_SV


def ids_of(system: LlavaOneVision, pieces: list[Piece], kinds: list[str]) -> Tensor:
    """As transformers holds them."""
    return torch.tensor([expanded(pieces, kinds, system.folder.config)])


@pytest.mark.parametrize("size_hw", [(90, 70), (301, 117), (240, 430), (64, 64), (33, 200)])
@torch.no_grad()
def test_an_image(
    ours: LlavaOneVision, theirs: LlavaOnevisionForConditionalGeneration, size_hw: tuple[int, int]
) -> None:
    picture = image(*size_hw)
    config = ours.config
    crops_TCHW = image_crops(picture, config.aspect, config.pinpoints, ours.processor)
    pieces = ours.pieces("<image>\nWhat is it?", [ours.see_image(picture)])
    wanted = theirs(
        input_ids=ids_of(ours, pieces, ["image"]),
        pixel_values=crops_TCHW[None],
        image_sizes=torch.tensor([size_hw]),
        batch_num_images=torch.tensor([1]),
    ).logits[0]
    torch.testing.assert_close(logits(ours, pieces), wanted, rtol=0, atol=2e-5)


@torch.no_grad()
def test_several_images(
    ours: LlavaOneVision, theirs: LlavaOnevisionForConditionalGeneration
) -> None:
    sizes = [(90, 70), (50, 140)]
    pictures = [image(*size) for size in sizes]
    pixels = [image_crops(picture, "pad", (), ours.processor) for picture in pictures]
    seen = [ours.see_image(picture, alone=False) for picture in pictures]
    pieces = ours.pieces("<image> <image>\nWhich?", seen)
    wanted = theirs(
        input_ids=ids_of(ours, pieces, ["image", "image"]),
        pixel_values=torch.stack(pixels),
        image_sizes=torch.tensor(sizes),
        batch_num_images=torch.tensor([2]),
    ).logits[0]
    torch.testing.assert_close(logits(ours, pieces), wanted, rtol=0, atol=2e-5)


@torch.no_grad()
def test_a_video(ours: LlavaOneVision, theirs: LlavaOnevisionForConditionalGeneration) -> None:
    frames = noise(7, height=50, width=80)
    tokens = tokens_of(ours, frames)
    assert tokens.counts == (9, 9, 9, 9, 9, 9, 10)
    pieces: list[Piece] = ours.pieces("Look: <image>\nWhat?", [tokens])
    wanted = theirs(
        input_ids=ids_of(ours, pieces, ["video"]),
        pixel_values_videos=ours.processor(frames.pixels_TCHW)[None],
    ).logits[0]
    torch.testing.assert_close(logits(ours, pieces), wanted, rtol=0, atol=2e-5)
    assert isinstance(pieces[1], VisualTokens)
