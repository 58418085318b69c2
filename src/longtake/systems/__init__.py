"""One file per published system; exactly one must recognise a folder's config fields."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch

from longtake.choices import check_choice
from longtake.errors import CheckpointError
from longtake.folder import read_folder
from longtake.system import System
from longtake.systems import llava_onevision, longva, video_xl, videochat_flash

SYSTEMS: dict[str, ModuleType] = {
    "longva": longva,
    "video_xl": video_xl,
    "videochat_flash": videochat_flash,
    "llava_onevision": llava_onevision,
}


def open_system(
    path: Path,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    system: str | None = None,
    vision_tower: str | None = None,
    bare: bool = False,
) -> System:
    """Load a folder with the system that recognises it, or with the one named.

    `bare`: onto the meta device, from config.json alone if there is no more.

    Raises CheckpointError if none or several do, OptionError for an unknown name.
    """
    folder = read_folder(path, bare)
    if system is not None:
        check_choice("system", system, tuple(SYSTEMS))
    claims = [name for name, module in SYSTEMS.items() if module.recognises(folder.config)]
    chosen = system or (claims[0] if len(claims) == 1 else None)
    if chosen is None:
        looked = "; ".join(
            f"{name} looks for {module.LOOKED_FOR}" for name, module in SYSTEMS.items()
        )
        who = f"{' and '.join(claims)} both claim" if claims else "no system recognises"
        raise CheckpointError(f"{who} {path}/config.json ({looked}); name one with system=")
    loaded: System = SYSTEMS[chosen].load(folder, vision_tower, device, dtype)
    return loaded
