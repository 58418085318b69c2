"""What the clip towers share: sizes off published names, patches, the cut MLP, who may come in."""

from dataclasses import replace

import pytest
import torch
from tests.parts.clip_goldens import (
    GOLDEN,
    TOWER,
    Shapes,
    Tower,
    gap,
    golden,
    meta_tower,
    pixels,
    published_towers,
)

from longtake.errors import CheckpointError, PromptError
from longtake.parts import clips
from longtake.parts.clips import MLP, ClipTowerConfig, PatchEmbed, tower_sizes
from longtake.parts.internvideo2 import InternVideo2, InternVideo2Config
from longtake.parts.umt import UMT, UMTConfig, umt_config
from longtake.parts.vit import CPU_BYTES

SMALL = ClipTowerConfig(hidden=12, layers=1, heads=2, mlp=40, image=32, patch=8)
TOWERS: list[Tower] = [
    UMT(UMTConfig(hidden=128, layers=2, heads=2, mlp=256, image=64)),
    InternVideo2(InternVideo2Config(hidden=176, layers=2, heads=2, mlp=256, image=56)),
]
CASES = [path.stem.removeprefix("case-") for path in sorted(GOLDEN.glob("case-*.json"))]


@pytest.mark.parametrize("name", [name for name in CASES if "train" not in name])
def test_pixels_are_the_originals(name: str) -> None:
    """The tests of the towers start from these."""
    case = golden(name)
    pixels_TCHW = pixels(case).flatten(0, 1)
    stride = 7 if pixels_TCHW.shape[-1] == 224 else 14
    if case.spec["kind"] == "chat":
        stride, pixels_TCHW = 14, pixels_TCHW[::8]
    stored = [case.tensors[key] for key in sorted(case.tensors) if key.endswith("_strided")]
    assert gap(pixels_TCHW[..., ::stride, ::stride], torch.cat(stored)) == 0


@pytest.mark.parametrize("layout", sorted(published_towers()))
def test_published_names_and_shapes(layout: str) -> None:
    shapes = published_towers()[layout]
    prefix = TOWER if "InternVideo2" in layout else f"{TOWER}encoder."
    tower = meta_tower(shapes, prefix, 448)
    assert {prefix + name: tuple(w.shape) for name, w in tower.state_dict().items()} == shapes
    assert tower.config.heads == 16
    assert tower.config.layers == (39 if prefix == TOWER else 23)


def shapes_of(tower: Tower, prefix: str) -> Shapes:
    return {prefix + name: tuple(w.shape) for name, w in tower.state_dict().items()}


def test_sizes_come_from_shapes_alone() -> None:
    sizes = tower_sizes(shapes_of(TOWERS[0], "a.b.") | {"other.blocks.7.x": (3,)}, "a.b.")
    assert (sizes.hidden, sizes.layers, sizes.mlp) == (128, 2, 256)
    assert sizes.heads(64) == 2
    assert umt_config(shapes_of(TOWERS[0], ""), "", 64) == TOWERS[0].config


@pytest.mark.parametrize(
    ("missing", "match"),
    [
        ("t.patch_embed.proj.weight", "t.patch_embed.proj.weight is missing"),
        ("t.blocks.0.mlp.fc1.weight", "t.blocks.0.mlp.fc1.weight is missing"),
        ("t.blocks.0.", "without a gap, found 1$"),
        ("t.blocks.", "found none$"),
    ],
)
def test_unreadable_shapes(missing: str, match: str) -> None:
    shapes = shapes_of(TOWERS[0], "t.")
    rest = {name: shape for name, shape in shapes.items() if not name.startswith(missing)}
    with pytest.raises(CheckpointError, match=match):
        tower_sizes(rest, "t.")


def test_a_tensor_without_rows() -> None:
    shapes = shapes_of(TOWERS[0], "")
    with pytest.raises(CheckpointError, match=r"has the shape \[\]; the tower's sizes"):
        tower_sizes(shapes | {"patch_embed.proj.weight": ()}, "")


def test_heads_must_fill_the_tower() -> None:
    with pytest.raises(CheckpointError, match=r"128 wide, which is no multiple .* 88"):
        tower_sizes(shapes_of(TOWERS[0], ""), "").heads(88)


def test_patches_are_the_published_convolution() -> None:
    torch.manual_seed(0)
    embed = PatchEmbed(SMALL)
    clip_BFCHW = torch.randn(2, 4, 3, 32, 32)
    grid_BDFHW = embed.proj(clip_BFCHW.transpose(1, 2))
    torch.testing.assert_close(embed(clip_BFCHW), grid_BDFHW.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("rows", [1, 5, 7, 100])
def test_mlp_in_pieces(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    mlp, x_BLD, inside = MLP(SMALL), torch.randn(3, 11, 12), []
    mlp.fc1.register_forward_hook(lambda _module, _args, out: inside.append(out.nbytes))
    whole = mlp(x_BLD).detach()
    assert inside == [3 * 11 * 40 * 4]  # with gradients, at once
    inside.clear()
    monkeypatch.setattr(clips, "CPU_BYTES", rows * 40 * 4)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x_BLD), whole, rtol=0, atol=1e-6)
        # a view that is not contiguous, as a caller may cut one
        torch.testing.assert_close(mlp(x_BLD[:, 1:]), whole[:, 1:], rtol=0, atol=1e-6)
    assert max(inside) <= max(rows, 1) * 40 * 4


@pytest.mark.parametrize("tower", TOWERS, ids=lambda tower: type(tower).__name__)
class TestBothTowers:
    def test_bf16_weights_compute_in_fp32(self, tower: Tower) -> None:
        torch.manual_seed(1)
        narrow = type(tower)(tower.config).bfloat16()  # type: ignore[arg-type]
        wide = type(tower)(tower.config)  # type: ignore[arg-type]
        wide.load_state_dict(narrow.state_dict())
        for frames in (1, 4):
            clip = torch.randn(1, frames, 3, tower.config.image, tower.config.image)
            with torch.no_grad():
                torch.testing.assert_close(narrow(clip), wide(clip), rtol=0, atol=0)
            assert narrow(clip).dtype == torch.float32  # with gradients, too

    def test_all_in_bf16(self, tower: Tower) -> None:
        narrow = type(tower)(tower.config).bfloat16()  # type: ignore[arg-type]
        clip = torch.zeros(1, 4, 3, tower.config.image, tower.config.image, dtype=torch.bfloat16)
        assert narrow(clip).dtype == torch.bfloat16

    def test_meta(self, tower: Tower) -> None:
        with torch.device("meta"):
            built = type(tower)(tower.config)  # type: ignore[arg-type]
            clip = torch.empty(2, 4, 3, tower.config.image, tower.config.image)
            out = built(clip)
        assert out.is_meta
        assert out.shape == (2, 4 * tower.config.patches, tower.config.hidden)
        assert built(clip[:, :1]).shape == (2, tower.config.patches, tower.config.hidden)

    @pytest.mark.parametrize(
        "shape",
        [(1, 3, 3, 0, 0), (1, 8, 3, 0, 0), (1, 4, 1, 0, 0), (4, 3, 0, 0), (1, 4, 3, 0, 9)],
    )
    def test_other_input_is_refused(self, tower: Tower, shape: tuple[int, ...]) -> None:
        sides = [side or tower.config.image for side in shape]
        with pytest.raises(PromptError, match=r"whole clips of 4 frames$") as caught:
            tower(torch.zeros(sides))
        assert "\n" not in str(caught.value)

    def test_gradients_reach_every_weight(self, tower: Tower) -> None:
        torch.manual_seed(2)
        trained = type(tower)(tower.config)  # type: ignore[arg-type]
        side = tower.config.image
        for frames in (1, 4):
            trained(torch.randn(2, frames, 3, side, side)).square().sum().backward()
        without = [name for name, p in trained.named_parameters() if p.grad is None]
        assert without == []


def test_clips_at_once() -> None:
    large = UMTConfig(hidden=1024, layers=23, heads=16, mlp=4096, image=224)
    assert large.patches == 196
    assert large.clips_at_once == 2
    assert CPU_BYTES >= 4 * 2 * 784 * 3 * 1024
    assert replace(large, image=448).clips_at_once == 1
    video = InternVideo2Config(hidden=1408, layers=39, heads=16, mlp=6144)
    assert (video.patches, video.clips_at_once) == (256, 1)
