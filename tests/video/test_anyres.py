"""Grids, crops and padding; the published tables and pixels are in tests/parity."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from longtake.errors import CheckpointError, OptionError, VideoError
from longtake.video.anyres import (
    anyres_crops,
    best_resolution,
    grid_cells,
    grid_shape,
    image_crops,
    pad_to_square,
    parse_pinpoints,
    squashed_crops,
)
from longtake.video.pixels import ClipProcessor, resize_image

PROCESSOR = ClipProcessor.from_config(
    {
        "crop_size": 8,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "size": 8,
    }
)
FIVE = ((8, 16), (16, 8), (16, 16), (24, 8), (8, 24))


def image(height: int, width: int) -> Tensor:
    """Uint8 noise [3, H, W]."""
    generator = torch.Generator().manual_seed(1)
    shape = (height, width, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("value", "pinpoints"),
    [
        ([[8, 16], [16, 8]], ((8, 16), (16, 8))),
        (((8, 16),), ((8, 16),)),
        ("[(8, 16), (16, 8)]", ((8, 16), (16, 8))),
        ("[[8, 16]]", ((8, 16),)),
        ("(1x1),...,(2x3)", ((8, 8), (8, 16), (8, 24), (16, 8), (16, 16), (16, 24))),
        ("(2x2)", ((16, 16),)),
        ([], ()),
    ],
)
def test_pinpoints_in_every_spelling(value: object, pinpoints: tuple[Any, ...]) -> None:
    assert parse_pinpoints(value, 8) == pinpoints


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        "nonsense",
        "axb",
        [8, 16],
        [[8, 16, 24]],
        [["8", "16"]],
        [[8, 12]],
        [[0, 8]],
        [[-8, 8]],
        "(0x1),...,(2x2)",
    ],
)
def test_pinpoints_that_are_none(value: object) -> None:
    with pytest.raises(CheckpointError, match="image_grid_pinpoints"):
        parse_pinpoints(value, 8)


@pytest.mark.parametrize(
    ("size_wh", "chosen"),
    [
        ((8, 8), (8, 16)),  # nothing keeps more than the image has: fewest wasted, then the first
        ((15, 15), (16, 16)),
        ((30, 10), (24, 8)),
        ((1, 10_000), (8, 16)),  # every grid keeps 0 x H pixels
    ],
)
def test_best_resolution(size_wh: tuple[int, int], chosen: tuple[int, int]) -> None:
    assert best_resolution(size_wh, FIVE) == chosen


def test_the_first_of_equal_pinpoints_wins() -> None:
    assert best_resolution((8, 8), ((16, 8), (8, 16))) == (16, 8)
    assert best_resolution((8, 8), ((8, 16), (16, 8))) == (8, 16)


def test_grid_shape_counts_columns_and_rows() -> None:
    assert grid_shape((30, 10), FIVE, 8) == (3, 1)
    assert grid_shape((10, 30), FIVE, 8) == (1, 3)


def test_nothing_to_choose_from() -> None:
    with pytest.raises(OptionError, match="no pinpoint"):
        best_resolution((8, 8), ())
    with pytest.raises(VideoError, match="no pixel"):
        best_resolution((0, 8), FIVE)


@pytest.mark.parametrize(
    ("size_hw", "rows", "columns"),
    [
        ((2, 5), slice(1, 3), slice(0, 5)),
        ((5, 2), slice(0, 5), slice(1, 3)),
        ((4, 4), slice(0, 4), slice(0, 4)),
    ],
)
def test_pad_to_square_centres_and_floors(
    size_hw: tuple[int, int], rows: slice, columns: slice
) -> None:
    picture = image(*size_hw)
    padded = pad_to_square(picture, (1, 2, 3))
    side = max(size_hw)
    assert padded.shape == (3, side, side)
    assert torch.equal(padded[:, rows, columns], picture)
    outside = torch.ones(side, side, dtype=torch.bool)
    outside[rows, columns] = False
    for channel, level in enumerate((1, 2, 3)):
        assert (padded[channel][outside] == level).all()


def test_pad_to_square_takes_whole_chunks() -> None:
    pictures_TCHW = torch.stack([image(3, 7), image(3, 7).flip(2)])
    padded = pad_to_square(pictures_TCHW, (9, 9, 9))
    assert torch.equal(padded[1], pad_to_square(pictures_TCHW[1], (9, 9, 9)))


def test_crops_lie_row_by_row_after_the_squashed_whole() -> None:
    picture = image(16, 24)  # fills a grid of 3 x 2 exactly, so nothing is resized
    crops = anyres_crops(picture, ((24, 16),), PROCESSOR)
    assert crops.shape == (7, 3, 8, 8)
    assert torch.equal(crops[0], PROCESSOR(resize_image(picture, (8, 8))[None])[0])
    for n in range(6):
        row, column = divmod(n, 3)
        cell = picture[None, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
        assert torch.equal(crops[1 + n], PROCESSOR(cell)[0])


def test_the_whole_can_be_left_out() -> None:
    picture = image(16, 24)
    without = anyres_crops(picture, FIVE, PROCESSOR, base=False)
    assert torch.equal(without, anyres_crops(picture, FIVE, PROCESSOR)[1:])


def test_what_an_image_does_not_reach_is_black() -> None:
    crops = anyres_crops(torch.full((3, 8, 20), 255, dtype=torch.uint8), ((24, 16),), PROCESSOR)
    black = PROCESSOR(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))[0]
    white = PROCESSOR(torch.full((1, 3, 8, 8), 255, dtype=torch.uint8))[0]
    # 20 x 8 becomes 24 x 10, its 9.6 rows rounded up, between 3 rows of black above and below
    assert torch.equal(crops[1, :, :3], black[:, :3])
    assert torch.equal(crops[1, :, 3:], white[:, 3:])
    assert torch.equal(crops[4, :, :5], white[:, :5])
    assert torch.equal(crops[4, :, 5:], black[:, 5:])


@pytest.mark.parametrize("size_hw", [(1, 3000), (3000, 1), (1, 1), (2, 4096)])
def test_lines_and_dots_have_crops(size_hw: tuple[int, int]) -> None:
    crops = anyres_crops(image(*size_hw), FIVE, PROCESSOR)
    assert crops.shape[1:] == (3, 8, 8)
    assert torch.isfinite(crops).all()


def test_every_aspect_goes_its_way() -> None:
    picture = image(10, 30)
    plain = PROCESSOR(picture[None])
    assert torch.equal(image_crops(picture, None, FIVE, PROCESSOR), plain)
    assert torch.equal(image_crops(picture, "square", FIVE, PROCESSOR), plain)
    padded = PROCESSOR(pad_to_square(picture, PROCESSOR.colour)[None])
    assert torch.equal(image_crops(picture, "pad", FIVE, PROCESSOR), padded)
    assert not torch.equal(padded, plain)
    crops = anyres_crops(picture, FIVE, PROCESSOR)
    assert torch.equal(image_crops(picture, "anyres", FIVE, PROCESSOR), crops)
    assert torch.equal(image_crops(picture, "anyres_max_9", FIVE, PROCESSOR), crops)


@pytest.mark.parametrize(
    ("aspect", "message"),
    [
        ("highres", "Pillow"),
        ("crop_split", "Pillow"),
        ("anyres_nopad", "'anyres'"),
        ("", "must be"),
    ],
)
def test_other_aspects_are_refused(aspect: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        image_crops(image(8, 8), aspect, FIVE, PROCESSOR)


@pytest.mark.parametrize("aspect", [None, "pad", "anyres"])
def test_an_image_without_pixels_is_a_video_error(aspect: str | None) -> None:
    for size_hw in ((0, 8), (8, 0)):
        with pytest.raises(VideoError, match="no pixel"):
            image_crops(image(*size_hw), aspect, FIVE, PROCESSOR)


def test_a_square_too_large_is_a_video_error() -> None:
    with pytest.raises(VideoError, match="padded to a square"):
        pad_to_square(torch.zeros(3, 1, 10_000, dtype=torch.uint8), (0, 0, 0))


# -- VideoChat-Flash ------------------------------------------------------------------------------

SQUASH = ClipProcessor(
    edge=None,
    squash_hw=(14, 14),
    crop_hw=None,
    resample=Image.Resampling.BICUBIC,
    rescale_factor=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
GRIDS = tuple((14 * i, 14 * j) for i in range(1, 7) for j in range(1, 7))


def squashed_by_pillow(picture_CHW: Tensor, size_wh: tuple[int, int]) -> np.ndarray:
    """The base, then the grid row by row: float32 [N, 3, h, w], by Pillow and numpy alone."""
    whole = Image.fromarray(picture_CHW.permute(1, 2, 0).contiguous().numpy())
    side, (width, height) = SQUASH.side, size_wh
    canvas = whole.resize(size_wh)  # Pillow's own filter is bicubic
    crops = [whole.resize((side, side), Image.Resampling.BICUBIC)]
    crops += [
        canvas.crop((left, top, left + side, top + side))
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]
    values_NHWC = np.stack([np.asarray(crop) for crop in crops]).astype(np.float64) / 255
    values_NHWC = values_NHWC.astype(np.float32)
    mean, std = np.array(SQUASH.mean, np.float32), np.array(SQUASH.std, np.float32)
    return ((values_NHWC - mean) / std).transpose(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("size_hw", "columns", "rows"),
    [
        ((14, 14), 1, 1),
        ((14, 28), 2, 1),
        ((28, 14), 1, 2),
        ((20, 40), 3, 2),
        ((40, 20), 2, 3),
        ((33, 71), 6, 3),
        ((5, 90), 6, 1),
        ((90, 5), 1, 6),
        ((300, 300), 6, 6),
        ((1, 1), 1, 1),
        ((1, 400), 1, 1),  # every grid keeps no pixel
    ],
)
def test_squashed_crops_are_those_of_pillow(
    size_hw: tuple[int, int], columns: int, rows: int
) -> None:
    picture = image(*size_hw)
    crops = squashed_crops(picture, GRIDS, SQUASH)
    assert grid_shape(size_hw[::-1], GRIDS, 14) == (columns, rows)
    wanted = squashed_by_pillow(picture, (14 * columns, 14 * rows))
    assert crops.dtype == torch.float32
    assert np.array_equal(crops.numpy(), wanted)


def test_the_base_comes_first_and_rows_follow() -> None:
    picture = image(28, 42)  # fills a grid of 3 x 2, so nothing of it is resized
    crops = squashed_crops(picture, ((42, 28),), SQUASH)
    assert torch.equal(crops[:1], SQUASH(picture[None]))
    for n, crop in enumerate(crops[1:]):
        row, column = divmod(n, 3)
        cell = picture[None, :, row * 14 : row * 14 + 14, column * 14 : column * 14 + 14]
        assert torch.equal(crop, SQUASH(cell)[0])


def test_nothing_of_it_is_black_and_the_aspect_is_lost() -> None:
    white = torch.full((3, 9, 100), 255, dtype=torch.uint8)
    crops = squashed_crops(white, ((14, 28),), SQUASH)
    assert torch.equal(crops, SQUASH(torch.full((3, 3, 14, 14), 255, dtype=torch.uint8)))


def test_grid_cells_are_read_row_by_row() -> None:
    numbers = torch.arange(6).reshape(2, 3).repeat_interleave(4, 0).repeat_interleave(4, 1)
    cells = grid_cells(numbers.expand(3, -1, -1), 4)
    assert cells.shape == (6, 3, 4, 4)
    assert all((cell == n).all() for n, cell in enumerate(cells))
    picture = image(8, 12)
    rows = grid_cells(picture, 4).unflatten(0, (2, 3))
    assert torch.equal(torch.cat([torch.cat(list(row), 2) for row in rows], 1), picture)


@pytest.mark.parametrize("shape", [(3, 0, 8), (3, 8, 0), (1, 8, 8)])
def test_no_image_has_no_squashed_crops(shape: tuple[int, ...]) -> None:
    with pytest.raises(VideoError):
        squashed_crops(torch.zeros(shape, dtype=torch.uint8), GRIDS, SQUASH)
    with pytest.raises(VideoError):
        squashed_crops(torch.zeros(3, 8, 8), GRIDS, SQUASH)
