"""What pictures of videos share: colours, an axis of time, frames, words, saving without harm."""

from __future__ import annotations

import os
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from longtake.errors import OptionError
from longtake.terminal import clock

if TYPE_CHECKING:
    from longtake.types import Frames  # brings torch

WIDTH, MARGIN = 1280, 56
GROUND, INK, DIM, LINE, DIP = "#18181b", "#ebebeb", "#8a8a93", "#6cb6ff", "#ffb454"


def check_target(path: Path) -> None:
    """Raise OptionError if no picture can be saved as `path`; asked before the work begins."""
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE or path.is_dir():
        raise OptionError(f"cannot save a picture as {path.name!r}; end its name in .png or .jpg")
    if path.parent.is_dir() and not os.access(path.parent, os.W_OK):
        raise OptionError(f"{path.parent} cannot be written to; choose another folder")
    if not path.parent.is_dir():
        raise OptionError(f"{path.parent} is no folder, so {path.name} cannot be saved in it")


def save_picture(picture: Image.Image, path: Path) -> None:
    """Save a picture aside and rename it, so that a full disk leaves what was there before."""
    aside: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=path.suffix, delete=False) as file:
            aside = Path(file.name)
        picture.save(aside)
        aside.chmod(0o644)  # temporary files are private
        aside.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


class Scale:
    """Seconds to pixels, from one margin to the other."""

    def __init__(self, duration: float, start: float = 0.0) -> None:
        self.start, self.duration = start, max(duration, 1e-6)

    def x(self, seconds: float) -> float:
        """Where a moment lies."""
        return MARGIN + (seconds - self.start) / self.duration * (WIDTH - 2 * MARGIN)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The bundled face."""
    return ImageFont.load_default(size)


def pictures(chunks: Iterable[Frames]) -> Iterator[Image.Image]:
    """Decoded frames, one by one."""
    for frames in chunks:
        for pixels_CHW in frames.pixels_TCHW:
            yield Image.fromarray(pixels_CHW.permute(1, 2, 0).numpy())


def shrunk(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The whole picture, as large as fits a box."""
    scale = min(width / picture.width, height / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def draw_axis(pen: ImageDraw.ImageDraw, scale: Scale, top: int) -> None:
    """Times along the bottom."""
    for n in range(6):
        seconds = scale.start + scale.duration * n / 5
        words = clock(seconds)
        x = scale.x(seconds)
        pen.line([(x, top - 12), (x, top - 6)], fill=DIM)
        pen.text((x - pen.textlength(words, font(12)) / 2, top - 4), words, fill=DIM, font=font(12))


def fitted(text: str, size: int, room: float) -> str:
    """Words for one line of a picture, the middle cut out if they are too long.

    The end stays, since that is where the names of files differ. Of accented letters that the face
    lacks the plain ones are drawn, of others "?".
    """
    face = font(size)
    line = "".join(map(drawable, " ".join(text.split())))
    if face.getlength(line) <= room:
        return line
    low, high = 0, len(line)
    while low < high:  # most letters that fit
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if face.getlength(cut(line, middle)) <= room else (low, middle - 1)
        )
    return cut(line, low)


def cut(line: str, letters: int) -> str:
    """So many letters of a line, from both ends."""
    back = letters // 3
    return f"{line[: letters - back].rstrip()} ... {line[len(line) - back :].lstrip()}"


def drawable(letter: str) -> str:
    """A letter, the plain one below its accent, or "?", whichever the bundled face has first."""
    plain = unicodedata.normalize("NFKD", letter)[:1]
    return next((one for one in (letter, plain) if has_glyph(one)), "?")


@cache
def has_glyph(letter: str) -> bool:
    """Whether the bundled face can draw a letter; what it lacks looks like an unassigned one."""
    if not letter.isprintable():
        return False
    face = font(16)
    return letter == " " or bytes(face.getmask(letter)) != bytes(face.getmask("\U0010fffe"))
