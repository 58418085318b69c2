"""Values that options are chosen from, and numbers as users write them: known without torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

from longtake.errors import OptionError

KV = ("full", "int8", "fp8", "int4")
"""How keys and values are held."""
MIXES = ("step-random", "instance-random", "sequence", "listed", "adapt-<tokens>")
"""How a ratio is chosen where several are allowed; all but "listed" are the original's."""
PLACES = ("interleave", "append")
"""Where summaries stand."""
FINE_PLACES = ("memory", "disk")
"""Where a finer copy lies."""
POOL_MODES = ("average", "max", "bilinear", "area")
"""How frames are pooled."""
DTYPE_NAMES = ("float32", "bfloat16", "float16")
"""What weights may be loaded in."""
SYSTEMS = ("longva", "video_xl", "videochat_flash", "llava_onevision")
"""The published systems, one file each."""


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Raise OptionError unless an option has one of these values."""
    if value not in known:
        raise OptionError(f"{name} {value!r:.40} is unknown; choose {', '.join(known)}")


def check_count(name: str, value: int) -> None:
    """Raise OptionError for less than one."""
    if value < 1:
        raise OptionError(f"{name} must be a whole number from 1, got {value}")


def check_mix(mix: object) -> None:
    """Raise OptionError unless it is one of MIXES."""
    adapted = isinstance(mix, str) and re.fullmatch("adapt-[0-9]{1,9}", mix)
    if mix not in MIXES[:-1] and not adapted:
        raise OptionError(f"mix {mix!r:.40} is unknown; choose {', '.join(MIXES)}")


def ratios_of(said: object) -> tuple[int, ...]:
    """Ratios from a number, numbers, or "2,4,8". Raises OptionError."""
    if isinstance(said, str):
        parts = said.split(",")
        if not all(re.fullmatch(r"\s*[0-9]{1,9}\s*", part) for part in parts):
            shown = said if len(said) < 40 else f"{said[:40]}..."
            raise OptionError(f"ratio must be whole numbers such as 8 or 2,4,8, got {shown!r}")
        return tuple(int(part) for part in parts)
    return tuple(said) if isinstance(said, Sequence) else (said,)  # type: ignore[return-value]
