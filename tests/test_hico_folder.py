"""Folders of VideoChat-Flash: published names and shapes, what is refused, saving them back.

The shapes of the published files are those of the golden cases' `published_keys.json`; nothing of
their size is allocated.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.api import load
from longtake.checkpoint import (
    Names,
    check_names,
    published_state,
    save_model,
    weight_shapes,
)
from longtake.errors import CheckpointError, OptionError
from longtake.hico import TOWER, HicoConfig
from longtake.model import LongtakeConfig, LongtakeModel
from longtake.parts.dropping import Schedule
from longtake.parts.internvideo2 import InternVideo2Config
from longtake.parts.umt import UMTConfig
from longtake.system import System
from longtake.systems import SYSTEMS, longva, video_xl, videochat_flash
from longtake.systems.videochat_flash import VideoChatFlash

GOLDEN = Path(__file__).parent / "parity" / "golden" / "videochat_flash"
CHECKPOINTS = ("ckpt-umt224", "ckpt-umt448hd", "ckpt-iv2")
Shapes = dict[str, tuple[int, ...]]

# -- published layouts ----------------------------------------------------------------------------

COMMON = {
    "architectures": ["VideoChatFlashQwenForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "frame_aspect_ratio": "square",
    "frame_grid_pinpoints": None,
    "hidden_act": "silu",
    "image_aspect_ratio": "anyres_nopad",
    "image_crop_resolution": None,
    "image_split_resolution": None,
    "initializer_range": 0.02,
    "max_num_pixels": 14745600000,
    "max_window_layers": 28,
    "min_slow_num_frames": 4,
    "mm_close_init": False,
    "mm_llm_compress": False,
    "mm_local_num_frames": 4,
    "mm_newline_position": "nothing",
    "mm_num_compress_latents": 128,
    "mm_num_compress_query_type": "learnable",
    "mm_patch_merge_type": "spatial_nopad",
    "mm_pos_num_frames": 8,
    "mm_projector_lr": None,
    "mm_projector_type": "tome16_mlp_hd64",
    "mm_resampler_type": None,
    "mm_spatial_pool_mode": "bilinear",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower_lr": 2e-06,
    "num_hidden_layers": 28,
    "pos_skipping_range": 4096,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "tokenizer_model_max_length": 32768,
    "tokenizer_padding_side": "right",
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_mm_proj": True,
    "use_pos_skipping": False,
    "use_sliding_window": False,
    "vision_encode_type": "video_image",
    "vision_tower_pretrained": None,
}
"""Fields of every published config.json (specification, section 1.1)."""

SEVEN = {"hidden_size": 3584, "intermediate_size": 18944, "vocab_size": 152064}
SEVEN |= {"num_attention_heads": 28, "num_key_value_heads": 4}
TWO = {"hidden_size": 1536, "intermediate_size": 8960, "vocab_size": 151936}
TWO |= {"num_attention_heads": 12, "num_key_value_heads": 2}
QWEN = {"rope_theta": 1e6, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768}
MILLION = {"rope_theta": 1e7, "rms_norm_eps": 1e-5, "max_position_embeddings": 1010000}
MILLION |= {
    "dual_chunk_attention_config": {
        "chunk_size": 262144,
        "local_size": 8192,
        "original_max_position_embeddings": 262144,
    },
    "sliding_window": 32768,
}
LAST = {"llm_compress_layer_list": [24], "llm_image_token_ratio_list": [1.0, 0.5]}
THREE = {"llm_compress_layer_list": [8, 16, 24]}
THREE |= {"llm_image_token_ratio_list": [1.0, 0.5, 0.25, 0.125], "llm_compress_type": "attention"}
UMT_HD = {"mm_vision_tower": "umt-hd-large", "mm_hidden_size": 1024}
UMT = {"mm_vision_tower": "umt-large", "mm_hidden_size": 1024}
IV2 = {"mm_vision_tower": "internvideo2", "mm_hidden_size": 1408}

LAYOUTS: dict[str, tuple[dict[str, Any], str, int]] = {
    "Qwen2-7B_res448": (SEVEN | QWEN | UMT_HD | LAST, "Qwen2-7B_res448", 7_922_617_856),
    "Qwen2-7B_res224": (SEVEN | QWEN | UMT | LAST, "Qwen2-7B_res448", 7_922_617_856),
    "Qwen2_5-7B-1M_res224": (SEVEN | MILLION | UMT | THREE, "Qwen2-7B_res448", 7_922_617_856),
    "Qwen2_5-2B_res448": (TWO | QWEN | UMT_HD | LAST, "Qwen2_5-2B_res448", 2_071_502_336),
    "Qwen2_5-7B_InternVideo2-1B": (
        SEVEN | QWEN | IV2 | THREE,
        "Qwen2_5-7B_InternVideo2-1B",
        8_620_852_736,
    ),
}
"""Of each published model: fields of its own, the list its keys are in, its parameters."""


def published_config(name: str, model_type: str = "videochat_flash_qwen") -> dict[str, Any]:
    """A config.json as published."""
    own = LAYOUTS[name][0]
    side = 448 if own["mm_vision_tower"] == "umt-hd-large" else 224
    grids = [[side * i, side * j] for i in range(1, 7) for j in range(1, 7)]
    return COMMON | own | {"image_grid_pinpoints": grids, "model_type": model_type}


@cache
def key_lists() -> dict[str, Any]:
    """The lists as stored."""
    lists: dict[str, Any] = json.loads((GOLDEN / "published_keys.json").read_text())
    return lists


def published_shapes(name: str, scale: str = "weight") -> Shapes:
    """Names and shapes of a published model; LayerScale spelled `weight` or `gamma`."""
    listed = next(keys for n, keys in key_lists().items() if n.startswith(LAYOUTS[name][1]))
    shapes: Shapes = {}
    for key, entry in listed.items():
        first, last = map(int, entry.get("i", "0..0").split(".."))
        for i in range(first, last + 1):
            shapes[key.replace("{i}", str(i))] = tuple(entry["shape"])
    return {re.sub(r"(\.ls[12]\.)weight$", rf"\1{scale}", n): s for n, s in shapes.items()}


@cache
def skeleton(name: str) -> tuple[HicoConfig, LongtakeModel]:
    """What is read off a published folder, and the model without its numbers."""
    read = HicoConfig.from_published(published_config(name), published_shapes(name))
    with torch.device("meta"):
        return read, LongtakeModel(LongtakeConfig.of(read.decoder, read.tied), read.blueprint())


@pytest.mark.parametrize("scale", ["weight", "gamma"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_published_names_and_shapes_fit(name: str, scale: str) -> None:
    shapes = published_shapes(name, scale)
    assert sum(map(math.prod, shapes.values())) == LAYOUTS[name][2]
    read, model = skeleton(name)
    assert sum(weight.numel() for weight in model.parameters()) == LAYOUTS[name][2]
    names = Names(keys=read.keys(shapes))
    check_names(shapes, model, names)  # nothing missing, nothing left over
    assert names.found(shapes) == names.needed(model)
    assert published_state(model, read.keys(shapes)).keys() == shapes.keys()


@pytest.mark.parametrize("model_type", ["qwen2", "videochat_flash_qwen"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_sizes_are_read_off_config_and_shapes(name: str, model_type: str) -> None:
    config = published_config(name, model_type)
    read = HicoConfig.from_published(config, published_shapes(name, "gamma"))
    assert read == skeleton(name)[0]
    if config["mm_vision_tower"] == "internvideo2":
        tower: Any = InternVideo2Config(hidden=1408, layers=39, heads=16, mlp=6144)
        assert (tower.image, tower.patch) == (224, 14)
    else:
        side = {"umt-large": 224, "umt-hd-large": 448}[config["mm_vision_tower"]]
        tower = UMTConfig(hidden=1024, layers=23, heads=16, mlp=4096, image=side)
    assert read.tower == tower
    assert (read.tied, read.window, len(read.pinpoints)) == (False, 32768, 36)
    assert read.decoder.rope.theta == config["rope_theta"]
    assert read.decoder.eps == config["rms_norm_eps"]
    layers, ratios = config["llm_compress_layer_list"], config["llm_image_token_ratio_list"]
    assert read.drop is None
    assert read.stated == Schedule(kind="attention", layers=tuple(layers), ratios=tuple(ratios))


@pytest.mark.parametrize("name", LAYOUTS)
def test_one_name_or_shape_that_differs_is_told(name: str) -> None:
    read, model = skeleton(name)
    shapes = published_shapes(name)
    names = Names(keys=read.keys(shapes))
    own = names.found(dict.fromkeys(shapes, 0)).keys()
    for key, told in list(zip(shapes, own, strict=True))[:: len(shapes) // 12]:
        without = {n: shape for n, shape in shapes.items() if n != key}
        with pytest.raises(CheckpointError, match=re.escape(f"1 missing ({told})")):
            check_names(without, model, names)
        wrong = shapes | {key: (*shapes[key], 1)}
        with pytest.raises(CheckpointError, match=re.escape(f"1 of another shape ({told})")):
            check_names(wrong, model, names)
        with pytest.raises(CheckpointError, match=r"^[^\n]*1 unexpected \([^\n]*\)$"):
            check_names(shapes | {f"{key}.more": (1,)}, model, names)


def test_a_block_that_the_original_does_not_build_is_left_over() -> None:
    """Only blocks up to the one that is looked at are published; sizes are read off all others."""
    shapes = published_shapes("Qwen2-7B_res448")
    last = {n: s for n, s in shapes.items() if ".blocks.22." in n}
    shapes |= {name.replace(".22.", ".23."): shape for name, shape in last.items()}
    read = HicoConfig.from_published(published_config("Qwen2-7B_res448"), shapes)
    assert read.tower.layers == 24  # nothing tells it from a deeper tower
    gap = {name: shape for name, shape in shapes.items() if ".blocks.20." not in name}
    with pytest.raises(CheckpointError, match="without a gap, found 0, 1, "):
        HicoConfig.from_published(published_config("Qwen2-7B_res448"), gap)


# -- who recognises them --------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["qwen2", "videochat_flash_qwen"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_exactly_one_system_recognises_them(name: str, model_type: str) -> None:
    config = published_config(name, model_type)
    assert [n for n, one in SYSTEMS.items() if one.recognises(config)] == ["videochat_flash"]


def test_other_systems_folders_are_not_taken() -> None:
    golden = GOLDEN.parent
    found = {}
    for path in sorted(golden.rglob("config.json")):
        config = json.loads(path.read_text())
        claims = [n for n, one in SYSTEMS.items() if one.recognises(config)]
        found[str(path.parent.relative_to(golden))] = claims
    ours = {f"videochat_flash/{name}" for name in CHECKPOINTS}
    assert {name for name, claims in found.items() if claims == ["videochat_flash"]} == ours
    assert all("videochat_flash" not in c for n, c in found.items() if n not in ours)
    assert not longva.recognises(published_config("Qwen2-7B_res448"))
    assert not video_xl.recognises(published_config("Qwen2-7B_res448"))
    for field in ("mm_projector_type", "mm_vision_tower"):
        config = published_config("Qwen2-7B_res448")
        del config[field]
        assert not videochat_flash.recognises(config)


# -- tiny folders ---------------------------------------------------------------------------------


def copied(name: str, target: Path) -> Path:
    """A folder that a test may damage."""
    shutil.copytree(GOLDEN / name, target, copy_function=shutil.copyfile)
    return target


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The two-shard UMT."""
    return copied("ckpt-umt224", tmp_path / "model")


def stored_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a folder."""
    return {k: v for file in sorted(path.glob("*.safetensors")) for k, v in load_file(file).items()}


def change_weights(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Rewrite all weights as one file after `change`."""
    weights = stored_weights(path)
    for file in (*path.glob("*.safetensors"), *path.glob("*.index.json")):
        file.unlink()
    change(weights)
    save_file(weights, path / "model.safetensors")


def change_config(path: Path, **fields: Any) -> None:
    """Rewrite config.json; "DROP" takes a field out."""
    config = json.loads((path / "config.json").read_text()) | fields
    kept = {key: value for key, value in config.items() if value != "DROP"}
    (path / "config.json").write_text(json.dumps(kept))


def opened(path: Path, dtype: str = "auto") -> VideoChatFlash:
    """Through the public door."""
    system: System = load(path, device="cpu", dtype=dtype)
    assert isinstance(system, VideoChatFlash)
    return system


def refuse(path: Path, match: str) -> None:
    """In one line."""
    with pytest.raises(CheckpointError, match=match) as raised:
        load(path, device="cpu")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 800  # who is looked for, of all systems


def same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    """Bit by bit, names included."""
    return ours.keys() == theirs.keys() and all(
        theirs[name].dtype == weight.dtype and torch.equal(theirs[name], weight)
        for name, weight in ours.items()
    )


def to_gamma(weights: dict[str, Tensor]) -> None:
    """Spell LayerScale as the published InternVideo2 checkpoint is said to."""
    for name in [n for n in weights if re.search(r"\.ls[12]\.weight$", n)]:
        weights[name.removesuffix("weight") + "gamma"] = weights.pop(name)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_weights_go_back_under_the_names_they_had(name: str, tmp_path: Path) -> None:
    source = GOLDEN / name
    system, shapes = opened(source), weight_shapes(source)
    keys = system.config.keys(shapes)
    assert same(published_state(system.model, keys), stored_weights(source))
    config = json.loads((source / "config.json").read_text())
    save_model(system.model, keys, config, tmp_path / "saved")
    assert same(stored_weights(tmp_path / "saved"), stored_weights(source))
    assert json.loads((tmp_path / "saved" / "config.json").read_text()) == config
    assert weight_shapes(tmp_path / "saved") == shapes


def test_gamma_is_read_and_kept(tmp_path: Path) -> None:
    """The same features, and the same spelling when it is saved."""
    path = copied("ckpt-iv2", tmp_path / "gamma")
    change_weights(path, to_gamma)
    renamed, plain = opened(path, "float32"), opened(GOLDEN / "ckpt-iv2", "float32")
    spelled = stored_weights(path)
    assert sum(name.endswith(("ls1.gamma", "ls2.gamma")) for name in spelled) == 6
    assert not any(name.endswith((".ls1.weight", ".ls2.weight")) for name in spelled)
    generator = torch.Generator().manual_seed(0)
    pixels_BFCHW = torch.randn(1, 4, 3, 224, 224, generator=generator)
    assert torch.equal(renamed.encode(pixels_BFCHW), plain.encode(pixels_BFCHW))
    # these scales are not the ones a fresh tower has
    assert not torch.equal(plain.model.tower.blocks[0].ls1.weight, torch.ones(176))
    keys = renamed.config.keys(weight_shapes(path))
    save_model(opened(path).model, keys, {}, tmp_path / "saved")
    assert same(stored_weights(tmp_path / "saved"), spelled)


def test_both_spellings_of_one_scale_are_refused(tmp_path: Path) -> None:
    path = copied("ckpt-iv2", tmp_path / "both")

    def twice(weights: dict[str, Tensor]) -> None:
        name = f"{TOWER}blocks.1.ls1.weight"
        weights[name.replace("weight", "gamma")] = weights[name].clone() * 2

    change_weights(path, twice)
    refuse(path, r"two weights stand for tower.blocks.1.ls1.weight")


def test_shards_and_one_file_are_one(folder: Path, tmp_path: Path) -> None:
    assert len(list(folder.glob("model-*.safetensors"))) == 2
    sharded = opened(folder)
    change_weights(folder, lambda weights: None)
    assert [file.name for file in folder.glob("model*")] == ["model.safetensors"]
    assert same(opened(folder).model.state_dict(), sharded.model.state_dict())
    other = copied("ckpt-iv2", tmp_path / "iv2")
    before = opened(other).model.state_dict()
    weights = stored_weights(other)
    (other / "model.safetensors").unlink()
    save_torch_state_dict(weights, other, max_shard_size="1MB")
    assert len(list(other.glob("model-*.safetensors"))) > 3
    assert same(opened(other).model.state_dict(), before)


def test_model_types_load_alike(folder: Path) -> None:
    plain = opened(folder).model.state_dict()
    change_config(folder, model_type="qwen2")
    assert same(opened(folder).model.state_dict(), plain)
    change_config(folder, model_type="DROP", architectures="DROP", auto_map="DROP")
    assert same(opened(folder).model.state_dict(), plain)


def test_a_tower_of_its_own_is_refused(folder: Path) -> None:
    with pytest.raises(OptionError, match=r"tower of a VideoChat-Flash checkpoint is in it"):
        load(folder, device="cpu", vision_tower=folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda w: w.pop("model.norm.weight"), r"1 missing \(decoder.norm.weight\)"),
        (lambda w: w.pop(f"{TOWER}encoder.blocks.1.attn.q_bias"), r"1 missing \(tower.blocks.1"),
        (lambda w: w.update({"model.image_newline": torch.ones(8)}), r"1 unexpected \(decoder.im"),
        (lambda w: w.update({f"{TOWER}head.weight": torch.ones(8)}), "1 unexpected"),
        (lambda w: w.update({"model.norm.weight": torch.ones(9)}), r"1 of another shape \(decoder"),
        (
            lambda w: w.update({"model.mm_projector.mlp.0.weight": torch.ones(128, 64)}),
            r"1 of another shape \(projector.0.weight\)",
        ),
        (lambda w: w.pop(f"{TOWER}encoder.patch_embed.proj.weight"), "patch_embed.* is missing"),
        (
            lambda w: w.update({f"{TOWER}encoder.patch_embed.proj.weight": torch.ones(())}),
            r"patch_embed.* has the shape \[\]",
        ),
        (
            lambda w: [w.pop(n) for n in list(w) if ".blocks.1." in n],
            "without a gap, found 0, 2",
        ),
        (lambda w: [w.pop(n) for n in list(w) if n.startswith(TOWER)], "found none"),
    ],
)
def test_weights_that_do_not_fit(
    folder: Path, change: Callable[[dict[str, Tensor]], object], match: str
) -> None:
    change_weights(folder, change)
    refuse(folder, match)


LISTS = {"llm_compress_layer_list": [2, 5], "llm_image_token_ratio_list": [1.0, 0.5, 0.25]}


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"mm_vision_tower": "siglip-so400m"}, "mm_vision_tower is 'siglip-so400m', expected one"),
        ({"mm_vision_tower": 7}, "mm_vision_tower is 7, expected a text"),
        ({"mm_vision_tower": "internvideo2"}, "found none"),
        ({"mm_vision_tower": "umt-hd-large"}, "no grid of 448x448 squares"),
        ({"mm_local_num_frames": 8}, "mm_local_num_frames is 8, expected 4"),
        ({"mm_hidden_size": 1024}, "mm_hidden_size is 1024, the tower's weights are 128 wide"),
        ({"mm_hidden_size": "128"}, "mm_hidden_size is '128'"),
        ({"mm_vision_select_layer": -1}, "mm_vision_select_layer is -1, expected -2"),
        ({"mm_newline_position": "grid"}, "mm_newline_position is 'grid', expected 'nothing'"),
        ({"mm_patch_merge_type": "spatial_unpad"}, "mm_patch_merge_type is 'spatial_unpad'"),
        ({"image_aspect_ratio": "anyres_max_9"}, "image_aspect_ratio is 'anyres_max_9'"),
        ({"image_grid_pinpoints": [[336, 672]]}, "no grid of 224x224 squares"),
        ({"mm_projector_type": "tome16_linear"}, "no system recognises"),
        ({"num_hidden_layers": 7}, "12 unexpected"),
        ({"hidden_size": "DROP"}, "hidden_size"),
        ({"mm_llm_compress": True}, "on, but drop after layer 24 leaves none of the model's 8"),
        (
            {"mm_llm_compress": True} | LISTS | {"llm_image_token_ratio_list": [1.0, 0.5]},
            "on, but drop needs 3 ratios for 2 layers",
        ),
        (
            {"mm_llm_compress": True} | LISTS | {"llm_compress_layer_list": [5, 2]},
            r"on, but drop layers must be whole numbers from 1 that rise, got \[5, 2\]",
        ),
        (
            {"mm_llm_compress": True} | LISTS | {"llm_image_token_ratio_list": [1, 0.2, 0.5]},
            "on, but drop ratios must start at 1, never rise",
        ),
        (
            {"mm_llm_compress": True} | LISTS | {"llm_image_token_ratio_list": [1, math.nan, 0.5]},
            "on, but drop ratios must start at 1, never rise",
        ),
        (
            {"mm_llm_compress": True} | LISTS | {"llm_compress_type": "median"},
            "on, but drop kind 'median' is unknown",
        ),
        *(
            (
                {"mm_llm_compress": True} | LISTS | {field: wrong},
                "on, but (.* must be lists of num|drop ratios must be num)",
            )
            for field in LISTS
            for wrong in (24, None, [None, "x", 1])
        ),
    ],
)
def test_configs_that_do_not_fit(folder: Path, fields: dict[str, Any], match: str) -> None:
    change_config(folder, **fields)
    refuse(folder, match)


def test_a_compression_that_is_on_is_the_default(folder: Path) -> None:
    stated = Schedule(kind="attention", layers=(2, 5), ratios=(1.0, 0.5, 0.25))
    change_config(folder, **LISTS)
    off = opened(folder)
    assert off.drop is None
    assert off.config.stated == stated
    assert off.variant(drop="config").drop == stated
    change_config(folder, mm_llm_compress=True)
    on = opened(folder)
    assert on.drop == stated
    assert on.variant(drop="off").drop is None
    assert on.variant(kv="int8").drop == stated
    assert on.fingerprint not in (off.fingerprint, on.variant(drop="off").fingerprint)
    change_config(folder, llm_compress_type="uniform0_attention")
    assert opened(folder).variant().drop.kind == "uniform0_attention"  # type: ignore[union-attr]


def test_a_compression_that_is_off_and_fits_no_model_is_not_stated() -> None:
    """As in every tiny checkpoint, whose published fields name layers they do not have."""
    system = opened(GOLDEN / "ckpt-iv2")
    assert (system.drop, system.config.stated) == (None, None)
    with pytest.raises(OptionError, match=r"states no drop that fits this model"):
        system.variant(drop="config")


def test_settings_of_the_published_folder_are_read(folder: Path) -> None:
    system = opened(folder)
    assert system.options().repetition_penalty == 1.05
    assert system.options().temperature == 0.0
    assert system.window == 32768
    assert system.frames == 512
    assert system.end_ids == {706, 708}
    assert system.model.dtype == torch.bfloat16
    change_config(folder, tokenizer_model_max_length=100)
    small = opened(folder)
    assert "more than the 100 this checkpoint" in small.beyond_training(101)[0]
