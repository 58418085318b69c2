"""Our UMT against the original's features, and against plausible mistakes."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tests.parts.clip_goldens import (
    GOLDEN,
    MARGIN,
    gaps,
    golden,
    golden_tower,
    pixels,
    see,
    stored_tower,
    vision_gap,
    wrong_sizes,
)
from torch import Tensor, nn

from longtake.parts import umt
from longtake.parts.clips import MLP
from longtake.parts.umt import UMT, UMTConfig, positions, sincos

CASES = [path.stem.removeprefix("case-") for path in sorted(GOLDEN.glob("case-umt*.json"))]
LIMIT = 1e-4
"""What the fixtures' README allows; a mistake must be well outside."""


@pytest.mark.parametrize("name", CASES)
def test_features_and_all_up_to_the_projector(name: str) -> None:
    case = golden(name)
    seen = see(case, golden_tower(case.spec["checkpoint"]))
    assert wrong_sizes(case, seen.merged) == 0
    assert all(found < MARGIN for found in gaps(case, seen).values()), gaps(case, seen)


def with_table(monkeypatch: pytest.MonkeyPatch, table: Callable[[UMTConfig, int], Tensor]) -> None:
    """Give the tower other positions, bypassing the cache."""
    monkeypatch.setattr(umt, "cached_positions", lambda config, frames, *_: table(config, frames))


def tanh_gelu(_tower: UMT, monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(self: MLP, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))

    monkeypatch.setattr(MLP, "_whole", whole)


def image_table_per_frame(_tower: UMT, monkeypatch: pytest.MonkeyPatch) -> None:
    with_table(monkeypatch, lambda config, frames: positions(config, 1).repeat(frames, 1))


def no_norm(tower: UMT, _monkeypatch: pytest.MonkeyPatch) -> None:
    tower.vision_layernorm = nn.Identity()  # type: ignore[assignment]


def bilinear_table(_tower: UMT, monkeypatch: pytest.MonkeyPatch) -> None:
    def resize(table_FDHW: Tensor, side: int) -> Tensor:
        return F.interpolate(table_FDHW, (side, side), mode="bilinear", align_corners=False)

    monkeypatch.setattr(umt, "resize_grid", resize)
    with_table(monkeypatch, positions)


def aligned_corners(_tower: UMT, monkeypatch: pytest.MonkeyPatch) -> None:
    def resize(table_FDHW: Tensor, side: int) -> Tensor:
        return F.interpolate(table_FDHW, (side, side), mode="bicubic", align_corners=True)

    monkeypatch.setattr(umt, "resize_grid", resize)
    with_table(monkeypatch, positions)


def native_table(_tower: UMT, monkeypatch: pytest.MonkeyPatch) -> None:
    with_table(monkeypatch, lambda config, frames: sincos(frames * config.patches, config.hidden))


def sines_then_cosines(_tower: UMT, monkeypatch: pytest.MonkeyPatch) -> None:
    def table(config: UMTConfig, frames: int) -> Tensor:
        table_LD = positions(config, frames)
        return torch.cat([table_LD[:, ::2], table_LD[:, 1::2]], dim=1)

    with_table(monkeypatch, table)


def swapped_biases(tower: UMT, _monkeypatch: pytest.MonkeyPatch) -> None:
    for attention in (block.attn for block in tower.blocks):
        attention.q_bias, attention.v_bias = attention.v_bias, attention.q_bias


MISTAKES = [
    (tanh_gelu, "umt224-video8"),
    (tanh_gelu, "umt448-video4"),
    (image_table_per_frame, "umt224-video8"),
    (image_table_per_frame, "umt448-video4"),
    (no_norm, "umt224-video8"),
    (bilinear_table, "umt448-video4"),
    (aligned_corners, "umt448-video4"),
    (native_table, "umt448-video4"),
    (native_table, "umt448-image-anyres"),
    (sines_then_cosines, "umt224-image-anyres"),
    (swapped_biases, "umt224-image-anyres"),
]


@pytest.mark.parametrize(("mistake", "name"), MISTAKES)
def test_mistakes_are_told_apart(
    mistake: Callable[[UMT, pytest.MonkeyPatch], None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = golden(name)
    tower = golden_tower(case.spec["checkpoint"])
    assert isinstance(tower, UMT)
    mistake(tower, monkeypatch)
    with torch.no_grad():
        assert vision_gap(case, tower(pixels(case))) > 3 * LIMIT


def test_sincos_by_hand() -> None:
    table = sincos(800, 6)
    for row, column in [(0, 0), (0, 1), (7, 0), (7, 1), (799, 2), (799, 3), (5, 4), (5, 5)]:
        angle = row / 10000 ** (2 * (column // 2) / 6)
        wanted = math.cos(angle) if column % 2 else math.sin(angle)
        assert table[row, column].item() == pytest.approx(wanted, abs=1e-7)


def test_positions() -> None:
    config = UMTConfig(hidden=8, layers=0, heads=1, mlp=8, image=224)
    native = positions(config, 4)
    torch.testing.assert_close(native, sincos(784, 8), rtol=0, atol=0)
    torch.testing.assert_close(positions(config, 1), native[:196], rtol=0, atol=0)
    large = positions(UMTConfig(hidden=8, layers=0, heads=1, mlp=8, image=448), 4)
    # each frame for itself: the third frame's map is what resizing it alone gives
    map_1DHW = native[2 * 196 : 3 * 196].T.reshape(1, 8, 14, 14)
    alone = F.interpolate(map_1DHW, (28, 28), mode="bicubic")[0].flatten(1).T
    torch.testing.assert_close(large[2 * 784 : 3 * 784], alone, rtol=0, atol=1e-6)


def test_positions_are_made_once_per_precision_and_train_after_a_look() -> None:
    config = UMTConfig(hidden=64, layers=1, heads=1, mlp=8, image=16 * 3)
    tower, clip = UMT(config), torch.randn(1, 4, 3, 48, 48)
    with torch.inference_mode():
        tower(clip)
    first = umt.cached_positions(config, 4, clip.device, clip.dtype)
    assert umt.cached_positions(config, 4, clip.device, clip.dtype) is first
    assert not first.is_inference()
    assert umt.cached_positions(config, 4, clip.device, torch.bfloat16).dtype == torch.bfloat16
    tower(clip).square().sum().backward()
    assert not [name for name in tower.state_dict() if "pos" in name]


def test_stored_bf16_is_its_fp32_copy() -> None:
    clips_BFCHW = pixels(golden("umt224-video8"))
    with torch.no_grad():
        stored, copied = (make("ckpt-umt224")(clips_BFCHW) for make in (stored_tower, golden_tower))
    torch.testing.assert_close(stored, copied, rtol=0, atol=0)


def test_clips_are_seen_alone() -> None:
    tower, clips_BFCHW = (
        golden_tower("ckpt-umt224"),
        pixels(golden("umt224-video16-drop-attention")),
    )
    with torch.no_grad():
        alone = torch.cat([tower(clip) for clip in clips_BFCHW.split(1)])
        # blocked products sum in another order
        torch.testing.assert_close(alone, tower(clips_BFCHW), rtol=0, atol=5e-6)
