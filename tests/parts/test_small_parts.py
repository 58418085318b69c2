"""Pooling, splicing and prompts."""

from dataclasses import replace
from itertools import repeat

import pytest
import torch
import torch.nn.functional as F

from longtake.errors import PromptError
from longtake.parts.chat import QWEN_1_5, visuals_prefix
from longtake.parts.pooling import grid_pool, uniform_pool
from longtake.parts.splice import entries_of, flat_ids, pieces_of, rechunk
from longtake.types import VisualTokens


def tokens(frames: int, patches: int, width: int = 3) -> VisualTokens:
    return VisualTokens(
        features_ND=torch.randn(frames * patches, width),
        counts=(patches,) * frames,
        seconds=tuple(float(n) for n in range(frames)),
    )


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("mode", ["average", "max"])
def test_grid_pool_is_rowwise_blocks(stride: int, mode: str) -> None:
    features = torch.randn(2, 36, 5)
    pooled = grid_pool(features, stride, mode)  # type: ignore[arg-type]
    side = 6 // stride
    for row in range(side):
        for column in range(side):
            block = features.view(2, 6, 6, 5)[
                :, row * stride : (row + 1) * stride, column * stride : (column + 1) * stride
            ].flatten(1, 2)
            expected = block.mean(1) if mode == "average" else block.amax(1)
            torch.testing.assert_close(pooled[:, row * side + column], expected)


def test_pooling_by_two_is_bilinear_but_by_three_is_not() -> None:
    """What the goldens can and cannot tell apart (LongVA's spec, section 2.3)."""
    grid = torch.randn(1, 4, 6, 6)
    flat = grid.flatten(2).transpose(1, 2)
    for stride, same in ((2, True), (3, False)):
        bilinear = F.interpolate(grid, scale_factor=1 / stride, mode="bilinear")
        pooled = grid_pool(flat, stride).transpose(1, 2).unflatten(2, (6 // stride, -1))
        assert torch.allclose(pooled, bilinear, atol=1e-6) == same


@pytest.mark.parametrize(("patches", "stride"), [(35, 2), (36, 7), (36, 0)])
def test_grid_pool_refuses(patches: int, stride: int) -> None:
    with pytest.raises(PromptError, match="grid"):
        grid_pool(torch.zeros(1, patches, 2), stride)


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_pooling_by_chunks_is_pooling_at_once(chunk: int) -> None:
    whole = tokens(8, 16)
    parts = [
        VisualTokens(
            features_ND=whole.features_ND[at * 16 : (at + chunk) * 16],
            counts=whole.counts[at : at + chunk],
            seconds=whole.seconds[at : at + chunk],
        )
        for at in range(0, 8, chunk)
    ]
    compress = uniform_pool(2)
    streamed = VisualTokens.join(list(compress(iter(parts))))
    at_once = VisualTokens.join(list(compress(iter([whole]))))
    torch.testing.assert_close(streamed.features_ND, at_once.features_ND, rtol=0, atol=0)
    assert streamed.counts == at_once.counts == (4,) * 8
    assert streamed.seconds == whole.seconds


@pytest.mark.parametrize("size", [1, 4, 5, 100])
def test_rechunk(size: int) -> None:
    pieces = [torch.randn(n, 2) for n in (3, 1, 9, 2, 8)]
    blocks = list(rechunk(iter(pieces), repeat(size)))
    torch.testing.assert_close(torch.cat(blocks), torch.cat(pieces), rtol=0, atol=0)
    assert [len(block) for block in blocks[:-1]] == [size] * (len(blocks) - 1)
    assert 0 < len(blocks[-1]) <= size
    assert list(rechunk(iter([]), repeat(size))) == []


def test_pieces_and_counts() -> None:
    first, second = tokens(1, 4), tokens(2, 4)
    pieces = pieces_of("ab<image> <image>\nc", [first, second], lambda text: list(text.encode()))
    assert [piece for piece in pieces if isinstance(piece, tuple)] == [(97, 98), (32,), (10, 99)]
    visuals = [piece for piece in pieces if isinstance(piece, VisualTokens)]
    assert [visual.features_ND for visual in visuals] == [first.features_ND, second.features_ND]
    assert [visual.visual for visual in visuals] == [0, 1]
    assert flat_ids(pieces) == [97, 98, -200, 32, -200, 10, 99]
    with pytest.raises(PromptError, match="2 <image> placeholders for 1 visuals"):
        pieces_of("<image><image>", [first], lambda text: [1])
    with pytest.raises(PromptError, match="0 <image> placeholders for 1 visuals"):
        pieces_of("no place", [first], lambda text: [1])


def test_entries() -> None:
    entries = entries_of(replace(tokens(3, 4), visual=1), 10)
    assert [(e.start, e.stop, e.seconds, e.visual) for e in entries] == [
        (10, 14, 0.0, 1),
        (14, 18, 1.0, 1),
        (18, 22, 2.0, 1),
    ]


def test_ragged_counts_are_checked() -> None:
    with pytest.raises(PromptError, match="counts sum to 3"):
        VisualTokens(features_ND=torch.zeros(4, 2), counts=(1, 2), seconds=(0.0, 1.0))
    with pytest.raises(PromptError, match="2 entries but 1 times"):
        VisualTokens(features_ND=torch.zeros(3, 2), counts=(1, 2), seconds=(0.0,))


def test_qwen_prompt() -> None:
    """The published qwen_1_5 string, from LongVA's specification."""
    expected = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nThat.<|im_end|>\n"
        "<|im_start|>user\n<image>\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert QWEN_1_5.prompt(visuals_prefix(1) + "Why?", [("What?", "That.")]) == expected
    assert visuals_prefix(0) == ""
    assert visuals_prefix(2) == "<image> <image>\n"
