"""Maps of an image's crops: against loops over patches, and the original's order of dimensions."""

import math

import pytest
import torch
import torch.nn.functional as F

from longtake.parts.mosaic import crop_map, shrunk, unpadded


@pytest.mark.parametrize(("rows", "columns", "side"), [(1, 1, 3), (2, 3, 2), (3, 1, 5), (1, 4, 1)])
def test_a_map_equals_a_loop_over_patches(rows: int, columns: int, side: int) -> None:
    crops_BPD = torch.randn(rows * columns, side * side, 2)
    made = crop_map(crops_BPD, columns)
    assert made.shape == (rows * side, columns * side, 2)
    for row in range(rows * side):
        for column in range(columns * side):
            crop = row // side * columns + column // side
            patch = row % side * side + column % side
            assert torch.equal(made[row, column], crops_BPD[crop, patch])


def kept(rows: int, columns: int, size_wh: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last row and column that stay of a map."""
    map_RKD = torch.stack(
        torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), dim=-1
    )
    left = unpadded(map_RKD, size_wh)
    (top, first), (bottom, last) = left[0, 0].tolist(), left[-1, -1].tolist()
    return top, bottom, first, last


@pytest.mark.parametrize(
    ("rows", "columns", "size_wh", "stays"),
    [
        (27, 54, (430, 240), (0, 26, 3, 50)),  # 48 of 54 columns
        (54, 27, (240, 430), (3, 50, 0, 26)),
        (28, 35, (440, 370), (0, 27, 1, 33)),  # a golden case: 33 of 35 columns
        (27, 27, (100, 100), (0, 26, 0, 26)),
        (14, 14, (100, 57), (3, 10, 0, 13)),  # int(7.98) = 7 rows: 3 on each side, 8 stay
        # 100 * (27 / 100) is 27.0, 29 * (27 / 29) falls short of 27: a row is not lost for it
        (27, 54, (58, 29), (0, 26, 0, 53)),
    ],
)
def test_borders(
    rows: int, columns: int, size_wh: tuple[int, int], stays: tuple[int, int, int, int]
) -> None:
    assert kept(rows, columns, size_wh) == stays


def test_an_image_thinner_than_a_patch_leaves_nothing() -> None:
    """As the original: of an even number of rows none is kept, of an odd one the middle."""
    assert unpadded(torch.zeros(28, 28, 1), (1000, 1)).shape == (0, 28, 1)
    assert unpadded(torch.zeros(27, 27, 1), (1000, 1)).shape == (1, 27, 1)
    assert unpadded(torch.zeros(28, 28, 1), (1, 1000)).shape == (28, 0, 1)


@pytest.mark.parametrize(
    ("rows", "columns", "most", "size"),
    [
        (27, 54, 9 * 729, (27, 54)),
        (108, 108, 9 * 729, (81, 81)),
        (28, 33, 9 * 49, (19, 22)),  # a golden case: t = 1.4475
        (11, 11, 100, (11, 11)),  # t = 1.1 is not above 1.1
        (12, 11, 100, (10, 9)),
    ],
)
def test_shrinking(rows: int, columns: int, most: int, size: tuple[int, int]) -> None:
    map_RKD = torch.randn(rows, columns, 3)
    made = shrunk(map_RKD, most)
    assert made.shape == (*size, 3)
    if size == (rows, columns):
        assert made is map_RKD
        return
    times = math.sqrt(rows * columns / most)
    for row, column in ((0, 0), (size[0] - 1, size[1] // 2), (size[0] // 2, size[1] - 1)):
        # half-pixel centres, two taps in each direction, no antialiasing
        y = max(0.0, (row + 0.5) * rows / size[0] - 0.5)
        x = max(0.0, (column + 0.5) * columns / size[1] - 0.5)
        down, right = min(int(y) + 1, rows - 1), min(int(x) + 1, columns - 1)
        dy, dx = y - int(y), x - int(x)
        above = map_RKD[int(y), int(x)] * (1 - dx) + map_RKD[int(y), right] * dx
        below = map_RKD[down, int(x)] * (1 - dx) + map_RKD[down, right] * dx
        torch.testing.assert_close(made[row, column], above * (1 - dy) + below * dy)
    smooth = F.interpolate(map_RKD.movedim(2, 0)[None], size, mode="bilinear", antialias=True)
    assert float((smooth[0].movedim(0, 2) - made).abs().max()) > 0.05
    assert times > 1.1
