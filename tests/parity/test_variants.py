"""Plausible mistakes, each of which a golden case must tell from the original.

T frames, P patches, Q pooled patches, D width.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtake.parts import vit
from longtake.parts.pooling import grid_pool
from longtake.video.pixels import ClipProcessor
from tests.parity.cases import Case, StageResult, close, load_case
from tests.parity.longva import (
    FEATURES,
    check_answer,
    check_haystack,
    check_language,
    check_vision,
    open_changed,
    system_of,
)
from tests.parity.pixels import CLIP, pixels_of
from tests.parity.test_longva import GOLDEN


def golden(name: str, **options: Any) -> Case:
    """A case, with some options changed behind the original's back."""
    case = load_case(GOLDEN / f"case-{name}.json")
    return replace(case, spec=case.spec | {"options": case.spec.get("options", {}) | options})


def failed(results: list[StageResult]) -> dict[str, float]:
    """Stages that failed, and how badly in units of their tolerance."""
    return {r.stage: r.error / (r.tolerance or 1.0) for r in results if not r.ok}


def resized(features_TPD: Tensor, stride: int, **how: Any) -> Tensor:
    """Interpolate a square grid of patches down by `stride`: [T, P, D] -> [T, Q, D]."""
    side = round(features_TPD.shape[1] ** 0.5)
    grid_TDHW = features_TPD.transpose(1, 2).unflatten(2, (side, side))
    return F.interpolate(grid_TDHW, (side // stride,) * 2, **how).flatten(2).transpose(1, 2)


def transposed(features_TPD: Tensor, stride: int) -> Tensor:
    """The right values, column by column."""
    pooled_TQD = grid_pool(features_TPD, stride)
    side = round(pooled_TQD.shape[1] ** 0.5)
    return pooled_TQD.reshape(-1, side, side, pooled_TQD.shape[2]).transpose(1, 2).flatten(1, 2)


POOLINGS: dict[str, tuple[str, Callable[[Tensor, int], Tensor]]] = {
    "nearest": ("video-4f", lambda x, s: resized(x, s, mode="nearest")),
    "antialias": ("video-4f", lambda x, s: resized(x, s, mode="bilinear", antialias=True)),
    "corners": ("video-4f", lambda x, s: resized(x, s, mode="bilinear", align_corners=True)),
    "columns": ("video-4f", transposed),
    # by 2 this one *is* the average; by 3 it looks at the middle patch alone
    "bilinear": ("video-5f-stride3", lambda x, s: resized(x, s, mode="bilinear")),
}


@pytest.mark.parametrize("name", POOLINGS)
@torch.no_grad()
def test_another_pooling_is_noticed(name: str) -> None:
    case_name, pooling = POOLINGS[name]
    case = golden(case_name)
    system, stride = system_of(case), case.spec["options"]["mm_spatial_pool_stride"]
    features_TPD = system.encode(pixels_of(case)[0])
    wanted_ND = case.tensors["visual_tokens"]
    right_ND = grid_pool(features_TPD, stride).flatten(0, 1)
    assert close("tokens", right_ND, wanted_ND, FEATURES).ok
    wrong = close("tokens", pooling(features_TPD, stride).flatten(0, 1), wanted_ND, FEATURES)
    assert wrong.error > 1.0


@torch.no_grad()
def test_pooling_before_the_projector_is_noticed() -> None:
    case = golden("video-4f")
    model = system_of(case).model
    pooled_TQD = model.project(grid_pool(model.look(pixels_of(case)[0]), 2))
    wrong = close("tokens", pooled_TQD.flatten(0, 1), case.tensors["visual_tokens"], FEATURES)
    assert wrong.error > 0.5


def test_max_pooling_changes_tokens_and_answer() -> None:
    case = golden("video-4f", mm_spatial_pool_mode="max")
    assert set(failed(check_vision(case))) == {"tokens"}
    assert "answer" in failed(check_answer(case))


def test_the_last_layer_is_noticed() -> None:
    errors = failed(check_vision(golden("video-4f", mm_vision_select_layer=-1)))
    assert set(errors) == {"features", "tokens"}


def test_another_rope_theta_is_noticed() -> None:
    errors = failed(check_language(golden("video-4f", rope_theta=1e6)))
    assert set(errors) == {"last", "probe"}
    assert errors["last"] > 100


def test_tanh_gelu_in_the_projector_is_noticed() -> None:
    case = golden("video-4f")
    # a fresh model: the shared one serves other tests
    system = open_changed.__wrapped__(case.checkpoint.resolve(), "{}")
    projector = system.model.get_submodule("projector")
    assert isinstance(projector, nn.Sequential)
    projector[1] = nn.GELU(approximate="tanh")
    with torch.no_grad():
        features_TPD = system.encode(pixels_of(case)[0])
    tokens_ND = grid_pool(features_TPD, 2).flatten(0, 1)
    assert not close("tokens", tokens_ND, case.tensors["visual_tokens"], FEATURES).ok


def test_exact_gelu_in_the_tower_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = golden("video-4f")
    monkeypatch.setitem(vit.ACTIVATIONS, "quick_gelu", F.gelu)
    system = open_changed.__wrapped__(case.checkpoint.resolve(), "{}")
    with torch.no_grad():
        features_TPD = system.model.look(pixels_of(case)[0])
    wrong = close("features", features_TPD, case.tensors["vision_features"], FEATURES)
    assert wrong.error > 1e-3


def test_unpooled_images_are_noticed() -> None:
    errors = failed(check_vision(golden("image-anyres-3x2", mm_patch_merge_type="flat")))
    assert set(errors) == {"tokens"}


def test_a_needle_one_frame_late_is_noticed() -> None:
    case = golden("vniah-grid")
    cells = [
        cell | {"query_frame_idx": min(cell["query_frame_idx"] + 1, cell["num_frames"])}
        for cell in case.spec["cells"]
    ]
    late = replace(case, spec=case.spec | {"cells": cells})
    assert {"answer logits", "right", "average"} <= set(failed(check_haystack(late)))


def test_the_fast_resize_is_not_the_published_one() -> None:
    case = golden("preprocess-336")
    exact = ClipProcessor.from_config({**CLIP, "size": 336, "crop_size": 336})
    frames_TCHW = case.pictures("frames")
    fast_TCHW = replace(exact, resize="fast")(frames_TCHW)
    wrong = close("pixels", fast_TCHW, case.tensors["pixel_values"], 0.0)
    level = 1 / 255 / min(exact.std)
    assert 0.0 < wrong.error <= 2 * level * (1 + 1e-5)
