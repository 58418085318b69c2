"""Cards: pictures with a number, a word and a colour, the needles of our haystacks.

A card fills the frame like a title: a coloured ground, a light plate on it, two digits in the upper
row and three to six capitals in the lower one, left-aligned in cells of equal width. It is laid out
in shares of the frame and stretched to it, so that every letter keeps its place whatever the
video's size, also after a processor has squashed the frame to a square. `longtake.video.insert`
puts a card into a clip.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from longtake.errors import OptionError, VideoError

HUES = {
    "red": 0.0,
    "orange": 0.075,
    "yellow": 0.152,
    "green": 0.36,
    "cyan": 0.5,
    "blue": 0.62,
    "purple": 0.765,
    "pink": 0.9,
}
"""Name of a ground's colour and its hue on the colour wheel, 0 to 1."""

CELL = 0.145
"""Width of a letter's cell; six of them and a margin fill the frame."""
LEFT = 0.06
"""Left edge of the first cell."""
ROWS = {"number": 0.27, "word": 0.60}
"""Middle of each row of text; the strip below is kept for later fields."""
CAP_HEIGHT = 0.23
"""Height of a capital."""
GLYPH_SIZES = (24, 48, 96, 192, 384)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card says."""

    number: int
    """10 to 99."""
    word: str
    """3 to 6 capitals A to Z."""
    colour: str
    """One of HUES."""

    def __post_init__(self) -> None:
        if not 10 <= self.number <= 99:
            raise OptionError(f"a card's number must be 10 to 99, got {self.number}")
        letters = self.word.isascii() and self.word.isalpha() and self.word.isupper()
        if not (letters and 3 <= len(self.word) <= 6):
            raise OptionError(f"a card's word must be 3 to 6 capitals, got {self.word!r}")
        if self.colour not in HUES:
            raise OptionError(f"card colour {self.colour!r} is unknown; choose {', '.join(HUES)}")


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a card is drawn; the default is plain. Lengths are shares of the frame."""

    face: str | None = None
    """Path of a font file; None is the face that Pillow carries."""
    shift: tuple[float, float] = (0.0, 0.0)
    """Offset of all text, right and down."""
    scale: float = 1.0
    """Factor on the letters and their cells."""
    width: float = 0.78
    """A letter is at most this share of its cell wide."""
    height: float = 1.0
    """Factor on the height of the letters alone."""
    ground: tuple[float, float, float] = (0.0, 0.9, 0.85)
    """Change of hue, saturation and value of the ground."""
    plate: tuple[int, int, int] = (244, 244, 240)
    """Colour of the plate."""
    ink: tuple[int, int, int] = (18, 18, 22)
    """Colour of the letters."""
    inset: tuple[float, float] = (0.022, 0.09)
    """Margin of the plate, across and down."""
    border: float = 0.0
    """Width of a line around the plate in the ink's colour."""


def random_card(rng: np.random.Generator, words: Sequence[str]) -> Card:
    """A card with a word out of `words`."""
    return Card(
        number=int(rng.integers(10, 100)),
        word=words[int(rng.integers(len(words)))],
        colour=list(HUES)[int(rng.integers(len(HUES)))],
    )


def random_look(
    rng: np.random.Generator, faces: Sequence[str | None], difficulty: float = 1.0
) -> Look:
    """A look with one of the faces; difficulty 0 is plain, 1 all the variety trained on."""
    wobble = [float(x) for x in rng.uniform(-difficulty, difficulty, 10)]
    grey = [int(x) for x in rng.uniform(0, 1, 6) * 34 * difficulty]
    return Look(
        face=faces[int(rng.integers(len(faces)))],
        shift=(0.01 * wobble[0], 0.018 * wobble[1]),
        scale=1.0 + 0.02 * wobble[2],
        width=0.78 + 0.08 * wobble[3],
        height=1.0 + 0.08 * wobble[4],
        ground=(0.012 * wobble[5], 0.85 + 0.13 * wobble[6], 0.85 + 0.13 * wobble[7]),
        plate=(250 - grey[0], 250 - grey[1], 250 - grey[2]),
        ink=(12 + grey[3], 12 + grey[4], 14 + grey[5]),
        inset=(0.022 + 0.01 * wobble[8], 0.09 + 0.02 * wobble[9]),
        border=0.012 if rng.uniform() < 0.3 * difficulty else 0.0,
    )


def draw_card(card: Card, width: int, height: int, look: Look | None = None) -> Image.Image:
    """An RGB picture of width x height. Raises OptionError for an unfit frame or font."""
    if width < 32 or height < 32:
        raise OptionError(f"a card needs 32 x 32 pixels or more, got {width} x {height}")
    look = look or Look()
    picture = Image.new("RGB", (width, height), _ground(card.colour, look))
    _draw_plate(picture, look)
    for text, middle in ((str(card.number), ROWS["number"]), (card.word, ROWS["word"])):
        for index, letter in enumerate(text):
            _draw_letter(picture, letter, index, middle, look)
    return picture


def has_letters(face: str) -> bool:
    """Whether a font file draws all capitals and digits, each differently."""
    try:
        shapes = {letter: _glyph(face, letter, GLYPH_SIZES[1]) for letter in LETTERS}
    except OptionError:
        return False
    return len({(shape.size, shape.tobytes()) for shape in shapes.values()}) == len(LETTERS)


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def _ground(colour: str, look: Look) -> tuple[int, int, int]:
    hue = (HUES[colour] + look.ground[0]) % 1.0
    saturation, value = min(look.ground[1], 1.0), min(look.ground[2], 1.0)
    if colour == "pink":
        saturation *= 0.55  # a pale purplish red; at full saturation it is a second purple
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _draw_plate(picture: Image.Image, look: Look) -> None:
    width, height = picture.size
    across, down = look.inset
    # the lower strip stays free: the ground's colour must be seen, and later fields need room
    box = (across * width, down * height, (1 - across) * width, (0.88 - down) * height)
    ImageDraw.Draw(picture).rounded_rectangle(
        box,
        radius=0.04 * min(width, height),
        fill=look.plate,
        outline=look.ink if look.border else None,
        width=max(1, round(look.border * min(width, height))),
    )


def _draw_letter(picture: Image.Image, letter: str, index: int, middle: float, look: Look) -> None:
    """Paint a letter in the middle of its cell, squeezed if it is wider than its share."""
    width, height = picture.size
    cell = CELL * look.scale * width
    tall = max(4, round(CAP_HEIGHT * look.scale * look.height * height))
    size = next((size for size in GLYPH_SIZES if size >= tall), GLYPH_SIZES[-1])
    shape = _glyph(look.face, letter, size)
    # drawn for a frame of 16:10 and stretched with it
    natural = shape.width * tall / shape.height * (width / height) / 1.6
    wide = max(2, round(min(natural, cell * look.width)))
    mask = shape.resize((wide, tall), Image.Resampling.BILINEAR)
    x = (LEFT + look.shift[0]) * width + cell * (index + 0.5) - wide / 2
    y = (middle + look.shift[1]) * height - tall / 2
    picture.paste(look.ink, (round(x), round(y)), mask)


@lru_cache(maxsize=40_000)
def _glyph(face: str | None, letter: str, cap_height: int) -> Image.Image:
    """A letter's mask: as wide as its ink, as high as the face's capitals."""
    font = _font(face, cap_height)
    _, top, _, bottom = font.getbbox("H")
    left, _, right, _ = font.getbbox(letter)
    if right <= left or bottom <= top:
        raise OptionError(f"font {face} draws nothing for {letter!r}; choose another")
    mask = Image.new("L", (round(right - left), round(bottom - top)))
    ImageDraw.Draw(mask).text((-left, -top), letter, fill=255, font=font)
    return mask


@lru_cache(maxsize=2000)
def _font(face: str | None, cap_height: int) -> ImageFont.FreeTypeFont:
    """A face at a size at which its capitals are about `cap_height` pixels high."""
    size = round(cap_height / 0.7)
    if face is None:
        font = ImageFont.load_default(size)
        if not isinstance(font, ImageFont.FreeTypeFont):
            raise VideoError("this Pillow was built without FreeType; install one with it")
        return font
    try:
        return ImageFont.truetype(face, size)
    except OSError as error:
        raise OptionError(f"{face} is not a font file that can be read ({error})") from error
