"""Golden cases: a json that tells what was done, and a safetensors file of what came out.

A folder holds `case-NAME.json`, `case-NAME.safetensors` (tables have none) and the checkpoints the
cases name. A stage is a function from a case to results; a result is an error and its tolerance.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """How far one stage of a case is from the original."""

    stage: str
    """What was compared."""
    error: float
    """Largest absolute difference, or how many values differ where they must be equal."""
    tolerance: float
    """Largest error that passes; 0 means equal."""
    note: str = ""
    """What to look at when it fails."""

    @property
    def ok(self) -> bool:
        """False for an error that is not a number, too."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        mark = "" if self.ok else f" FAILED (at most {self.tolerance:g}; {self.note})"
        return f"{self.stage} {self.error:.2g}{mark}"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One golden case; tensors are read when first used."""

    path: Path
    """The json file."""
    spec: dict[str, Any]
    """What it says."""

    @property
    def name(self) -> str:
        """Without folder, `case-` and suffix."""
        return self.path.stem.removeprefix("case-")

    @property
    def kind(self) -> str:
        """Which stages apply: `generate` where the json does not say; tables by what they list."""
        kind = str(self.spec.get("kind", "generate"))
        if kind == "table":
            return "sampling-table" if "uniform" in self.spec else "anyres-table"
        return kind

    @property
    def checkpoint(self) -> Path:
        """The model folder it was made with."""
        return self.path.parent / str(self.spec["checkpoint"])

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the case, by their published names."""
        return load_file(self.path.with_suffix(".safetensors"))

    def pictures(self, name: str) -> Tensor:
        """Pictures stored as [..., H, W, 3], as our channels-last [..., 3, H, W]."""
        return self.tensors[name].movedim(-1, -3)

    def visuals(self) -> list[Tensor]:
        """Raw pictures of each visual entry: [T, 3, H, W] of a video, [3, H, W] of an image."""
        images = sorted(
            (name for name in self.tensors if re.fullmatch(r"image_\d+", name)),
            key=lambda name: int(name.removeprefix("image_")),
        )
        entries = self.spec.get("entries") or []
        frames = [entry["images"] for entry in entries if entry["modality"] == "video"]
        videos = list(self.pictures("frames").split(frames)) if frames else []
        return [
            videos.pop(0) if entry["modality"] == "video" else self.pictures(images.pop(0))
            for entry in entries
        ]


TABLES = ("frame_sampling", "anyres_*", "text")
"""Files of VideoChat-Flash's folders that hold rows and nothing else, by the kind they are of."""


EXTENDED = ("e2e-*", "pool-*", "rope-tables", "token-counts", "relative-positions")
"""Files of window extension's folders, by the kind they are of."""


def load_case(path: Path) -> Case:
    """Read one `case-NAME.json`, or a table of rows."""
    held = json.loads(path.read_text(encoding="utf-8"))
    for table in TABLES:
        if path.match(f"{table}.json"):
            held = {"kind": table.removesuffix("_*"), "rows": held}
    for name in EXTENDED:
        if path.match(f"{name}.json"):
            held = held | {"kind": name.removesuffix("-*")}
    return Case(path=path, spec=held)


def case_paths(folder: Path, names: Collection[str] = ()) -> list[Path]:
    """List a folder's cases in order and its other files, or only those named."""
    paths = sorted(folder.glob("case-*.json"))
    others = (*TABLES, *EXTENDED)
    paths += sorted(path for name in others for path in folder.glob(f"{name}.json"))
    return [path for path in paths if not names or path.stem.removeprefix("case-") in names]


def close(stage: str, got: Tensor, want: Tensor, tolerance: float) -> StageResult:
    """Compare two tensors of one shape by their largest difference."""
    if got.shape != want.shape:
        note = f"shape {tuple(got.shape)}, expected {tuple(want.shape)}"
        return StageResult(stage=stage, error=math.inf, tolerance=tolerance, note=note)
    differences = (got.double() - want.double()).abs()
    error = float(differences.max()) if differences.numel() else 0.0
    where = int(differences.argmax()) if differences.numel() else 0
    note = f"largest at flat index {where}"
    return StageResult(stage=stage, error=error, tolerance=tolerance, note=note)


def equal(stage: str, got: Sequence[object], want: Sequence[object]) -> StageResult:
    """Compare two sequences item by item; the error is the number of items that differ."""
    differing = [
        i for i, (ours, theirs) in enumerate(zip(got, want, strict=False)) if ours != theirs
    ]
    error = len(differing) + abs(len(got) - len(want))
    note = f"{len(got)} items, expected {len(want)}"
    if differing:
        i = differing[0]
        note = f"item {i} is {got[i]!r}, expected {want[i]!r}"
    return StageResult(stage=stage, error=float(error), tolerance=0.0, note=note)


def worst(results: Sequence[StageResult]) -> StageResult:
    """Fold results of one stage over many items into the one that is furthest off."""
    return max(results, key=lambda result: math.inf if math.isnan(result.error) else result.error)
