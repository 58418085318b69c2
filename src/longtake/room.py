"""How many bytes a device has free, as far as this process may take them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

CGROUPS = Path("/sys/fs/cgroup")
FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Limit and usage of a group, by version 2 and version 1 of the kernel's interface."""


def free_bytes(device: torch.device) -> int:
    """Bytes free on a device; of the host, within the limits of the process's groups."""
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + idle
    return min([int(psutil.virtual_memory().available), *limits()])


def limits(root: Path = CGROUPS, process: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """Bytes that each group of this process leaves, where it has a limit.

    Pages of files that were not used lately are given back before a limit is reached.
    """
    try:
        lines = process.read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, kinds, name = line.split(":", 2)
        if kinds not in ("", "memory"):
            continue
        home = root / kinds / name.strip("/")
        for group in (home, *home.parents):
            if (left := left_in(group)) is not None:
                yield left
            if group == root / kinds:
                break


def left_in(group: Path) -> int | None:
    """Bytes that a group's limit leaves; None if it has none, or cannot be read."""
    for most, used in FILES:
        limit, usage = (number_in(group / name) for name in (most, used))
        if limit is not None and usage is not None:
            return max(0, limit - usage + given_back(group / "memory.stat"))
    return None


def number_in(file: Path) -> int | None:
    """A whole number; None for "max" and for a file that is not there."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def given_back(file: Path) -> int:
    """Bytes of files' pages that are inactive, by a group's memory.stat."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    pairs = dict(line.split(" ", 1) for line in lines if " " in line)
    return int(pairs.get("total_inactive_file", pairs.get("inactive_file", 0)))
