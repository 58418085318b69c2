"""Still images in."""

import os

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from longtake.errors import VideoError


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a still image PIL knows, by its content; animations are videos."""
    try:
        with Image.open(path) as image:
            return not getattr(image, "is_animated", False)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return False


def open_image(path: str | os.PathLike[str]) -> Tensor:
    """Read an image: uint8 [3, H, W], transparency dropped as the originals do.

    Raises VideoError if it is damaged or too large to be safe.
    """
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(f"image {os.fspath(path)} cannot be read ({error})") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)
