"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from longtake.errors import StoreError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Have a file written aside, wait until it is on the disk, rename it. Raises StoreError."""
    aside = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(aside)
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"{path} cannot be written ({reason})") from error
    finally:
        aside.unlink(missing_ok=True)


def save_text(text: str, path: Path) -> None:
    """Write a text file, whole or not at all. Raises StoreError."""
    write_whole(path, lambda aside: aside.write_text(text, encoding="utf-8"))
