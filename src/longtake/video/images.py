"""Still images in."""

import os
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from longtake.errors import VideoError


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a still image PIL knows, by its content; animations are videos."""
    try:
        with Image.open(path) as image:
            # an MPO is a phone's JPEG with previews behind it
            return image.format == "MPO" or not getattr(image, "is_animated", False)
    except Image.DecompressionBombError:
        return True  # to be refused by open_image
    except (UnidentifiedImageError, OSError, ValueError):
        return False


def open_image(path: str | os.PathLike[str], file: BinaryIO | None = None) -> Tensor:
    """Read an image: uint8 [3, H, W], transparency dropped as the originals do.

    `file`: what holds it, where `path` only names it. Raises VideoError if it is damaged or too
    large to be safe.
    """
    try:
        with Image.open(path if file is None else file) as image:
            pixels = np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(f"image {os.fspath(path)} cannot be read ({error})") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)
