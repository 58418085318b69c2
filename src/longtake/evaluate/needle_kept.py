"""A haystack's tokens in a file, so that a run that was stopped need not see the videos again.

Numbers are kept in the type they were computed in: what goes on is what would have been.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from longtake.evaluate.needle_hay import Hay
from longtake.evaluate.whole import write_whole
from longtake.types import VisualTokens


def save_hay(path: Path, name: str, hay: Hay) -> None:
    """Write aside and rename. Raises StoreError."""
    tokens = hay.tokens
    tensors = {"features": tokens.features_ND.contiguous()}
    if tokens.class_TD is not None:
        tensors["classes"] = tokens.class_TD.contiguous()
    about = {
        "name": name,
        "counts": json.dumps(tokens.counts),
        "seconds": json.dumps(tokens.seconds),
        "span": str(tokens.span),
        "settled": str(int(hay.settled)),
        "duration": repr(hay.duration),
    }
    write_whole(path, lambda aside: save_file(tensors, aside, metadata=about))


def load_hay(path: Path, name: str, device: torch.device) -> Hay | None:
    """The haystack of that name; None if the file is not there, broken, or of another."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            about = file.metadata() or {}
            if about.get("name") != name:
                return None
            held = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no dict
    except (OSError, SafetensorError):
        return None
    tokens = VisualTokens(
        features_ND=held["features"],
        counts=tuple(json.loads(about["counts"])),
        seconds=tuple(json.loads(about["seconds"])),
        class_TD=held.get("classes"),
        span=int(about["span"]),
    )
    return Hay(tokens=tokens, settled=about["settled"] == "1", duration=float(about["duration"]))
