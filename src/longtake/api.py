"""Load a model by folder, hub id or "default"."""

from __future__ import annotations

from pathlib import Path

from longtake.errors import CheckpointError
from longtake.folder import find, pick_device, pick_dtype
from longtake.system import System
from longtake.systems import open_system

DEFAULT = Path(__file__).parent / "assets" / "default"
"""The bundled model (docs/default-model.md)."""


def load(
    model: str | Path = "default",
    *,
    device: str = "auto",
    dtype: str = "auto",
    system: str | None = None,
    vision_tower: str | Path | None = None,
) -> System:
    """Load a published checkpoint: a folder, a hub id, or "default" for the bundled model.

    `system` overrides recognition by config fields; `vision_tower` is the folder or hub id of the
    tower that config.json names. Raises CheckpointError, OptionError.
    """
    chosen_dtype, chosen_device = pick_dtype(dtype), pick_device(device)
    path = DEFAULT if str(model) == "default" else find(str(model))
    if path == DEFAULT and not (DEFAULT / "config.json").exists():
        raise CheckpointError("this installation holds no bundled model; give a model folder")
    return open_system(
        path,
        device=chosen_device,
        dtype=chosen_dtype,
        system=system,
        vision_tower=None if vision_tower is None else str(vision_tower),
    )
