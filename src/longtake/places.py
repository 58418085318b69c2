"""Files and folders by the names users give them: what is wrong is told without torch."""

from __future__ import annotations

import json
import mimetypes
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longtake.errors import CheckpointError, OptionError, VideoError

BUNDLED = "default"
"""What the model that comes with longtake is called."""
MEDIA = ("video", "audio", "image")
NAMED = 3
"""Files of a folder that a message names."""


def is_address(place: str) -> bool:
    """Whether it is something://, and no path."""
    return re.match(r"[A-Za-z][\w+.-]*://", place) is not None


def check_video(place: str) -> None:
    """Raise VideoError for what no video can be opened from; an address is not asked."""
    if not is_address(place):
        check_file(Path(place))
    elif (scheme := place.split("://")[0]).lower() not in ("http", "https"):
        raise VideoError(f"{place}: expected a path or an http(s) address, not {scheme}://")


def check_file(path: Path) -> None:
    """Raise VideoError for a file that cannot be read, or holds nothing."""
    try:
        size = path.stat().st_size
    except FileNotFoundError as problem:
        raise VideoError(f"{path}: no such file; check the path") from problem
    except OSError as problem:
        raise VideoError(f"{path}: cannot be read ({problem.strerror})") from problem
    if path.is_dir():
        raise VideoError(f"{path}: is a folder, expected a video file; name one file in it")
    if path.is_file() and size == 0:
        raise VideoError(f"{path}: is empty (0 bytes), expected a video; copy or download it again")
    if not os.access(path, os.R_OK):
        raise VideoError(f"{path}: may not be read (permission denied); change its permissions")


def local_model(name: str) -> Path | None:
    """A model's folder; None for what may be a hub id. Raises CheckpointError for neither."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        what = "is a file" if path.exists() else "does not exist"
        raise CheckpointError(f"model {name!r} {what}; expected a folder or a hub id 'owner/name'")
    return None


def is_model(target: str) -> bool:
    """Whether a target names a model: "default", a folder, or a hub id that is no media file."""
    if target == BUNDLED or Path(target).expanduser().is_dir():
        return True
    kind = (mimetypes.guess_type(target)[0] or "").split("/")[0]
    return target.count("/") == 1 and kind not in MEDIA and not Path(target).exists()


def config_of(folder: Path) -> dict[str, Any]:
    """A model folder's config.json. Raises CheckpointError for a folder that is none."""
    if not (folder / "config.json").exists():
        raise CheckpointError(
            f"{folder} is no model folder: it holds no config.json but {contents(folder)}; a model "
            "folder holds config.json, a tokenizer (tokenizer.json) and weights (*.safetensors)"
        )
    return read_json(folder / "config.json")


def contents(folder: Path) -> str:
    """What is in a folder, in a few words."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        return f"cannot be listed ({error.strerror})"
    return names_of(names) or "nothing"


def names_of(names: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object. Raises CheckpointError in one line if it is missing or broken."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path.parent} holds no {path.name}; is it a model folder?"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return value


def check_results(folder: Path) -> None:
    """Raise OptionError if a folder of results can neither be used nor made; makes nothing."""
    there = Path(os.path.abspath(folder))
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise OptionError(f"{folder} cannot be a folder of results ({there} is a file); {OTHER}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OptionError(f"{folder} cannot be written to (permission denied); {OTHER}")


OTHER = "choose another by --out"
