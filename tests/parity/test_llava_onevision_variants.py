"""Plausible mistakes in LLaVA-OneVision, each of which a golden case must tell from the original.

T frames, P patches, Q pooled patches, R K rows and columns of a map, N tokens, D width.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from longtake.parts import mosaic, vit
from longtake.parts.mosaic import crop_map, shrunk, unpadded
from longtake.parts.newlines import Newlines, ended, rows_ended
from longtake.parts.pooling import PoolMode, grid_pool, uniform_pool
from longtake.parts.qwen2 import Decoder
from longtake.parts.rope import Rope
from longtake.systems import llava_onevision as system_file
from longtake.systems.llava_onevision import LlavaOneVision
from longtake.types import Options, VisualTokens
from longtake.video import anyres
from longtake.video.anyres import image_crops
from tests.parity import llava_onevision
from tests.parity.cases import Case, StageResult, load_case
from tests.parity.llava_onevision import (
    check_answer,
    check_language,
    check_pixels,
    check_transformers,
    check_vision,
    checkpoint_of,
    near,
    pixels_of,
    system_of,
)
from tests.parity.longva import open_changed
from tests.parity.test_llava_onevision import GOLDEN
from tests.parity.test_variants import failed

VIDEO, REAL = "small7-video-16f", "real27-video-1f"
TWO, GRID = "small7-two-videos", "small7-video-newline-grid"
MAX, TALL, PAD = "small7-image-anyres-max", "small7-image-portrait", "small7-multi-image-pad"
SMALL = tuple(path.stem.removeprefix("case-") for path in sorted(GOLDEN.glob("case-small7-*.json")))
PLACED = {"spans", "length", "embeddings"}
"""What fails if the number of tokens is wrong; shapes that differ end the comparison there."""

Change = Callable[[LlavaOneVision], LlavaOneVision]


def golden(name: str) -> Case:
    """A case by its name."""
    return load_case(GOLDEN / f"case-{name}.json")


def fresh(case: Case) -> LlavaOneVision:
    """A system of its own: the shared one serves other tests."""
    changes = json.dumps(case.spec["config_overrides"])
    return cast(LlavaOneVision, open_changed.__wrapped__(checkpoint_of(case, "lmms"), changes))


def use(monkeypatch: pytest.MonkeyPatch, system: LlavaOneVision) -> None:
    """Let the comparison run with another system."""
    monkeypatch.setattr(llava_onevision, "system_of", lambda case, layout="lmms": system)


def everything(case: Case) -> dict[str, float]:
    """Largest error of every stage that is off, in units of its tolerance."""
    results: list[StageResult] = [*check_pixels(case), *check_vision(case), *check_language(case)]
    return failed(results)


# -- tower and projector --------------------------------------------------------------------------


def with_closing_norm(case: Case) -> LlavaOneVision:
    """The tower's stored post_layernorm applied."""
    system, weights = fresh(case), {}
    for file in checkpoint_of(case, "lmms").glob("*.safetensors"):
        weights |= load_file(file)
    name = "model.vision_tower.vision_tower.vision_model.post_layernorm."
    weight, bias = weights[f"{name}weight"], weights[f"{name}bias"]

    def norm(tower: nn.Module, given: object, out: Tensor) -> Tensor:
        return F.layer_norm(out, out.shape[-1:], weight, bias, 1e-6)

    system.model.tower.register_forward_hook(norm)
    return system


def one_block_less(case: Case) -> LlavaOneVision:
    """hidden_states[-2] of the blocks that are stored."""
    system = fresh(case)
    encoder = cast(vit.Encoder, system.model.tower.encoder)
    encoder.layers = encoder.layers[:-1]
    return system


def tanh_in_the_projector(case: Case) -> LlavaOneVision:
    """The tower's activation."""
    system = fresh(case)
    cast(nn.Sequential, system.model.projector)[1] = nn.GELU(approximate="tanh")
    return system


def another_activation(name: str) -> Callable[[Case], LlavaOneVision]:
    """The tower's replaced."""

    def wrong(case: Case) -> LlavaOneVision:
        system = fresh(case)
        for block in cast(vit.Encoder, system.model.tower.encoder).layers:
            cast(vit.MLP, block.mlp).activation = vit.ACTIVATIONS[cast(vit.Activation, name)]
        return system

    return wrong


SEEN = {"features", "projected", "pooled", "embeddings", "hidden", "last", "sub"}
TOWERS: dict[str, tuple[Callable[[Case], LlavaOneVision], set[str], float]] = {
    "closing norm": (with_closing_norm, SEEN, 1e3),
    "one block less": (one_block_less, SEEN, 1e3),
    "exact gelu": (another_activation("gelu"), SEEN, 4),
    "quick gelu": (another_activation("quick_gelu"), SEEN, 50),
    "tanh in the projector": (tanh_in_the_projector, SEEN - {"features"}, 4),
}
"""Of each mistake: what fails, and the largest error by its tolerance at least."""


@pytest.mark.parametrize("mistake", TOWERS)
@pytest.mark.parametrize("name", [VIDEO, REAL])
def test_another_tower_is_noticed(monkeypatch: pytest.MonkeyPatch, mistake: str, name: str) -> None:
    change, stages, least = TOWERS[mistake]
    case = golden(name)
    use(monkeypatch, change(case))
    errors = everything(case)
    assert set(errors) >= stages - {"hidden", "last", "sub"}
    assert set(errors) <= SEEN
    assert max(errors.values()) > least


# -- pooling --------------------------------------------------------------------------------------


def resized(side_of: Callable[[float], int], **how: Any) -> Callable[..., Tensor]:
    """In the place of `grid_pool`."""

    def pool(features_TPD: Tensor, stride: int, mode: PoolMode = "bilinear") -> Tensor:
        side = math.isqrt(features_TPD.shape[1])
        grid_TDHW = features_TPD.transpose(1, 2).unflatten(2, (side, side))
        size = (side_of(side / stride),) * 2
        return F.interpolate(grid_TDHW, size, **how).flatten(2).transpose(1, 2)

    return pool


def columns_first(features_TPD: Tensor, stride: int, mode: PoolMode = "bilinear") -> Tensor:
    """The right values, column by column."""
    pooled_TQD = grid_pool(features_TPD, stride, mode)
    side = math.isqrt(pooled_TQD.shape[1])
    return pooled_TQD.unflatten(1, (side, side)).transpose(1, 2).flatten(1, 2)


POOLINGS: dict[str, Callable[..., Tensor]] = {
    "floor": resized(math.floor, mode="bilinear"),
    "antialias": resized(math.ceil, mode="bilinear", antialias=True),
    "corners": resized(math.ceil, mode="bilinear", align_corners=True),
    "nearest": resized(math.ceil, mode="nearest"),
    "bicubic": resized(math.ceil, mode="bicubic"),
    "area": lambda x, stride, mode: grid_pool(x, stride, "area"),
    "average": lambda x, stride, mode: grid_pool(x, stride, "average"),
    "max": lambda x, stride, mode: grid_pool(x, stride, "max"),
    "columns": columns_first,
}


@pytest.mark.parametrize("mistake", POOLINGS)
@pytest.mark.parametrize("name", [VIDEO, REAL])
def test_another_pooling_is_noticed(
    monkeypatch: pytest.MonkeyPatch, mistake: str, name: str
) -> None:
    monkeypatch.setattr("longtake.parts.pooling.grid_pool", POOLINGS[mistake])
    errors = failed(check_vision(golden(name)))
    fewer = mistake in ("floor", "average", "max")
    assert set(errors) == ({"counts", "pooled"} if fewer else {"pooled"})
    assert errors["pooled"] > 1e3


@pytest.mark.parametrize("mode", ["average", "max"])
def test_other_modes_are_theirs_alone(monkeypatch: pytest.MonkeyPatch, mode: PoolMode) -> None:
    case = golden(VIDEO)
    use(monkeypatch, replace(system_of(case), compress=uniform_pool(2, mode)))
    assert set(everything(case)) >= {"counts", "pooled", *PLACED}


@torch.no_grad()
def test_pooling_before_the_projector_is_noticed() -> None:
    for name in (VIDEO, REAL):
        case = golden(name)
        model, wanted = system_of(case).model, case.tensors["pooled.0"]
        looked_TPD = model.look(pixels_of(case, system_of(case), 0))
        right = near("pooled", grid_pool(model.project(looked_TPD), 2, "bilinear"), wanted)
        wrong = near("pooled", model.project(grid_pool(looked_TPD, 2, "bilinear")), wanted)
        assert right.ok
        assert wrong.error > 1e3 * wrong.tolerance


# -- newlines -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "where"),
    [(n, w) for n in (VIDEO, TWO, REAL) for w in ("no_token", "frame", "grid")]
    + [(GRID, w) for w in ("no_token", "frame", "one_token")],
)
def test_newlines_elsewhere_are_noticed(
    monkeypatch: pytest.MonkeyPatch, name: str, where: Newlines
) -> None:
    case = golden(name)
    right = system_of(case)
    use(monkeypatch, replace(right, config=replace(right.config, newlines=where)))
    errors = everything(case)
    if name == REAL and where == "frame":
        assert errors == {}  # of one frame, which it ends
    else:
        assert set(errors) >= PLACED


def one_after_all(system: LlavaOneVision, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newline in front, or one of zeros."""
    if name == "zeros":
        cast(nn.Parameter, system.model.image_newline).data.zero_()
        return

    def in_front(tokens_ND: Tensor, newline_D: Tensor) -> Tensor:
        return torch.cat([newline_D[None], tokens_ND])

    monkeypatch.setattr("longtake.parts.newlines.ended", in_front)


@pytest.mark.parametrize("mistake", ["zeros", "in front"])
def test_another_newline_is_noticed(monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    for name in (VIDEO, REAL):
        case = golden(name)
        system = fresh(case)
        use(monkeypatch, system)
        one_after_all(system, mistake, monkeypatch)
        errors = everything(case)
        assert set(errors) == {"embeddings", "hidden", "last", "sub"}, name


# -- images ---------------------------------------------------------------------------------------


def off_by(rows: int, columns: int) -> Callable[..., Tensor]:
    """A border of one more on one side."""

    def wrong(map_RKD: Tensor, size_wh: tuple[int, int]) -> Tensor:
        return unpadded(map_RKD, size_wh)[rows:, columns:]

    return wrong


def rounded(map_RKD: Tensor, size_wh: tuple[int, int]) -> Tensor:
    """The side that stays rounded up."""
    rows, columns = map_RKD.shape[:2]
    width, height = size_wh
    if width / height > columns / rows:
        border = (rows - math.ceil(height * columns / width)) // 2
        return map_RKD[border : rows - border]
    border = (columns - math.ceil(width * rows / height)) // 2
    return map_RKD[:, border : columns - border]


def one_sided(map_RKD: Tensor, size_wh: tuple[int, int]) -> Tensor:
    """As if the image lay at the top left."""
    rows, columns = unpadded(map_RKD, size_wh).shape[:2]
    return map_RKD[:rows, :columns]


def base_last(system: LlavaOneVision, image_CHW: Tensor, alone: bool = True) -> VisualTokens:
    """The crops' map, then the whole image."""
    seen = SEE_IMAGE(system, image_CHW, alone)
    base = system.config.tower.patches
    return replace(seen, features_ND=seen.features_ND.roll(-base, 0))


def no_base(system: LlavaOneVision, image_CHW: Tensor, alone: bool = True) -> VisualTokens:
    """The crops' map alone."""
    seen = SEE_IMAGE(system, image_CHW, alone)
    left = seen.features_ND[system.config.tower.patches :]
    return replace(seen, features_ND=left, counts=(len(left),))


def crop_by_crop(crops_BPD: Tensor, columns: int) -> Tensor:
    """All of a crop, then the next one, in the map's shape."""
    map_RKD = crop_map(crops_BPD, columns)
    return crops_BPD.reshape(map_RKD.shape)


def rows_for_columns(crops_BPD: Tensor, columns: int) -> Tensor:
    """The grid's two sides swapped."""
    made = crop_map(crops_BPD, len(crops_BPD) // columns)
    return made.transpose(0, 1)


SEE_IMAGE = LlavaOneVision.see_image
IMAGES: dict[str, tuple[str, Any, str, Any]] = {
    "one row less": (MAX, system_file, "unpadded", off_by(1, 0)),
    "one column less": (MAX, system_file, "unpadded", off_by(0, 1)),
    "one column less, portrait": (TALL, system_file, "unpadded", off_by(0, 1)),
    "rounded up": (MAX, system_file, "unpadded", rounded),
    "one-sided": (TALL, system_file, "unpadded", one_sided),
    "padded": (TALL, system_file, "unpadded", lambda map_RKD, size_wh: map_RKD),
    "base last": (TALL, LlavaOneVision, "see_image", base_last),
    "base last, shrunk": (MAX, LlavaOneVision, "see_image", base_last),
    "no base": (TALL, LlavaOneVision, "see_image", no_base),
    "crop by crop": (TALL, system_file, "crop_map", crop_by_crop),
    "rows for columns": (MAX, system_file, "crop_map", rows_for_columns),
    "not shrunk": (MAX, system_file, "shrunk", lambda map_RKD, most: map_RKD),
    "shrunk with a crop more": (
        MAX,
        system_file,
        "shrunk",
        lambda map_RKD, most: shrunk(map_RKD, most * 10 // 9),
    ),
    "newline behind the base": (
        TALL,
        system_file,
        "rows_ended",
        lambda map_RKD, newline_D: ended(rows_ended(map_RKD, newline_D), newline_D),
    ),
    "no newline per row": (
        TALL,
        system_file,
        "rows_ended",
        lambda map_RKD, newline_D: map_RKD.flatten(0, 1),
    ),
    "no newline": (PAD, system_file, "ended", lambda tokens_ND, newline_D: tokens_ND),
}
"""Of each mistake: a case, and what is put in the place of what."""


@pytest.mark.parametrize("mistake", IMAGES)
def test_another_image_is_noticed(monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    name, place, attribute, wrong = IMAGES[mistake]
    monkeypatch.setattr(place, attribute, wrong)
    errors = everything(golden(name))
    assert set(errors) >= {"embeddings", "last"}
    # the tower and the projector see the same
    assert set(errors) <= {*PLACED, "hidden", "last", "sub"}


@pytest.mark.parametrize("how", [{"antialias": True}, {"align_corners": True}])
def test_another_shrinking_is_noticed(monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]) -> None:
    def wrong(grid: Tensor, size: tuple[int, int], mode: str) -> Tensor:
        return interpolate(grid, size, mode=mode, **how)

    interpolate = F.interpolate
    monkeypatch.setattr(mosaic.F, "interpolate", wrong)
    case = golden(MAX)
    assert set(failed(check_language(case))) == {"embeddings", "hidden", "last", "sub"}


def test_a_base_that_is_cut_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole image is squashed; padded to a square it is another picture."""

    def wrong(image_CHW: Tensor, aspect: str, *given: Any) -> Tensor:
        crops = image_crops(image_CHW, aspect, *given)
        return torch.cat([image_crops(image_CHW, "pad", *given), crops[1:]])

    for place in (llava_onevision, system_file):
        monkeypatch.setattr(place, "image_crops", wrong)
    assert {"resized", "pixels", "features", "embeddings"} <= set(everything(golden(TALL)))


@pytest.mark.parametrize("colour", [(0, 0, 0), (128, 128, 128), (255, 255, 255)])
def test_another_colour_around_images_is_noticed(
    monkeypatch: pytest.MonkeyPatch, colour: tuple[int, int, int]
) -> None:
    """The mean is 127.5 and truncated."""
    right = anyres.pad_to_square
    monkeypatch.setattr(anyres, "pad_to_square", lambda image, _: right(image, colour))
    assert {"resized", "pixels", "embeddings", "last"} <= set(everything(golden(PAD)))


def test_images_that_are_squashed_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = golden(PAD)
    right = system_of(case)
    use(monkeypatch, replace(right, config=replace(right.config, aspect="square")))
    assert {"resized", "pixels", "embeddings", "last"} <= set(everything(case))


# -- pixels and language model --------------------------------------------------------------------

PROCESSORS: dict[str, dict[str, Any]] = {
    "bilinear": {"resample": Image.Resampling.BILINEAR},
    "cut to a square": {"edge": 98, "squash_hw": None, "crop_hw": (98, 98)},
    "torch": {"resize": "fast"},
    "clip's mean": {"mean": (0.48145466, 0.4578275, 0.40821073)},
}


@pytest.mark.parametrize("mistake", PROCESSORS)
def test_other_pixels_are_noticed(monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    case = golden(VIDEO)
    right = system_of(case)
    use(monkeypatch, replace(right, processor=replace(right.processor, **PROCESSORS[mistake])))
    assert {"resized", "pixels", "embeddings"} <= set(everything(case))


def test_another_rope_theta_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = golden(VIDEO)
    right = system_of(case)
    rope = cast(Decoder, right.model.decoder).config.rope
    assert rope == Rope(theta=1e6)
    use(monkeypatch, replace(right, model=right.model.positioned(Rope(theta=1e4))))
    assert set(failed(check_language(case))) == {"hidden", "last", "sub"}


def test_a_penalty_on_the_prompt_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The original's generate() gets embeddings and knows of no prompt."""
    monkeypatch.setattr(LlavaOneVision, "penalises_prompt", True)
    noticed = [name for name in SMALL if "penalised" in failed(check_answer(golden(name)))]
    assert noticed, "no case tells"


def test_no_penalty_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    options = LlavaOneVision.options

    def plain(self: LlavaOneVision, **given: Any) -> Options:
        return options(self, **{**given, "repetition_penalty": 1.0})

    monkeypatch.setattr(LlavaOneVision, "options", plain)
    noticed = [found for name in SMALL if (found := failed(check_answer(golden(name))))]
    assert noticed, "no case tells"
    for found in noticed:
        assert set(found) == {"penalised"}


def test_rows_that_stand_for_no_token_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The original writes them too where weights are random."""
    case = golden(TWO)
    system = fresh(case)
    system.model.usable_vocab = 800
    use(monkeypatch, system)
    assert {"answer", "penalised"} <= set(failed(check_answer(case)))


def test_several_images_are_padded_as_transformers_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever vision_aspect_ratio says; the original would cut each of them."""
    case = golden(PAD)
    right = system_of(case, "hf")
    use(monkeypatch, replace(right, config=replace(right.config, aspect="anyres_max_9")))
    assert failed(check_transformers(case)) == {}
    assert {"embeddings", "last"} <= set(failed(check_language(case)))
