"""A picture of the moments an answer rests on: one frame per span, with its time and weight."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from longtake.errors import OptionError
from longtake.terminal import moment
from longtake.types import Answer, Span
from longtake.video.decode import Video
from longtake.video.inputs import Opened

MOST = 9
"""Frames on a sheet, heaviest spans first."""
WIDTH = 320
"""Pixels of a frame on the sheet, across."""
GAP = 8
CAPTION = 24
GROUND, INK = (24, 24, 27), (235, 235, 235)


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
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=path.suffix, delete=False) as file:
        aside = Path(file.name)
    try:
        picture.save(aside)
        aside.chmod(0o644)  # temporary files are private
        aside.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        aside.unlink(missing_ok=True)


def saver(source: Opened, path: Path) -> Callable[[Answer], None]:
    """What saves the moments of an answer; raises OptionError now if that cannot be done."""
    check_target(path)
    if not isinstance(source, Video):
        raise OptionError("--evidence shows moments of a video; a still picture has none")
    return lambda answer: save_picture(contact_sheet(source, answer.evidence), path)


def contact_sheet(video: Video, spans: Sequence[Span]) -> Image.Image:
    """Draw the frame at the start of each of the heaviest spans, in the order of time.

    Raises OptionError if there is no span.
    """
    chosen = sorted(spans[:MOST], key=lambda span: span.start)
    if not chosen:
        raise OptionError(
            "the answer rests on no moment of the video, so there is no sheet to draw"
        )
    height = max(1, round(WIDTH * video.height / video.width))
    columns = math.ceil(math.sqrt(len(chosen)))
    rows = math.ceil(len(chosen) / columns)
    cell = (WIDTH + GAP, height + CAPTION + GAP)
    sheet = Image.new("RGB", (columns * cell[0] + GAP, rows * cell[1] + GAP), GROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    frames = video.read(seconds=[span.start for span in chosen], chunk=1)
    for place, (span, frame) in enumerate(zip(chosen, frames, strict=True)):
        x, y = GAP + place % columns * cell[0], GAP + place // columns * cell[1]
        picture = Image.fromarray(frame.pixels_TCHW[0].permute(1, 2, 0).numpy())
        sheet.paste(picture.resize((WIDTH, height), Image.Resampling.LANCZOS), (x, y))
        pen.text((x, y + height + 3), moment(span), fill=INK, font=font)
    return sheet
