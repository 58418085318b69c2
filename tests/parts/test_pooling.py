"""Pooling of frames against what an independent float64 implementation computed, and by chunks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from longtake.errors import OptionError, PromptError
from longtake.parts.pooling import PoolMode, ProgressivePool, grid_pool, uniform_pool
from longtake.types import VisualTokens
from longtake.wishes import POOLS, pool_of

GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "visual_context_window"
CASES = sorted(path.stem for path in GOLDEN.glob("pool-*.json"))
ROWS = json.loads((GOLDEN / "token-counts.json").read_text())["rows"]
PAPER = ProgressivePool(high=2, low=8, group=4)


def video(features_TPD: Tensor, begin: int = 0) -> VisualTokens:
    frames, patches, _ = features_TPD.shape
    return VisualTokens(
        features_ND=features_TPD.flatten(0, 1),
        counts=(patches,) * frames,
        seconds=tuple(map(float, range(begin, begin + frames))),
    )


def pooled(features_TPD: Tensor, pool: ProgressivePool, chunk: int) -> VisualTokens:
    """What comes out of a video that arrives `chunk` frames at a time."""
    begins = range(0, len(features_TPD), chunk)
    chunks = map(video, features_TPD.split(chunk), begins)
    return VisualTokens.join(list(pool(chunks)))


def opened(name: str) -> tuple[dict[str, Any], dict[str, Tensor], ProgressivePool]:
    said = json.loads((GOLDEN / f"{name}.json").read_text())
    pool = ProgressivePool(
        high=said["stride_high"], low=said["stride_low"], group=said["K"], mode=said["mode"]
    )
    return said, load_file(GOLDEN / f"{name}.safetensors"), pool


@pytest.mark.parametrize("name", CASES)
def test_it_equals_the_golden_tokens(name: str) -> None:
    said, tensors, pool = opened(name)
    ours = pooled(tensors["features"], pool, chunk=len(tensors["features"]))
    counts = tensors["tokens_per_frame"].tolist()
    assert list(ours.counts) == counts
    owners = torch.arange(len(counts)).repeat_interleave(torch.tensor(ours.counts))
    assert owners.tolist() == tensors["frame_of_token"].tolist()
    assert (
        sum(ours.counts) == said["total_tokens"] == pool.planned(said["frames"], said["grid"] ** 2)
    )
    high = [pool.stride(n) == pool.high for n in range(len(counts))]
    if pool.high != pool.low:
        assert high == tensors["is_high"].bool().tolist()
    # places between patches are fp32 numbers up to 27, so weights are right to 1e-6
    torch.testing.assert_close(ours.features_ND, tensors["tokens"], rtol=0, atol=1e-5)
    wide = pooled(tensors["features"].double(), pool, chunk=3)
    torch.testing.assert_close(wide.features_ND, tensors["tokens_f64"], rtol=0, atol=1e-12)


def test_every_golden_case_is_compared() -> None:
    assert len(CASES) == 8


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("width", [6, 1, 128])
def test_chunks_change_nothing(name: str, width: int) -> None:
    """Bit for bit, whichever frames arrive together."""
    _, tensors, pool = opened(name)
    frames, patches = tensors["features"].shape[:2]
    features = torch.randn(frames, patches, width, generator=torch.Generator().manual_seed(1))
    whole = pooled(features, pool, chunk=frames)
    for chunk in (1, 3, 8):
        parts = pooled(features, pool, chunk)
        assert torch.equal(parts.features_ND, whole.features_ND)
        assert (parts.counts, parts.seconds) == (whole.counts, whole.seconds)


def test_every_chunk_goes_out_as_it_comes_in() -> None:
    """Nothing is held back: a chunk's tokens are there before the next chunk is asked for."""
    asked: list[int] = []

    def chunks() -> Any:
        for number in range(4):
            asked.append(number)
            yield video(torch.randn(3, 49, 2))

    for number, tokens in enumerate(PAPER(chunks())):
        assert asked == list(range(number + 1))
        assert len(tokens.counts) == 3


def test_another_video_begins_anew() -> None:
    features = torch.randn(6, 49, 2)
    first, second = (pooled(features, PAPER, chunk=3) for _ in range(2))
    assert first.counts == second.counts == (16, 1, 1, 1, 16, 1)
    assert torch.equal(first.features_ND, second.features_ND)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(map(str, row.values())))
def test_what_is_planned(row: dict[str, int]) -> None:
    pool = ProgressivePool(high=row["stride_high"], low=row["stride_low"], group=row["K"])
    assert pool.planned(row["frames"], row["grid"] ** 2) == row["tokens"]


@pytest.mark.parametrize("mode", ["average", "max", "bilinear", "area"])
@pytest.mark.parametrize("frames", [1, 4, 5, 11])
def test_what_is_planned_comes_out(mode: PoolMode, frames: int) -> None:
    for high, low, group in ((2, 2, 1), (1, 3, 4), (2, 5, 3), (2, 7, 0)):
        pool = ProgressivePool(high=high, low=low, group=group, mode=mode)
        out = pooled(torch.randn(frames, 49, 2), pool, chunk=4)
        assert pool.planned(frames, 49) == sum(out.counts) == len(out.features_ND)


@pytest.mark.parametrize("mode", ["average", "max", "bilinear", "area"])
@pytest.mark.parametrize("stride", [1, 2, 3, 6])
def test_uniform_pooling_is_grid_pooling(mode: PoolMode, stride: int) -> None:
    features = torch.randn(5, 36, 3)
    expected = grid_pool(features, stride, mode).flatten(0, 1)
    for pool in (
        uniform_pool(stride, mode),
        ProgressivePool(high=stride, low=stride, group=4, mode=mode),
        ProgressivePool(high=stride, low=6, group=0, mode=mode),
    ):
        assert torch.equal(pooled(features, pool, chunk=2).features_ND, expected)
    if stride == 1:
        assert torch.equal(expected, features.flatten(0, 1))


def test_bilinear_is_half_way_between_pixel_centres() -> None:
    """Written out: two taps per axis, no smoothing, from the full map."""
    features = torch.randn(1, 81, 4)
    for stride in (2, 4, 8):
        left = -(-9 // stride)
        places = ((torch.arange(left) + 0.5) * 9 / left - 0.5).clamp(min=0)
        low = places.long()
        upper, share = (low + 1).clamp(max=8), places - low
        weights = torch.zeros(left, 9)
        weights[torch.arange(left), low] += 1 - share
        weights[torch.arange(left), upper] += share
        grid = features.view(9, 9, 4)
        expected = torch.einsum("ru,cv,uvd->rcd", weights, weights, grid).flatten(0, 1)
        torch.testing.assert_close(
            grid_pool(features, stride, "bilinear")[0], expected, rtol=0, atol=1e-5
        )


@pytest.mark.parametrize(("patches", "counts"), [(16, (16, 9)), (5, (5, 5))])
def test_what_is_no_grid_of_one_size(patches: int, counts: tuple[int, ...]) -> None:
    tokens = VisualTokens(
        features_ND=torch.zeros(sum(counts), 2), counts=counts, seconds=(0.0, 1.0)
    )
    with pytest.raises(PromptError, match=r"differ|square grid"):
        list(PAPER(iter([tokens])))


# -- the option -----------------------------------------------------------------------------------

LONGVA = uniform_pool(2)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("2,8,4", (2, 8, 4)),
        ("2, 4, 16", (2, 4, 16)),
        ((2, 8, 4), (2, 8, 4)),
        ("4", (4, 4, 1)),
        (4, (4, 4, 1)),
        ("2,8,0", (2, 8, 0)),
        ("2,2,4", (2, 2, 4)),
        ("paper", (2, 8, 4)),
        ("fine", (2, 4, 4)),
        ("coarse", (2, 8, 16)),
        ("off", (1, 1, 1)),
        (None, (2, 2, 1)),
    ],
)
def test_what_may_be_said(said: object, expected: tuple[int, int, int]) -> None:
    for mode in (None, "average", "area"):
        pool = pool_of(said, mode, LONGVA, 576)
        assert (pool.high, pool.low, pool.group) == expected
        assert pool.mode == (mode or "average")
    assert pool_of(PAPER, None, LONGVA, 576) is PAPER


def test_the_presets_are_of_the_papers_table() -> None:
    at_256 = {name: pool_of(name, "bilinear", LONGVA, 729).planned(256, 729) for name in POOLS}
    assert at_256 == {"paper": 15616, "fine": 21952, "coarse": 6976, "off": 256 * 729}


@pytest.mark.parametrize(
    ("said", "mode", "told"),
    [
        ("0", None, "pool high must be a whole number from 1, got 0"),
        ("2,0,4", None, "pool low must be a whole number from 1, got 0"),
        ("8,2,4", None, "pool strides must rise from the first frame of a group to the others"),
        ("25", None, "stride must be 1..24 for a 24x24 grid, got 25"),
        ("2,25,4", None, "stride must be 1..24 for a 24x24 grid, got 25"),
        ("2,8", None, "pool must be a stride such as 4"),
        ("2,8,4,1", None, "pool must be a stride such as 4"),
        ("-2", None, "pool must be a stride such as 4"),
        ("2.5", None, "pool must be a stride such as 4"),
        ("", None, "pool must be a stride such as 4"),
        ("much", None, "one of paper, fine, coarse, off; got 'much'"),
        ("9" * 5000, None, "pool must be a stride such as 4"),
        ([], None, "pool must be a stride such as 4"),
        (True, None, "pool must be a stride such as 4"),
        (None, "cubic", "pool mode 'cubic' is unknown; choose average, max, bilinear, area"),
        ("4", ["area"], "is unknown; choose average"),
    ],
)
def test_what_means_nothing_is_one_line(said: object, mode: Any, told: str) -> None:
    with pytest.raises(OptionError) as caught:
        pool_of(said, mode, LONGVA, 576)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_stride_beyond_the_grid_leaves_one_token_where_it_interpolates() -> None:
    """Golden cases pool 7 x 7 patches by 8; a mean of full blocks would leave nothing."""
    for mode in ("bilinear", "area"):
        assert pool_of("2,8,4", mode, LONGVA, 49).planned(4, 49) == 16 + 3
    with pytest.raises(OptionError, match=r"stride must be 1\.\.7"):
        pool_of("2,8,4", "average", LONGVA, 49)
