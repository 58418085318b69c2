"""Folders and weights: recognised by fields, loaded strictly, saved under the published names."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from longtake.api import load
from longtake.checkpoint import Names, check_names, save_model, weight_shapes
from longtake.errors import CheckpointError, OptionError
from longtake.folder import find
from longtake.llava import KEYS, TOWER, LlavaConfig
from longtake.model import LongtakeConfig, LongtakeModel
from longtake.parts.clip import CLIP_L_336
from tests.tiny import CHECKPOINT, tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may damage."""
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "model", copy_function=shutil.copyfile))


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "DROP"}))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Rewrite all weights as one file after `change`."""
    weights: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        weights |= load_file(file)
        file.unlink()
    (folder / "model.safetensors.index.json").unlink()
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_weights_are_bit_equal_to_the_files() -> None:
    published = {k: v for f in CHECKPOINT.glob("*.safetensors") for k, v in load_file(f).items()}
    loaded = tiny().model.state_dict()
    names = dict(KEYS)
    checked = 0
    for name, weight in published.items():
        prefix = next((p for p, _ in KEYS if name.startswith(p)), "")
        own = names.get(prefix, "") + name.removeprefix(prefix)
        if own in loaded:
            assert torch.equal(loaded[own], weight), name
            checked += 1
    # all but the tower's last block (16 tensors) and its closing norm (2)
    assert checked == len(loaded) == len(published) - 18


def test_the_checkpoints_own_tower_counts(folder: Path) -> None:
    """Not the stand-alone tower beside it, whose weights differ on purpose."""
    alone = load_file(CHECKPOINT / "vision_tower" / "model.safetensors")
    used = tiny().model.tower.state_dict()["embeddings.class_embedding"]
    name = next(name for name in alone if name.endswith("class_embedding"))
    assert not torch.equal(used.float(), alone[name].float())

    change_weights(folder, lambda w: [w.pop(k) for k in list(w) if k.startswith(TOWER)])
    filled = load(folder, device="cpu").model.tower.state_dict()["embeddings.class_embedding"]
    torch.testing.assert_close(filled, alone[name].to(filled.dtype), rtol=0, atol=0)


def test_saving_writes_the_published_names(tmp_path: Path) -> None:
    config = json.loads((CHECKPOINT / "config.json").read_text())
    save_model(tiny().model, KEYS, config, tmp_path / "saved")
    before, after = weight_shapes(CHECKPOINT), weight_shapes(tmp_path / "saved")
    assert after.items() <= before.items()
    assert json.loads((tmp_path / "saved" / "config.json").read_text()) == config
    weights = load_file(tmp_path / "saved" / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    torch.testing.assert_close(weights[name], tiny().model.decoder.layers[1].mlp.up_proj.weight)


def test_published_7b_names_and_shapes() -> None:
    """The 734 tensors of LongVA-7B (specification, section 1.2), on the meta device."""
    config = {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "rope_theta": 1e9,
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "unires",
        "mm_vision_select_layer": -2,
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": [[336, 672]],
    }
    read = LlavaConfig.from_published(config, CLIP_L_336)
    with torch.device("meta"):
        model = LongtakeModel(LongtakeConfig.of(read.decoder, read.tied), read.blueprint())
    published, names = seven_b(), Names(keys=KEYS, ignored=read.ignored())
    assert len(published) == 734
    assert sum(torch.Size(shape).numel() for shape in published.values()) == 7_935_646_208
    check_names(published, model, names)
    published["model.layers.0.self_attn.o_proj.bias"] = (3584,)
    with pytest.raises(CheckpointError, match="1 unexpected"):
        check_names(published, model, names)


def seven_b() -> dict[str, tuple[int, ...]]:
    """Published names and shapes, written out from the specification."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (152064, 3584),
        "model.norm.weight": (3584,),
        "lm_head.weight": (152064, 3584),
        "model.mm_projector.0.weight": (3584, 1024),
        "model.mm_projector.0.bias": (3584,),
        "model.mm_projector.2.weight": (3584, 3584),
        "model.mm_projector.2.bias": (3584,),
        TOWER + "embeddings.class_embedding": (1024,),
        TOWER + "embeddings.patch_embedding.weight": (1024, 3, 14, 14),
        TOWER + "embeddings.position_embedding.weight": (577, 1024),
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{TOWER}{norm}.weight": (1024,), f"{TOWER}{norm}.bias": (1024,)}
    for n in range(28):
        for name, out in (("q_proj", 3584), ("k_proj", 512), ("v_proj", 512)):
            shapes[f"model.layers.{n}.self_attn.{name}.weight"] = (out, 3584)
            shapes[f"model.layers.{n}.self_attn.{name}.bias"] = (out,)
        shapes[f"model.layers.{n}.self_attn.o_proj.weight"] = (3584, 3584)
        shapes[f"model.layers.{n}.mlp.gate_proj.weight"] = (18944, 3584)
        shapes[f"model.layers.{n}.mlp.up_proj.weight"] = (18944, 3584)
        shapes[f"model.layers.{n}.mlp.down_proj.weight"] = (3584, 18944)
        shapes[f"model.layers.{n}.input_layernorm.weight"] = (3584,)
        shapes[f"model.layers.{n}.post_attention_layernorm.weight"] = (3584,)
    sizes = {"fc1": (4096, 1024), "fc2": (1024, 4096)}
    for n in range(24):
        at = f"{TOWER}encoder.layers.{n}."
        for name in ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj"):
            shapes |= {f"{at}{name}.weight": (1024, 1024), f"{at}{name}.bias": (1024,)}
        shapes |= {f"{at}self_attn.out_proj.weight": (1024, 1024)}
        shapes |= {f"{at}self_attn.out_proj.bias": (1024,)}
        for name, shape in sizes.items():
            shapes |= {f"{at}mlp.{name}.weight": shape, f"{at}mlp.{name}.bias": shape[:1]}
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{at}{name}.weight": (1024,), f"{at}{name}.bias": (1024,)}
    return shapes


def refuse(folder: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as raised:
        load(folder, device="cpu")
    assert "\n" not in str(raised.value)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    change_weights(folder, lambda w: [w.pop("model.layers.2.mlp.up_proj.weight")])
    refuse(folder, r"1 missing \(decoder.layers.2.mlp.up_proj.weight\)")


def test_a_wrong_shape_is_named(folder: Path) -> None:
    change_weights(folder, lambda w: w.update({"model.norm.weight": torch.ones(65)}))
    refuse(folder, r"1 of another shape \(decoder.norm.weight\)")


def test_an_unknown_tensor_is_named(folder: Path) -> None:
    change_weights(folder, lambda w: w.update({"model.image_newline": torch.ones(64)}))
    refuse(folder, r"1 unexpected \(decoder.image_newline\)")


def test_damaged_folders(folder: Path) -> None:
    shard = sorted(folder.glob("model-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-1000])
    refuse(folder, "not a whole safetensors file")
    shard.unlink()
    refuse(folder, "lacks model-00001")
    (folder / "config.json").write_text("{")
    refuse(folder, "cannot be read as JSON")
    (folder / "config.json").unlink()
    refuse(folder, "holds no config.json")


def test_two_sets_of_weights_are_refused(folder: Path) -> None:
    """The loader underneath would take the one that was not checked."""
    save_file({"x": torch.ones(1)}, folder / "model.safetensors")
    refuse(folder, "remove the stale one")


def test_saving_removes_what_is_stale(folder: Path) -> None:
    save_model(tiny().model, KEYS, json.loads((folder / "config.json").read_text()), folder)
    assert [file.name for file in folder.glob("model*")] == ["model.safetensors"]
    assert load(folder, device="cpu").ask(None, "Hello?").ids


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", 3, None])
def test_an_index_names_only_files_beside_it(folder: Path, name: object) -> None:
    index = {"weight_map": {"lm_head.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refuse(folder, "expected files of its own folder")


def test_a_whole_clip_is_a_tower_too(folder: Path) -> None:
    change_weights(folder, lambda w: [w.pop(k) for k in list(w) if k.startswith(TOWER)])
    file = folder / "vision_tower" / "model.safetensors"
    whole = load_file(file) | {"logit_scale": torch.ones(1), "text_model.x": torch.ones(1)}
    save_file(whole, file)
    assert load(folder, device="cpu").model.tower
    file.write_bytes(file.read_bytes()[:-100])
    refuse(folder, "not a whole safetensors file")


def test_a_tower_that_is_nowhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    change_weights(folder, lambda w: [w.pop(k) for k in list(w) if k.startswith(TOWER)])
    shutil.rmtree(folder / "vision_tower")
    change_config(folder, mm_vision_tower=str(folder / "nowhere"))
    refuse(folder, "does not exist")


@pytest.mark.parametrize(
    "wrong", [{"repetition_penalty": "much"}, {"top_k": 2.5}, {"top_p": -1}, {"temperature": []}]
)
def test_a_broken_generation_config(folder: Path, wrong: dict[str, Any]) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 902} | wrong))
    refuse(folder, next(iter(wrong)))


def test_pickles_are_not_opened(folder: Path) -> None:
    for file in folder.glob("model*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    refuse(folder, "only safetensors are read")


def test_a_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("[]")
    refuse(folder, "tokenizer")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"mm_patch_merge_type": "spatial"}, "no system recognises"),
        ({"mm_patch_merge_type": "spatial_unpad"}, "'clip_vision_model', expected 'siglip"),
        ({"beacon_window": 1440}, "no system recognises"),
        ({"mm_spatial_pool_mode": "median"}, "mm_spatial_pool_mode is 'median'"),
        ({"mm_projector_type": "qformer"}, "mm_projector_type 'qformer'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope scaling 'dynamic'"),
        ({"rope_scaling": {"type": "yarn", "factor": 0.5}}, "factor is 0.5"),
        ({"num_hidden_layers": 5}, "missing"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window True"),
        ({"rope_theta": -5}, "rope_theta is -5"),
        ({"rope_theta": "abc"}, "rope_theta is 'abc'"),
        ({"rope_scaling": [1]}, "rope_scaling"),
        ({"mm_projector_type": 5}, "mm_projector_type is 5"),
        ({"longtake": [1]}, "longtake is"),
        ({"image_aspect_ratio": 5}, "image_aspect_ratio is 5"),
        ({"tokenizer_model_max_length": "32768"}, "tokenizer_model_max_length"),
        ({"mm_vision_select_layer": "x"}, "mm_vision_select_layer"),
        ({"hidden_size": "DROP"}, "hidden_size"),
    ],
)
def test_configs_that_mean_something_else(folder: Path, fields: dict[str, Any], match: str) -> None:
    change_config(folder, **fields)
    refuse(folder, match)


def test_names_of_models_and_options(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        find(str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        find(str(tmp_path / "file"))
    with pytest.raises(OptionError, match="dtype 'int7' is unknown"):
        load(CHECKPOINT, dtype="int7")
    with pytest.raises(OptionError, match="device"):
        load(CHECKPOINT, device="warp")
    with pytest.raises(OptionError, match="system 'x' is unknown"):
        load(CHECKPOINT, system="x")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "auto"])
def test_dtype_of_the_weights_does_not_change_cpu_results(dtype: str) -> None:
    system = load(CHECKPOINT, device="cpu", dtype=dtype)
    wanted = torch.float32 if dtype == "float32" else torch.bfloat16
    assert system.model.dtype == wanted
    ours = system.ask(None, "Hello?", system.options(max_new_tokens=6))
    assert ours.ids == tiny().ask(None, "Hello?", tiny().options(max_new_tokens=6)).ids
