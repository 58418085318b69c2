"""Amounts as people write them."""

from __future__ import annotations

import re

from longtake.errors import OptionError

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def bytes_of(said: int | str, what: str = "budget") -> int:
    """A number of bytes: 1000, "1000", "300 MiB", "1.5GB". Raises OptionError."""
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([a-zA-Z]*)\s*", str(said))
    unit = UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        shown = str(said) if len(str(said)) < 40 else f"{str(said)[:40]}..."
        raise OptionError(f"{what} must be bytes such as 300MiB or 2GB, got {shown!r}")
    return int(float(match[1]) * unit)


def size(count: float) -> str:
    """Bytes in binary units: 512 B, 1.5 KiB, 71.0 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
