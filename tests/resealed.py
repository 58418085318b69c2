"""Memory files that were changed and whose checksums are right all the same."""

from pathlib import Path
from typing import Any

import torch

from longtake.layers_file import part_of
from longtake.sealed import SUMS, Sealed, write_sealed


def reseal(path: Path, to: Path, tensors: dict[str, torch.Tensor], **changes: object) -> None:
    """Write a memory's file anew with other tensors or another header, its checksums right."""
    header = Sealed(path).header
    header["memory"] |= changes
    rewrite(to, header, tensors)


def rewrite(to: Path, header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Write a memory's file of this header and these tensors, its checksums right."""
    parts = {name: part_of(tensor) for name, tensor in tensors.items() if name != SUMS}
    with to.open("wb") as file:
        write_sealed(file.fileno(), header, parts)
