"""Folders of LLaVA-OneVision: both layouts, three sets of names, what is refused, saving back."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.api import DEFAULT, load
from longtake.checkpoint import Names, check_names, save_model, weight_shapes
from longtake.errors import CheckpointError, OptionError
from longtake.folder import Folder, find_tower, read_folder
from longtake.model import LongtakeConfig, LongtakeModel
from longtake.onevision import LMMS, OneVisionConfig, read_layout
from longtake.parts.siglip import SIGLIP_SO400M_384, SO400M
from longtake.systems import SYSTEMS
from longtake.systems.llava_onevision import LlavaOneVision
from longtake.video.pixels import ClipProcessor

GOLDEN = Path(__file__).parent / "parity" / "golden"
ONEVISION = GOLDEN / "llava_onevision"
LMMS_FOLDER, HF_FOLDER = (ONEVISION / f"checkpoint-small7-{layout}" for layout in ("lmms", "hf"))
Shapes = dict[str, tuple[int, ...]]
Weights = dict[str, Tensor]


@pytest.fixture
def lmms(tmp_path: Path) -> Path:
    """A copy of the authors' layout that a test may change."""
    return Path(shutil.copytree(LMMS_FOLDER, tmp_path / "lmms", copy_function=shutil.copyfile))


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    """A copy of the layout of transformers that a test may change."""
    return Path(shutil.copytree(HF_FOLDER, tmp_path / "hf", copy_function=shutil.copyfile))


def change_config(folder: Path, **fields: Any) -> None:
    """Fields of config.json, "DROP" for none; a dict changes fields of what is nested there."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name, value in fields.items():
        nested = isinstance(value, dict)
        config[name] = (config.get(name) or {}) | value if nested else value
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "DROP"}))


def change_weights(folder: Path, change: Callable[[Weights], Weights]) -> None:
    """Rewrite the weights."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file)


def opened(folder: Path) -> LlavaOneVision:
    """A folder on the CPU."""
    system = load(folder, device="cpu")
    assert isinstance(system, LlavaOneVision)
    return system


def says(system: LlavaOneVision) -> tuple[int, ...]:
    """What it answers to a picture and a question."""
    generator = torch.Generator().manual_seed(3)
    image = torch.randint(0, 256, (3, 70, 90), dtype=torch.uint8, generator=generator)
    prompt = system.template.prompt("<image>\nWhat is it?")
    options = system.options(max_new_tokens=8, repetition_penalty=1.0)
    return system.complete(prompt, [system.see_image(image)], options).ids


def refuse(folder: Path, match: str) -> None:
    """In one line."""
    with pytest.raises(CheckpointError, match=match) as raised:
        load(folder, device="cpu")
    assert "\n" not in str(raised.value)


# -- which system ---------------------------------------------------------------------------------


def folders() -> list[Path]:
    """Every model folder of the golden cases, and the bundled one."""
    found = [path.parent for path in GOLDEN.glob("*/*/config.json")]
    assert len(found) >= 9
    return sorted([*found, DEFAULT])


@pytest.mark.parametrize("folder", folders(), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_exactly_one_system_claims_a_folder(folder: Path) -> None:
    config = read_folder(folder).config
    claims = [name for name, module in SYSTEMS.items() if module.recognises(config)]
    parent = "longva" if folder == DEFAULT else folder.parent.name
    assert claims == [parent]


# -- published layouts ----------------------------------------------------------------------------

SEVEN_B: dict[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}
HALF_B = SEVEN_B | {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
PINPOINTS = [[384 * a, 384 * b] for a in range(1, 7) for b in range(1, 7)]


def published_lmms(words: Mapping[str, Any]) -> dict[str, Any]:
    """As lmms-lab/llava-onevision-qwen2-7b-ov has it (specification, section 5.1)."""
    return {
        **words,
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava",
        "hidden_act": "silu",
        "image_aspect_ratio": "anyres_max_9",
        "image_crop_resolution": None,
        "image_grid_pinpoints": PINPOINTS,
        "image_split_resolution": None,
        "image_token_index": 151646,
        "mm_hidden_size": 1152,
        "mm_patch_merge_type": "spatial_unpad",
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None,
        "mm_spatial_pool_mode": "bilinear",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": SO400M,
        "rope_scaling": None,
        "sliding_window": 131072,
        "tokenizer_model_max_length": 32768,
        "use_pos_skipping": False,
        "use_sliding_window": False,
    }


def published_hf(words: Mapping[str, Any], vocab: int) -> dict[str, Any]:
    """As llava-hf/llava-onevision-qwen2-7b-ov-hf has it (section 5.2)."""
    tower = SIGLIP_SO400M_384 | {"num_hidden_layers": 26, "vision_use_head": False}
    return {
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "model_type": "llava_onevision",
        "image_grid_pinpoints": PINPOINTS,
        "image_token_index": 151646,
        "projector_hidden_act": "gelu",
        "text_config": {**words, "model_type": "qwen2", "vocab_size": vocab},
        "tie_word_embeddings": words["tie_word_embeddings"],
        "use_image_newline_parameter": True,
        "video_token_index": 151647,
        "vision_aspect_ratio": "anyres_max_9",
        "vision_config": tower,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }


def decoder_shapes(words: Mapping[str, Any], vocab: int) -> Shapes:
    """A Qwen2 without its head, names as behind `model.`."""
    hidden, mlp = words["hidden_size"], words["intermediate_size"]
    keys = hidden // words["num_attention_heads"] * words["num_key_value_heads"]
    shapes: Shapes = {"embed_tokens.weight": (vocab, hidden), "norm.weight": (hidden,)}
    for n in range(words["num_hidden_layers"]):
        at = f"layers.{n}."
        for name, width in (("q_proj", hidden), ("k_proj", keys), ("v_proj", keys)):
            shapes[f"{at}self_attn.{name}.weight"] = (width, hidden)
            shapes[f"{at}self_attn.{name}.bias"] = (width,)
        shapes[f"{at}self_attn.o_proj.weight"] = (hidden, hidden)
        for name in ("gate_proj", "up_proj"):
            shapes[f"{at}mlp.{name}.weight"] = (mlp, hidden)
        shapes[f"{at}mlp.down_proj.weight"] = (hidden, mlp)
        shapes[f"{at}input_layernorm.weight"] = (hidden,)
        shapes[f"{at}post_attention_layernorm.weight"] = (hidden,)
    return shapes


def tower_shapes(layers: int, head: bool) -> Shapes:
    """SigLIP so400m at 384 pixels."""
    shapes: Shapes = {
        "embeddings.patch_embedding.weight": (1152, 3, 14, 14),
        "embeddings.patch_embedding.bias": (1152,),
        "embeddings.position_embedding.weight": (729, 1152),
    }
    linears = {f"self_attn.{name}": (1152, 1152) for name in ("k_proj", "v_proj", "q_proj")}
    linears |= {"self_attn.out_proj": (1152, 1152)}
    linears |= {"mlp.fc1": (4304, 1152), "mlp.fc2": (1152, 4304)}
    norms = [f"encoder.layers.{n}.layer_norm{k}" for n in range(layers) for k in (1, 2)]
    for norm in [*norms, "post_layernorm"]:
        shapes |= {f"{norm}.weight": (1152,), f"{norm}.bias": (1152,)}
    for n in range(layers):
        for name, shape in linears.items():
            at = f"encoder.layers.{n}.{name}"
            shapes |= {f"{at}.weight": shape, f"{at}.bias": shape[:1]}
    if head:
        shapes |= {"head.probe": (1, 1, 1152), "head.attention.in_proj_weight": (3456, 1152)}
    return shapes


STYLES = {
    "lmms": ("model.", "lm_head.", "model.vision_tower.vision_tower.vision_model.", "model."),
    "hf": ("language_model.model.", "language_model.lm_head.", "vision_tower.vision_model.", ""),
    "hf-4.52": (
        "model.language_model.",
        "lm_head.",
        "model.vision_tower.vision_model.",
        "model.",
    ),
    "hf-5": ("language_model.model.", "language_model.lm_head.", "vision_tower.", ""),
}
"""Where the decoder, its head, the tower and the newline are."""


def published_shapes(style: str, words: Mapping[str, Any], vocab: int, tower: Shapes) -> Shapes:
    """All names of a folder."""
    decoder, head, vision, other = STYLES[style]
    hidden = words["hidden_size"]
    shapes = {decoder + name: shape for name, shape in decoder_shapes(words, vocab).items()}
    shapes |= {vision + name: shape for name, shape in tower.items()}
    first, second = ("mm_projector.0", "mm_projector.2")
    if style != "lmms":
        first, second = (f"multi_modal_projector.linear_{n}" for n in (1, 2))
    shapes |= {f"{other}{first}.weight": (hidden, 1152), f"{other}{first}.bias": (hidden,)}
    shapes |= {f"{other}{second}.weight": (hidden, hidden), f"{other}{second}.bias": (hidden,)}
    shapes[f"{other}image_newline"] = (hidden,)
    if not words["tie_word_embeddings"]:
        shapes[f"{head}weight"] = (vocab, hidden)
    return shapes


@pytest.mark.parametrize("whole_tower", [False, True])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("words", "padded"), [(SEVEN_B, 152128), (HALF_B, 152000)], ids=["7B", "0.5B"]
)
def test_published_names_and_shapes(
    words: dict[str, Any], padded: int, style: str, whole_tower: bool
) -> None:
    """On the meta device, with the tower's last block and head among the weights or not."""
    vocab = words["vocab_size"] if style == "lmms" else padded
    last = 27 if style == "lmms" and whole_tower else 26
    shapes = published_shapes(style, words, vocab, tower_shapes(last, whole_tower))
    if style == "lmms":
        read = OneVisionConfig.from_lmms(published_lmms(words), SIGLIP_SO400M_384)
        if not whole_tower and words is SEVEN_B:
            assert sum(math.prod(shape) for shape in shapes.values()) == 8_030_348_832
    else:
        read = OneVisionConfig.from_transformers(published_hf(words, padded), shapes)
    own = {own: published for published, own in read.keys}
    assert own["decoder."] == STYLES[style][0]
    assert own["tower."] == STYLES[style][2]
    assert (read.keys == LMMS) is (style == "lmms")
    assert (read.tower.layers, read.tower.patches, read.decoder.vocab) == (26, 729, vocab)
    assert (read.stride, read.mode, read.newlines, read.window) == (
        2,
        "bilinear",
        "one_token",
        32768,
    )
    with torch.device("meta"):
        model = LongtakeModel(LongtakeConfig.of(read.decoder, read.tied), read.blueprint())
    names = Names(keys=read.keys, ignored=read.ignored(STYLES[style][2]))
    check_names(shapes, model, names)
    assert len(names.found(shapes)) == len(names.needed(model))
    if words["tie_word_embeddings"]:
        shapes[f"{STYLES[style][1]}weight"] = (vocab, words["hidden_size"])  # a copy of the tied
        check_names(shapes, model, names)
    shapes["model.vision_resampler.x"] = (1,)
    with pytest.raises(CheckpointError, match="1 unexpected"):
        check_names(shapes, model, names)


def test_a_folder_without_a_tower_has_that_of_the_authors() -> None:
    for named in ({}, {"mm_vision_tower": ""}, {"mm_vision_tower": "/disk/" + SO400M}):
        config = {**published_lmms(SEVEN_B), **named}
        config = config if named else {k: v for k, v in config.items() if k != "mm_vision_tower"}
        read, tower = read_layout(Folder(path=Path("nowhere"), config=config), None)
        assert (read.tower.hidden, read.tower.layers, read.tower.mlp) == (1152, 26, 4304)
        processor = ClipProcessor.from_config(tower.pixels)
        assert (processor.squash_hw, processor.mean, processor.std) == (
            (384, 384),
            (0.5, 0.5, 0.5),
            (0.5, 0.5, 0.5),
        )
        assert processor.colour == (127, 127, 127)
    assert find_tower(Folder(path=LMMS_FOLDER, config={}), None).config["hidden_size"] == 40


# -- loading --------------------------------------------------------------------------------------


def of_4_52(name: str) -> str:
    """A published name as transformers 4.52 to 5.0 wrote it."""
    if name.startswith("language_model.lm_head."):
        return name.removeprefix("language_model.")
    return "model." + name.replace("language_model.model.", "language_model.")


def of_5(name: str) -> str:
    """As transformers 5 writes it of models of its own making."""
    return name.replace("vision_tower.vision_model.", "vision_tower.")


def renamed(folder: Path, style: str) -> Path:
    """A folder of published names, with others."""
    names = {"hf": str, "hf-4.52": of_4_52, "hf-5": of_5}[style]
    change_weights(folder, lambda w: {names(name): weight for name, weight in w.items()})
    return folder


@pytest.mark.parametrize("style", [style for style in STYLES if style != "lmms"])
def test_all_names_are_the_same_model(hf: Path, style: str) -> None:
    folder = renamed(hf, style)
    decoder, head, vision, other = STYLES[style]
    names = weight_shapes(folder)
    assert {f"{head}weight", f"{other}image_newline"} <= names.keys()
    assert f"{decoder}layers.0.mlp.up_proj.weight" in names
    assert f"{vision}embeddings.patch_embedding.bias" in names
    assert says(opened(folder)) == says(opened(LMMS_FOLDER))


def test_weights_are_bit_equal_to_the_files() -> None:
    published, system = load_file(LMMS_FOLDER / "model.safetensors"), opened(LMMS_FOLDER)
    loaded = system.model.state_dict()
    assert torch.equal(loaded["image_newline"], published["model.image_newline"])
    assert torch.equal(system.model.newline, published["model.image_newline"])
    other = opened(HF_FOLDER).model.state_dict()
    assert loaded.keys() == other.keys()
    for name, weight in loaded.items():
        assert torch.equal(weight, other[name][: len(weight)]), name
    # all but the tower's closing norm
    assert len(loaded) == len(published) - 2


@pytest.mark.parametrize("style", STYLES)
def test_saving_writes_the_published_names(
    lmms: Path, hf: Path, style: str, tmp_path: Path
) -> None:
    folder = lmms if style == "lmms" else renamed(hf, style)
    system = opened(folder)
    save_model(system.model, system.config.keys, system.folder.config, tmp_path / "saved")
    published = load_file(folder / "model.safetensors")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    gone = {name for name in published if "post_layernorm" in name}
    assert saved.keys() == published.keys() - gone
    assert all(torch.equal(weight, published[name]) for name, weight in saved.items())
    for file in folder.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            (tmp_path / "saved" / file.name).symlink_to(file)
    assert says(opened(tmp_path / "saved")) == says(system)


@pytest.mark.parametrize("redundant", [False, True])
def test_a_tied_head(lmms: Path, hf: Path, redundant: bool) -> None:
    """As of the 0.5B size; some folders hold a copy of it."""
    said = set()
    for folder, head, words in (
        (lmms, "lm_head.weight", "model.embed_tokens.weight"),
        (hf, "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"),
    ):

        def tie(weights: Weights, head: str = head, words: str = words) -> Weights:
            copy = {head: weights[words].clone()} if redundant else {}
            return {name: w for name, w in weights.items() if name != head} | copy

        change_weights(folder, tie)
        change_config(folder, tie_word_embeddings=True)
        system = opened(folder)
        assert system.model.lm_head.weight is system.model.decoder.embed_tokens.weight
        said.add(says(system))
        target = folder.parent / f"saved-{folder.name}"
        save_model(system.model, system.config.keys, system.folder.config, target)
        assert head not in load_file(target / "model.safetensors")
    assert len(said) == 1  # rows that pad the second are further from any state


@pytest.mark.parametrize("outside", ["DROP", False])  # False: as the published 0.5B says
def test_a_tied_head_that_only_the_text_config_tells(hf: Path, outside: object) -> None:
    change_config(hf, tie_word_embeddings=outside, text_config={"tie_word_embeddings": True})
    change_weights(hf, lambda w: {n: x for n, x in w.items() if "lm_head" not in n})
    assert opened(hf).config.tied


def test_further_blocks_and_the_head_of_a_tower_are_left_out(lmms: Path) -> None:
    """A whole SigLIP stored, as some fine-tuned folders have it."""
    prefix = "model.vision_tower.vision_tower.vision_model."

    def whole(weights: Weights) -> Weights:
        last, more = f"{prefix}encoder.layers.1.", f"{prefix}encoder.layers.2."
        copies = {more + n.removeprefix(last): w for n, w in weights.items() if n.startswith(last)}
        assert copies
        return weights | {n: w.clone() for n, w in copies.items()} | {prefix + "head.probe": ONE}

    change_weights(lmms, whole)
    assert says(opened(lmms)) == says(opened(LMMS_FOLDER))


ONE = torch.ones(1, 1, 40)


def test_a_tower_of_its_own(lmms: Path) -> None:
    """Where the checkpoint holds none: a whole SigLIP, text side and scale included."""
    prefix = "model.vision_tower.vision_tower."
    weights = load_file(lmms / "model.safetensors")
    alone = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
    other = {name: torch.ones(1) for name in ("logit_scale", "logit_bias", "text_model.x")}
    save_file(alone | other, lmms / "vision_tower" / "model.safetensors")
    change_weights(lmms, lambda w: {n: x for n, x in w.items() if not n.startswith(prefix)})
    assert says(opened(lmms)) == says(opened(LMMS_FOLDER))


def test_steps_of_pictures_where_transformers_5_writes_them(hf: Path) -> None:
    steps = json.loads((hf / "preprocessor_config.json").read_text())
    (hf / "preprocessor_config.json").unlink()
    refuse(hf, "preprocessor_config.json")
    nested = json.loads((hf / "processor_config.json").read_text()) | {"image_processor": steps}
    (hf / "processor_config.json").write_text(json.dumps(nested))
    assert says(opened(hf)) == says(opened(LMMS_FOLDER))


def test_end_ids_of_a_folder_without_generation_config(hf: Path) -> None:
    (hf / "generation_config.json").unlink()
    assert opened(hf).end_ids == {799}  # text_config's


def test_pinpoints_are_heights_first_for_transformers(hf: Path, lmms: Path) -> None:
    change_config(hf, image_grid_pinpoints=[[98, 196], [294, 98]])
    change_config(lmms, image_grid_pinpoints=[[196, 98], [98, 294]])
    assert opened(hf).config.pinpoints == opened(lmms).config.pinpoints == ((196, 98), (98, 294))


def test_pinpoints_that_a_config_leaves_out(hf: Path) -> None:
    change_config(hf, image_grid_pinpoints="DROP")
    grids, side = opened(hf).config.pinpoints, opened(hf).config.tower.image
    assert len(grids) == 36 and {(side, side), (6 * side, 6 * side), (side, 6 * side)} <= set(grids)


def test_a_checkpoint_that_was_stretched_reads_further(hf: Path) -> None:
    before = opened(hf).window
    assert before is not None
    change_config(hf, text_config={"rope_scaling": {"type": "yarn", "factor": 4.0}})
    stretched = opened(hf)
    assert stretched.window == 4 * before
    assert stretched.variant(extend="none").window == before


def test_published_decoding(lmms: Path) -> None:
    """The authors' files have a penalty, also for greedy decoding; those of transformers none."""
    assert opened(lmms).options().repetition_penalty == 1.05
    assert opened(lmms).end_ids == {797, 799}
    assert opened(HF_FOLDER).options().repetition_penalty == 1.0
    assert not LlavaOneVision.penalises_prompt


def test_every_row_of_the_head_is_scored() -> None:
    """As the originals do; the golden answers use rows that stand for no token."""
    for folder, rows in ((LMMS_FOLDER, 832), (HF_FOLDER, 896)):
        assert opened(folder).model.usable_vocab == rows


def test_variants_that_differ_by_fields(lmms: Path) -> None:
    """LLaVA-Video's and LLaVA-NeXT-Video's."""
    change_config(
        lmms,
        model_type="llava_qwen",
        mm_newline_position="grid",
        mm_spatial_pool_mode="average",
        mm_spatial_pool_stride=4,
        add_faster_video=False,
        faster_token_stride=10,
        add_time_instruction=True,
        force_sample=True,
        image_aspect_ratio="anyres_max_4",
        rope_scaling={"type": "yarn", "factor": 4.0},
    )
    config = opened(lmms).config
    assert (config.newlines, config.mode, config.stride) == ("grid", "average", 4)
    assert config.most_patches == 4 * 49
    assert config.times_told
    assert replace(config, aspect="anyres").most_patches is None
    assert config.decoder.rope.scaling is None  # the original drops it


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"mm_newline_position": "two_tokens"}, "mm_newline_position is 'two_tokens'"),
        ({"mm_spatial_pool_mode": "median"}, "mm_spatial_pool_mode is 'median'"),
        ({"mm_spatial_pool_stride": 0}, "mm_spatial_pool_stride is 0"),
        ({"add_faster_video": True}, "add_faster_video is True"),
        ({"mm_resampler_type": "qformer"}, "mm_resampler_type is 'qformer'"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end is True"),
        ({"mm_pooling_position": "before"}, "mm_pooling_position is 'before'"),
        ({"mm_projector_type": "pooler"}, "mm_projector_type 'pooler'"),
        ({"image_aspect_ratio": "highres"}, "image_aspect_ratio is 'highres'"),
        ({"image_aspect_ratio": "anyres_max_0"}, "anyres_max_0"),
        ({"image_grid_pinpoints": [[98, 100]]}, "image_grid_pinpoints holds 98x100"),
        ({"num_hidden_layers": 5}, "missing"),
        ({"hidden_size": "DROP"}, "hidden_size is None"),
        ({"use_sliding_window": True}, "use_sliding_window True"),
    ],
)
def test_configs_that_mean_something_else(lmms: Path, fields: dict[str, Any], match: str) -> None:
    change_config(lmms, **fields)
    refuse(lmms, match)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"vision_feature_select_strategy": "default"}, "vision_feature_select_strategy is"),
        ({"vision_feature_layer": [-1, -2]}, r"vision_feature_layer \[-1, -2\]"),
        ({"vision_feature_layer": 7}, "vision_feature_layer 7"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act is 'relu'"),
        ({"vision_aspect_ratio": "crop"}, "vision_aspect_ratio is 'crop'"),
        ({"vision_config": {"model_type": "clip_vision_model"}}, "'clip_vision_model'"),
        ({"vision_config": {"hidden_act": "relu"}}, "hidden_act is 'relu'"),
        ({"text_config": {"hidden_act": "gelu"}}, "hidden_act 'gelu'"),
        ({"text_config": {"vocab_size": 832}}, "of another shape"),
        ({"vision_config": "DROP"}, "no system recognises"),
    ],
)
def test_configs_of_transformers_that_mean_something_else(
    hf: Path, fields: dict[str, Any], match: str
) -> None:
    change_config(hf, **fields)
    refuse(hf, match)


def test_a_missing_newline_is_named(lmms: Path) -> None:
    change_weights(lmms, lambda w: {n: x for n, x in w.items() if "newline" not in n})
    refuse(lmms, r"1 missing \(image_newline\)")


def test_another_tower_is_refused(lmms: Path) -> None:
    tower = lmms / "vision_tower" / "config.json"
    tower.write_text(json.dumps(json.loads(tower.read_text()) | {"model_type": "clip"}))
    refuse(lmms, "the tower is a 'clip', expected 'siglip_vision_model'")
    with pytest.raises(OptionError, match="leave vision_tower"):
        load(HF_FOLDER, device="cpu", vision_tower=str(lmms / "vision_tower"))
