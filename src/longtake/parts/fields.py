"""Values out of a published config.json, or one line that says which is wrong."""

import sys
from collections.abc import Mapping
from typing import Any

from longtake.errors import CheckpointError

LARGEST = sys.float_info.max
"""JSON holds Infinity, and whole numbers that are no float."""


def whole(config: Mapping[str, Any], field: str, default: int | None = None) -> int:
    """A positive whole number; `default` where the field is absent or null.

    Raises CheckpointError if it is absent without a default, or anything else.
    """
    value = config.get(field)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"config.json: {field} is {value!r}, expected a whole number from 1")
    return value


def real(config: Mapping[str, Any], field: str, default: float | None = None) -> float:
    """A positive number; `default` where the field is absent or null.

    Raises CheckpointError if it is absent without a default, or anything else.
    """
    value = config.get(field)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= LARGEST:
        raise CheckpointError(f"config.json: {field} is {value!r}, expected a positive number")
    return float(value)


def text(config: Mapping[str, Any], field: str, default: str) -> str:
    """A text; `default` where the field is absent or null. Raises CheckpointError."""
    value = config.get(field)
    value = default if value is None else value
    if not isinstance(value, str):
        raise CheckpointError(f"config.json: {field} is {value!r}, expected a text")
    return value


def mapping(config: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """A nested object; empty where the field is absent or null. Raises CheckpointError."""
    value = config.get(field)
    if value is not None and not isinstance(value, Mapping):
        raise CheckpointError(f"config.json: {field} is {value!r}, expected an object")
    return value or {}
