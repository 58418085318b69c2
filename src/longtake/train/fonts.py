"""Font files of this machine, sorted into those to train on and those kept for testing.

`docs/default-model.md` lists the families that the bundled model was trained with. A family that is
held out must not be a copy of another under a new name, so Times and Helvetica clones are not used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from longtake.errors import OptionError
from longtake.video.cards import has_letters

HELD_OUT = ("Quattrocento", "ClearSans", "Cantarell", "Caladea")
"""Families never trained on; so is the face that Pillow carries (Aileron)."""
# hairlines vanish at 96 pixels; the others are no plain capitals
UNFIT = re.compile(
    r"hairline|thin|extralight|ultralight|symbol|ornament|swash|initial|emoji|outline|math"
    r"|script|nushu|z003|chancery|chorus|d05|orn|dingbat|fleuron|fill|title|cursive|smallcap|_k$|tirekv",
    re.IGNORECASE,
)
FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts")


@dataclass(frozen=True, kw_only=True)
class Faces:
    """Font files with all capitals and digits; None is the face that Pillow carries."""

    training: tuple[str | None, ...]
    test: tuple[str | None, ...]


@cache
def find_faces(folders: Sequence[str] = FOLDERS) -> Faces:
    """All usable faces below the folders, in an order that depends on their names alone.

    Raises OptionError if there is none to train on.
    """
    training: list[str | None] = []
    test: list[str | None] = [None]
    for path in _font_files(folders):
        name = Path(path).stem.replace(" ", "")
        if UNFIT.search(name) or not has_letters(path):
            continue
        held = any(name.startswith(family) for family in HELD_OUT)
        (test if held else training).append(path)
    if not training:
        raise OptionError(f"no usable font below {', '.join(folders)}; install a few font families")
    return Faces(training=tuple(training), test=tuple(test))


def _font_files(folders: Sequence[str]) -> list[str]:
    found = {
        os.path.join(root, name)
        for folder in folders
        for root, _, names in os.walk(os.path.expanduser(folder))
        for name in names
        if name.lower().endswith((".ttf", ".otf"))
    }
    return sorted(found, key=lambda path: (os.path.basename(path), path))
