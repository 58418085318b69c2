"""Generated frames without a card, and the wear that a picture suffers on its way into a video.

Nothing here is a photograph: fractal noise, gradients, shapes, stripes, stray text and things that
almost look like cards. The bundled model's real test clips are never used for training.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from longtake.train.words import LETTERS

SIDE = 128
"""Width and height of a generated frame; the model sees 96."""

Painter = Callable[[np.random.Generator], Image.Image]


def haystack_frame(rng: np.random.Generator) -> Image.Image:
    """One RGB frame that holds no card."""
    frame = PAINTERS[int(rng.integers(len(PAINTERS)))](rng)
    for overlay, chance in (
        (_shapes, 0.45),
        (_stray_text, 0.25),
        (_bare_plate, 0.15),
        (_bars, 0.15),
    ):
        if rng.uniform() < chance:
            overlay(frame, rng)
    return frame


def wear(picture: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
    """Blur, tone, noise and a JPEG round trip, each at random up to `strength` (0 to 1)."""
    if rng.uniform() < 0.3 * strength:
        sigma = 0.004 * picture.width * strength * float(rng.uniform())
        picture = picture.filter(ImageFilter.GaussianBlur(sigma))
    if rng.uniform() < 0.8 * strength:
        picture = picture.point(_tone_curves(rng, strength))
    if rng.uniform() < 0.4 * strength:
        picture = _noisy(picture, rng, 14 * strength * float(rng.uniform()))
    if rng.uniform() < 0.5 * strength:
        packed = io.BytesIO()
        picture.save(packed, "JPEG", quality=int(rng.integers(95 - round(65 * strength), 96)))
        picture = Image.open(packed).convert("RGB")
    return picture


def _tone_curves(rng: np.random.Generator, strength: float) -> list[int]:
    """Lookup tables of the three channels: a common gamma and contrast, a slight tint."""
    gamma = float(np.exp(rng.uniform(-0.35, 0.35) * strength))
    low, high = float(rng.uniform(0, 30)) * strength, 255 - float(rng.uniform(0, 40)) * strength
    tints = 1 + rng.uniform(-0.06, 0.06, 3) * strength
    ramp = np.linspace(0, 1, 256) ** gamma
    tables = [np.clip((low + (high - low) * ramp) * tint, 0, 255) for tint in tints]
    return [int(value) for table in tables for value in table]


def _noisy(picture: Image.Image, rng: np.random.Generator, sigma: float) -> Image.Image:
    pixels = np.asarray(picture, dtype=np.float32)
    pixels = pixels + rng.standard_normal(pixels.shape, dtype=np.float32) * sigma
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """Half the time a dull colour, half the time any."""
    red, green, blue = rng.integers(0, 256, 3)
    if rng.uniform() < 0.5:
        grey = int(rng.integers(0, 256))
        return (int(red) + 3 * grey) // 4, (int(green) + 3 * grey) // 4, (int(blue) + 3 * grey) // 4
    return int(red), int(green), int(blue)


def _fractal(rng: np.random.Generator) -> Image.Image:
    """Octaves of smooth noise: clouds, foliage, water, with a palette of two or three colours."""
    fall = float(rng.uniform(0.35, 0.95))
    field = np.zeros((SIDE, SIDE), np.float32)
    for octave in range(int(rng.integers(2, 7))):
        cells = 2 ** (octave + 1)
        stretch = int(rng.integers(1, 3))
        coarse = rng.random((cells, cells * stretch), dtype=np.float32)
        grown = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        field += np.asarray(grown) * fall**octave
    field = (field - field.min()) / max(float(np.ptp(field)), 1e-6)
    return _toned(field, rng)


def _toned(field: npt.NDArray[np.float32], rng: np.random.Generator) -> Image.Image:
    stops = np.array([_colour(rng) for _ in range(int(rng.integers(2, 5)))], dtype=np.float32)
    at = np.linspace(0, 1, len(stops))
    channels = [np.interp(field, at, stops[:, c]) for c in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def _gradient(rng: np.random.Generator) -> Image.Image:
    """A straight or round gradient: skies, walls, vignettes."""
    y, x = np.mgrid[0 : 1 : SIDE * 1j, 0 : 1 : SIDE * 1j].astype(np.float32)
    if rng.uniform() < 0.5:
        angle = float(rng.uniform(0, 2 * np.pi))
        field = x * np.cos(angle) + y * np.sin(angle)
    else:
        field = np.hypot(x - float(rng.uniform()), y - float(rng.uniform()))
    field = (field - field.min()) / max(float(np.ptp(field)), 1e-6)
    return _toned(field.astype(np.float32), rng)


def _stripes(rng: np.random.Generator) -> Image.Image:
    """Waves and grids: fences, windows, fields."""
    y, x = np.mgrid[0 : 1 : SIDE * 1j, 0 : 1 : SIDE * 1j].astype(np.float32)
    angle, rate = float(rng.uniform(0, np.pi)), float(rng.uniform(8, 120))
    field = np.sin((x * np.cos(angle) + y * np.sin(angle)) * rate + float(rng.uniform(0, 6)))
    if rng.uniform() < 0.5:
        field *= np.sin((y * np.cos(angle) - x * np.sin(angle)) * float(rng.uniform(8, 120)))
    return _toned(((field + 1) / 2).astype(np.float32), rng)


def _flat(rng: np.random.Generator) -> Image.Image:
    """One colour, as in fades and slides."""
    return Image.new("RGB", (SIDE, SIDE), _colour(rng))


def _box(rng: np.random.Generator, largest: float) -> tuple[int, int, int, int]:
    wide, tall = rng.uniform(0.05, largest, 2) * SIDE
    x, y = float(rng.uniform(-0.1, 0.95)) * SIDE, float(rng.uniform(-0.1, 0.95)) * SIDE
    return int(x), int(y), int(x + wide), int(y + tall)


def _shapes(frame: Image.Image, rng: np.random.Generator) -> None:
    """Boxes, discs and lines in front of what is there."""
    draw = ImageDraw.Draw(frame)
    for _ in range(int(rng.integers(1, 14))):
        box, colour, kind = _box(rng, 0.6), _colour(rng), int(rng.integers(4))
        if kind == 0:
            draw.rectangle(box, fill=colour)
        elif kind == 1:
            draw.ellipse(box, fill=colour)
        elif kind == 2:
            draw.line(box, fill=colour, width=int(rng.integers(1, 9)))
        else:
            draw.polygon([*box[:2], *box[2:], box[2], box[1]], fill=colour)


def _stray_text(frame: Image.Image, rng: np.random.Generator) -> None:
    """Titles, subtitles and signs of any size; they are no cards."""
    draw = ImageDraw.Draw(frame)
    for _ in range(int(rng.integers(1, 5))):
        font = ImageFont.load_default(int(rng.integers(7, 34)))
        text = "".join(
            _SIGNS[int(i)] for i in rng.integers(0, len(_SIGNS), int(rng.integers(3, 16)))
        )
        x, y = rng.uniform(-0.1, 0.8, 2) * SIDE
        draw.text((float(x), float(y)), text, font=font, fill=_colour(rng))


_SIGNS: Sequence[str] = LETTERS + LETTERS.lower() + "0123456789    .,:-"


def _bare_plate(frame: Image.Image, rng: np.random.Generator) -> None:
    """A light plate without a word: paper, windows, screens."""
    x, y = rng.uniform(0, 0.3, 2) * SIDE
    right, bottom = rng.uniform(0.6, 1, 2) * SIDE
    light = int(rng.integers(190, 256))
    box = (int(x), int(y), int(right), int(bottom))
    ImageDraw.Draw(frame).rounded_rectangle(box, radius=4, fill=(light, light, light))
    if rng.uniform() < 0.5:
        _shapes(frame, rng)


def _bars(frame: Image.Image, rng: np.random.Generator) -> None:
    """The bars of a letter-boxed or pillar-boxed film."""
    size = int(rng.uniform(0.05, 0.25) * SIDE)
    draw = ImageDraw.Draw(frame)
    if rng.uniform() < 0.5:
        draw.rectangle((0, 0, SIDE, size), fill=0)
        draw.rectangle((0, SIDE - size, SIDE, SIDE), fill=0)
    else:
        draw.rectangle((0, 0, size, SIDE), fill=0)
        draw.rectangle((SIDE - size, 0, SIDE, SIDE), fill=0)


PAINTERS: Sequence[Painter] = (_fractal, _fractal, _fractal, _gradient, _stripes, _flat)
