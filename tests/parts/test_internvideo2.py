"""Our InternVideo2 against the original's features, and against plausible mistakes."""

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

from longtake.parts.clips import MLP
from longtake.parts.internvideo2 import Attention, Block, InternVideo2, LayerScale
from longtake.parts.layers import RMSNorm

CASES = [path.stem.removeprefix("case-") for path in sorted(GOLDEN.glob("case-iv2*.json"))]
LIMIT = 1e-4
"""What the fixtures' README allows; a mistake must be well outside."""


@pytest.mark.parametrize("name", CASES)
def test_features_and_all_up_to_the_projector(name: str) -> None:
    case = golden(name)
    seen = see(case, golden_tower(case.spec["checkpoint"]))
    assert wrong_sizes(case, seen.merged) == 0
    assert all(found < MARGIN for found in gaps(case, seen).values()), gaps(case, seen)


class PerHead(nn.Module):
    """The norm over each head apart."""

    def __init__(self, norm: RMSNorm, heads: int) -> None:
        super().__init__()
        self.norm, self.heads = norm, heads

    def forward(self, x_BLD: Tensor) -> Tensor:
        x = x_BLD.unflatten(-1, (self.heads, -1))
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.norm.eps)
        return x.flatten(-2) * self.norm.weight


def blocks_of(tower: InternVideo2) -> list[Block]:
    return [block for block in tower.blocks if isinstance(block, Block)]


def no_scale(tower: InternVideo2, _monkeypatch: pytest.MonkeyPatch) -> None:
    for block in blocks_of(tower):
        block.ls1 = block.ls2 = nn.Identity()  # type: ignore[assignment]


def norm_per_head(tower: InternVideo2, _monkeypatch: pytest.MonkeyPatch) -> None:
    for attention in (block.attn for block in blocks_of(tower)):
        for name in ("q_norm", "k_norm"):
            setattr(attention, name, PerHead(getattr(attention, name), attention.heads))


def no_norm_of_queries(tower: InternVideo2, _monkeypatch: pytest.MonkeyPatch) -> None:
    for attention in (block.attn for block in blocks_of(tower)):
        attention.q_norm = attention.k_norm = nn.Identity()  # type: ignore[assignment]


def tanh_gelu(_tower: InternVideo2, monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(self: MLP, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))

    monkeypatch.setattr(MLP, "_whole", whole)


def image_table(tower: InternVideo2, _monkeypatch: pytest.MonkeyPatch) -> None:
    """The images' positions for each frame of a clip."""
    first, rest = tower.img_pos_embed[:, :1], tower.img_pos_embed[:, 1:]
    tower.pos_embed = nn.Parameter(torch.cat([first, rest.repeat(1, 4, 1)], dim=1))


def clip_table(tower: InternVideo2, _monkeypatch: pytest.MonkeyPatch) -> None:
    """The clips' positions for an image."""
    tower.img_pos_embed = nn.Parameter(tower.pos_embed[:, :257].clone())


def no_class_token(tower: InternVideo2, monkeypatch: pytest.MonkeyPatch) -> None:
    """The class token left out before the blocks: nobody attends to it."""
    whole = Attention.forward

    def without(self: Attention, x_BLD: Tensor) -> Tensor:
        return torch.cat([x_BLD[:, :1], whole(self, x_BLD[:, 1:])], dim=1)

    monkeypatch.setattr(Attention, "forward", without)


MISTAKES = [
    (no_scale, "iv2-video8"),
    (norm_per_head, "iv2-video8"),
    (no_norm_of_queries, "iv2-video8"),
    (tanh_gelu, "iv2-video8"),
    (image_table, "iv2-video8"),
    (clip_table, "iv2-image-anyres"),
    (no_class_token, "iv2-image-anyres"),
]


@pytest.mark.parametrize(("mistake", "name"), MISTAKES)
def test_mistakes_are_told_apart(
    mistake: Callable[[InternVideo2, pytest.MonkeyPatch], None],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = golden(name)
    tower = golden_tower("ckpt-iv2")
    assert isinstance(tower, InternVideo2)
    mistake(tower, monkeypatch)
    with torch.no_grad():
        assert vision_gap(case, tower(pixels(case))) > 3 * LIMIT


def test_layer_scale_multiplies_in_fp32() -> None:
    scale = LayerScale(4)
    scale.weight.data = torch.tensor([1.0, 1 + 2**-12, 0.3, 3.0])
    x = torch.randn(2, 5, 4, dtype=torch.bfloat16)
    wanted = (x.float() * scale.weight).bfloat16()
    torch.testing.assert_close(scale(x), wanted, rtol=0, atol=0)


def test_stored_bf16_is_its_fp32_copy() -> None:
    clips_BFCHW = pixels(golden("iv2-video8"))[:1]
    with torch.no_grad():
        stored, copied = (make("ckpt-iv2")(clips_BFCHW) for make in (stored_tower, golden_tower))
    torch.testing.assert_close(stored, copied, rtol=0, atol=0)


def test_clips_are_seen_alone() -> None:
    tower, clips_BFCHW = golden_tower("ckpt-iv2"), pixels(golden("iv2-video8"))
    with torch.no_grad():
        alone = torch.cat([tower(clip) for clip in clips_BFCHW.split(1)])
        # blocked products sum in another order
        torch.testing.assert_close(alone, tower(clips_BFCHW), rtol=0, atol=5e-6)
