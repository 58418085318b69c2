"""A trained state as a model folder in LongVA's published layout: what `longtake.load` opens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from longtake.checkpoint import save_model
from longtake.llava import KEYS
from longtake.model import LongtakeModel
from longtake.train.initial import POOL_STRIDE, TOWER, decoder_sizes, new_model
from longtake.train.loop import read_state
from longtake.train.tokenizer import build_tokenizer, single

FRAMES = 256
"""Frames sampled from a video when the caller does not say."""


def export(state: Path, target: Path) -> Path:
    """Write weights (bf16), configs and tokenizer of a saved state into a folder."""
    tokenizer = build_tokenizer()
    model = new_model(tokenizer.get_vocab_size(), 0)
    model.load_state_dict(read_state(state)["model"])
    export_model(model, tokenizer, target)
    return target


def export_model(model: LongtakeModel, tokenizer: Tokenizer, target: Path) -> None:
    """Write a model in training as a folder; the model itself becomes bf16."""
    nn.Module.to(model, torch.bfloat16)
    save_model(model, KEYS, model_fields(tokenizer), target)
    _write(target / "generation_config.json", generation_fields(tokenizer))
    tokenizer.save(str(target / "tokenizer.json"))
    _write(target / "tokenizer_config.json", TOKENIZER_FIELDS)
    _write(target / "vision_tower" / "config.json", TOWER_FIELDS)
    _write(target / "vision_tower" / "preprocessor_config.json", PIXEL_FIELDS)


def _write(file: Path, fields: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".aside")
    aside.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    shutil.move(aside, file)


def model_fields(tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json in the fields of a published LongVA."""
    sizes = decoder_sizes(tokenizer.get_vocab_size())
    return {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava_qwen",
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.mlp,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "vocab_size": sizes.vocab,
        "hidden_act": "silu",
        "rms_norm_eps": sizes.eps,
        "rope_theta": sizes.rope.theta,
        "rope_scaling": None,
        "max_position_embeddings": sizes.rope.positions,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "mm_vision_tower": "vision_tower",
        "mm_hidden_size": TOWER.hidden,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -1,
        "mm_vision_select_feature": "patch",
        "mm_patch_merge_type": "unires",
        "mm_spatial_pool_stride": POOL_STRIDE,
        "mm_spatial_pool_mode": "average",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": None,
        "longtake": {"frames": FRAMES, "still_as_frame": True},
        "bos_token_id": single(tokenizer, "<|endoftext|>"),
        "eos_token_id": single(tokenizer, "<|im_end|>"),
        "torch_dtype": "bfloat16",
    }


def generation_fields(tokenizer: Tokenizer) -> dict[str, Any]:
    """generation_config.json: greedy; a penalty would spoil a word's double letters."""
    end, text_end = single(tokenizer, "<|im_end|>"), single(tokenizer, "<|endoftext|>")
    return {
        "do_sample": False,
        "repetition_penalty": 1.0,
        "eos_token_id": [end, text_end],
        "pad_token_id": text_end,
    }


TOKENIZER_FIELDS: Mapping[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "clean_up_tokenization_spaces": False,
    "model_max_length": 32768,
}

TOWER_FIELDS: Mapping[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": TOWER.hidden,
    "intermediate_size": TOWER.mlp,
    "num_hidden_layers": TOWER.layers,
    "num_attention_heads": TOWER.heads,
    "image_size": TOWER.image,
    "patch_size": TOWER.patch,
    "hidden_act": TOWER.activation,
    "layer_norm_eps": TOWER.eps,
}

PIXEL_FIELDS: Mapping[str, Any] = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"height": TOWER.image, "width": TOWER.image},
    "resample": 3,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_convert_rgb": True,
}
