"""Images as crops: the grids of anyres and UniRes, and padding to a square.

C channels, H W pixels, R K rows and columns of a grid, h w pixels of a crop, N crops. Sizes are
(width, height), as the published pinpoints are.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from longtake.errors import CheckpointError, OptionError, VideoError
from longtake.video.pixels import MAX_PIXELS, ClipProcessor, check_frames, resize_image

Size = tuple[int, int]
"""Width and height in pixels."""


def parse_pinpoints(value: object, patch: int) -> tuple[Size, ...]:
    """Read a config's image_grid_pinpoints: sizes, or a range of grids such as "(1x1),...,(6x6)".

    A range means every grid between its first and its last, columns outermost, of squares of
    `patch` pixels; an empty list is none. Raises CheckpointError for anything else, or a size that
    is no grid of such squares.
    """
    if isinstance(value, str) and "x" in value:
        pinpoints = _grid_range(value, patch)
    else:
        pinpoints = _size_list(_literal(value) if isinstance(value, str) else value)
    for width, height in pinpoints:
        if width % patch or height % patch or width < patch or height < patch:
            raise CheckpointError(
                f"image_grid_pinpoints holds {width}x{height}, no grid of {patch}x{patch} squares"
            )
    return pinpoints


def best_resolution(size_wh: Size, pinpoints: Sequence[Size]) -> Size:
    """Pick the pinpoint that keeps most of an image's pixels, then the one that wastes fewest.

    The first of equals wins. Raises VideoError for an image without pixels and OptionError without
    pinpoints.
    """
    width, height = size_wh
    _check_pixels(size_wh)
    if not pinpoints:
        raise OptionError("there is no pinpoint to choose from; give at least one")

    def rank(pinpoint: Size) -> tuple[int, int]:
        scale = min(pinpoint[0] / width, pinpoint[1] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - pinpoint[0] * pinpoint[1]

    return max(pinpoints, key=rank)


def grid_shape(size_wh: Size, pinpoints: Sequence[Size], side: int) -> Size:
    """Columns and rows of the squares of `side` pixels an image is cut into."""
    width, height = best_resolution(size_wh, pinpoints)
    return width // side, height // side


def pad_to_square(pixels_CHW: Tensor, colour: tuple[int, int, int]) -> Tensor:
    """Centre pictures on a square of their longest side: uint8 [..., 3, H, W] -> [..., 3, S, S].

    Of an odd number of added rows or columns, the larger half comes last. V-NIAH and the image
    aspect "pad" use the processor's `colour`. Raises VideoError if the square would be too large.
    """
    width, height = _size(pixels_CHW)
    _check_pixels((width, height))
    side = max(height, width)
    if side * side > MAX_PIXELS:
        raise VideoError(
            f"a {width}x{height} picture padded to a square has {side * side} pixels, "
            f"at most {MAX_PIXELS}; shrink it first"
        )
    return _on_canvas(pixels_CHW, (side, side), colour)


def anyres_crops(
    image_CHW: Tensor, pinpoints: Sequence[Size], processor: ClipProcessor, *, base: bool = True
) -> Tensor:
    """Cut an image into the squares of its best grid: uint8 [3, H, W] -> float32 [N, 3, h, w].

    Crop 0 is the whole image squashed to a square, unless `base` is false (UniRes drops its
    features); then the grid row by row, black where the image does not reach.
    """
    check_frames(image_CHW[None])
    width, height = best_resolution(_size(image_CHW), pinpoints)
    side = processor.side
    canvas_CHW = _on_canvas(_fitted(image_CHW, (width, height)), (width, height), (0, 0, 0))
    grid_NCHW = processor(grid_cells(canvas_CHW, side))
    if not base:
        return grid_NCHW
    squashed_CHW = resize_image(image_CHW, (processor.edge or side,) * 2)
    return torch.cat([processor(squashed_CHW[None]), grid_NCHW])


def squashed_crops(
    image_CHW: Tensor, pinpoints: Sequence[Size], processor: ClipProcessor
) -> Tensor:
    """Squash an image onto its best grid: uint8 [3, H, W] -> float32 [1 + R*K, 3, h, w].

    As "anyres_nopad" (VideoChat-Flash): no black, the aspect is lost. Crop 0 is the whole image
    squashed to a square, then the grid row by row.
    """
    check_frames(image_CHW[None])
    width, height = best_resolution(_size(image_CHW), pinpoints)
    whole_CHW = resize_image(image_CHW, (height, width), processor.resample)
    base_NCHW = processor(image_CHW[None])
    return torch.cat([base_NCHW, processor(grid_cells(whole_CHW, processor.side))])


def grid_cells(image_CHW: Tensor, side: int) -> Tensor:
    """Cut an image into squares, row by row: [3, R*side, K*side] -> [R*K, 3, side, side]."""
    rows_CRhW = image_CHW.unflatten(1, (-1, side))
    return rows_CRhW.unflatten(3, (-1, side)).permute(1, 3, 0, 2, 4).flatten(0, 1)


def image_crops(
    image_CHW: Tensor, aspect: str | None, pinpoints: Sequence[Size], processor: ClipProcessor
) -> Tensor:
    """Process an image as a config's image_aspect_ratio says: uint8 [3, H, W] -> [N, 3, h, w].

    Raises OptionError for an aspect that is unknown or that the original cannot do either.
    """
    if aspect in (None, "square"):
        return processor(image_CHW[None])
    if aspect == "pad":
        return processor(pad_to_square(image_CHW[None], processor.colour))
    if aspect == "anyres" or aspect.startswith("anyres_max_"):
        return anyres_crops(image_CHW, pinpoints, processor)
    if aspect in ("highres", "crop_split"):
        raise OptionError(
            f"image_aspect_ratio {aspect!r} has no working original: it needs a constant that "
            "current Pillow dropped; use 'anyres', 'pad' or 'square'"
        )
    raise OptionError(f"image_aspect_ratio must be 'anyres', 'pad' or 'square', got {aspect!r}")


def _grid_range(value: str, patch: int) -> tuple[Size, ...]:
    grids = [(int(columns), int(rows)) for columns, rows in re.findall(r"\((\d+)x(\d+)\)", value)]
    if not grids:
        raise CheckpointError(
            f"image_grid_pinpoints is {value!r}, expected grids such as '(1x1),...,(6x6)'"
        )
    first, last = grids[0], grids[-1]
    return tuple(
        (columns * patch, rows * patch)
        for columns in range(first[0], last[0] + 1)
        for rows in range(first[1], last[1] + 1)
    )


def _literal(value: str) -> object:
    """Read a list written as a string, as the training command lines did."""
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _size_list(value: object) -> tuple[Size, ...]:
    if isinstance(value, list | tuple):
        sizes = [tuple(size) for size in value if isinstance(size, list | tuple)]
        if len(sizes) == len(value) and all(_is_size(size) for size in sizes):
            return tuple((width, height) for width, height in sizes)
    raise CheckpointError(f"image_grid_pinpoints is {value!r}, expected a list of [width, height]")


def _is_size(size: tuple[object, ...]) -> bool:
    return len(size) == 2 and all(isinstance(side, int) for side in size)


def _check_pixels(size_wh: Size) -> None:
    if min(size_wh) < 1:
        raise VideoError(f"a picture of {size_wh[0]}x{size_wh[1]} holds no pixel")


def _size(image_CHW: Tensor) -> Size:
    return int(image_CHW.shape[-1]), int(image_CHW.shape[-2])


def _fitted(image_CHW: Tensor, box_wh: Size) -> Tensor:
    """Resize an image to touch a box from within, its other side rounded up."""
    width, height = _size(image_CHW)
    scale_w, scale_h = box_wh[0] / width, box_wh[1] / height
    if scale_w < scale_h:
        return resize_image(image_CHW, (min(math.ceil(height * scale_w), box_wh[1]), box_wh[0]))
    return resize_image(image_CHW, (box_wh[1], min(math.ceil(width * scale_h), box_wh[0])))


def _on_canvas(pixels_CHW: Tensor, canvas_wh: Size, colour: tuple[int, int, int]) -> Tensor:
    """Paste pictures on the centre of a canvas, floored; its memory is channels-last, as PIL's."""
    width, height = _size(pixels_CHW)
    canvas_HWC = torch.tensor(colour, dtype=torch.uint8).repeat(
        *pixels_CHW.shape[:-3], canvas_wh[1], canvas_wh[0], 1
    )
    canvas_CHW = canvas_HWC.movedim(-1, -3)
    left, top = (canvas_wh[0] - width) // 2, (canvas_wh[1] - height) // 2
    canvas_CHW[..., top : top + height, left : left + width] = pixels_CHW
    return canvas_CHW
