"""An image's crops put together again: one map of patches, without borders, not too large.

B crops, P patches of a crop (a square grid), R K rows and columns of the map, D width.
"""

import math

import torch.nn.functional as F
from torch import Tensor

SLACK = 1.1
"""A map is shrunk only if its sides are more than this times too long (LLaVA-OneVision)."""


def crop_map(crops_BPD: Tensor, columns: int) -> Tensor:
    """Lay crops out row by row, `columns` beside one another: [B, P, D] -> [R, K, D]."""
    side = math.isqrt(crops_BPD.shape[1])
    tiles = crops_BPD.unflatten(1, (side, side)).unflatten(0, (-1, columns))
    return tiles.transpose(1, 2).flatten(2, 3).flatten(0, 1)


def unpadded(map_RKD: Tensor, size_wh: tuple[int, int]) -> Tensor:
    """Cut off the borders that an image of this width and height was centred between.

    Both sides lose the same, so a border of an odd number of patches keeps one.
    """
    width, height = size_wh
    rows, columns = map_RKD.shape[:2]
    # the products are truncated as doubles, in this order: published row counts depend on it
    if width / height > columns / rows:
        border = (rows - int(height * (columns / width))) // 2
        return map_RKD[border : rows - border]
    border = (columns - int(width * (rows / height))) // 2
    return map_RKD[:, border : columns - border]


def shrunk(map_RKD: Tensor, most: int) -> Tensor:
    """Interpolate a map of clearly more than `most` patches down to about so many, bilinearly."""
    rows, columns = map_RKD.shape[:2]
    times = math.sqrt(rows * columns / most)
    if times <= SLACK:
        return map_RKD
    size = (int(rows // times), int(columns // times))
    return F.interpolate(map_RKD.permute(2, 0, 1)[None], size, mode="bilinear")[0].permute(1, 2, 0)
