"""Pictures for training: cards and frames without one, through the model's own processor.

T frames, C channels, H W pixels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from longtake.train.fonts import find_faces
from longtake.train.haystack import haystack_frame, wear
from longtake.train.initial import TOWER
from longtake.video.cards import Card, draw_card, random_look

ASPECTS = (16 / 9, 16 / 9, 4 / 3, 1.0, 2.35, 9 / 16)
"""Width to height of the videos that cards are drawn for."""
PLAIN_FACE = "DejaVuSans-Bold"
MOST_OF_FAMILY = 4
"""Faces of one family, or the families with forty weights would drown the others."""


@cache
def training_faces() -> tuple[str | None, ...]:
    """The training faces in a fixed mixed order, a plain bold one first."""
    faces = [str(face) for face in find_faces().training]
    np.random.default_rng(0).shuffle(faces)
    faces.sort(key=lambda face: PLAIN_FACE + "." not in face)
    families: Counter[str] = Counter()
    chosen: list[str] = []
    for face in faces:
        family = re.split(r"[-_ .\d]", Path(face).stem)[0]
        families[family] += 1
        if families[family] <= MOST_OF_FAMILY:
            chosen.append(face)
    return tuple(chosen)


def card_picture(
    card: Card,
    rng: np.random.Generator,
    faces: Sequence[str | None],
    difficulty: float,
) -> Image.Image:
    """A card at some video's size, worn, as the model sees it."""
    aspect = ASPECTS[int(rng.integers(len(ASPECTS)))]
    area = float(np.exp(rng.uniform(np.log(120 * 120), np.log(210 * 210))))
    width, height = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
    picture = draw_card(card, width, height, random_look(rng, faces, difficulty))
    return squash(wear(picture, rng, difficulty))


def background_picture(rng: np.random.Generator) -> Image.Image:
    """A frame without a card as the model sees it."""
    return squash(wear(haystack_frame(rng), rng, 0.8))


def squash(picture: Image.Image) -> Image.Image:
    """The bundled model's resize: to its square, so that no part of a card is cut off."""
    return picture.resize((TOWER.image, TOWER.image), Image.Resampling.BICUBIC)


def to_pixels(pictures: Sequence[Image.Image]) -> Tensor:
    """Squashed pictures -> normalised pixels [T, 3, H, W], mean and deviation 0.5."""
    bytes_THWC = np.stack([np.asarray(picture) for picture in pictures])
    return torch.from_numpy(bytes_THWC).permute(0, 3, 1, 2).float() / 127.5 - 1.0
