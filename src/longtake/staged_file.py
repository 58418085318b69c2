"""What a memory of layers of different lengths adds to its file (see `longtake.store`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from longtake.parts.dropping import Block, Schedule
from longtake.parts.layered import Held, StagedCache


def staged_header(cache: StagedCache) -> dict[str, Any]:
    """What JSON can hold."""
    held = cache.held
    return {
        "schedule": asdict(cache.schedule),
        "layers": cache.stages[-1].stop,
        "settled": cache.settled,
        "short": cache.short,
        "held": None
        if held is None
        else {
            "start": held.start,
            "drop": held.drop,
            "chunks": len(held.rows),
            "blocks": [asdict(block) for block in held.blocks],
            "keys": sorted(held.keys),
        },
    }


def staged_tensors(cache: StagedCache) -> dict[str, Tensor]:
    """Which tokens each stage holds, and the rows that wait for a question."""
    tensors = {f"alive.{stage}": rows for stage, rows in enumerate(cache.alive) if rows is not None}
    if cache.held is not None:
        tensors |= {f"held.rows.{n}": rows for n, rows in enumerate(cache.held.rows)}
        tensors |= {f"held.keys.{layer}": keys for layer, keys in cache.held.keys.items()}
    return tensors


def check_held(schedule: Schedule, held: Held) -> None:
    """Raise ValueError unless a rule has that drop, and visuals lie in order among the rows."""
    if not 0 <= held.drop < len(schedule.layers):
        raise ValueError(f"rows wait for drop {held.drop} of {len(schedule.layers)}")
    end = 0
    for block in held.blocks:
        if not end <= block.start <= block.start + block.left <= block.start + block.tokens:
            raise ValueError(f"visuals overlap, or have more rows than tokens: {block}")
        end = block.start + block.left
    if end > (rows := sum(map(len, held.rows))):
        raise ValueError(f"visuals reach to row {end} of {rows}")


def staged_cache(header: Mapping[str, Any], tensors: dict[str, Tensor]) -> StagedCache:
    """A cache as it was, without its layers; its tensors are taken out of `tensors`."""
    said = header["schedule"]
    schedule = Schedule(
        kind=said["kind"], layers=tuple(said["layers"]), ratios=tuple(said["ratios"])
    )
    cache = StagedCache(schedule, header["layers"])
    if len(header["short"]) != len(cache.stages):
        raise ValueError(f"{len(header['short'])} stages were written, the rule has others")
    alive = [tensors.pop(f"alive.{stage}", None) for stage in range(len(cache.stages))]
    held = None
    if header["held"] is not None:
        told = header["held"]
        held = Held(
            start=told["start"],
            drop=told["drop"],
            rows=[tensors.pop(f"held.rows.{n}") for n in range(told["chunks"])],
            blocks=tuple(Block(**block) for block in told["blocks"]),
            keys={layer: tensors.pop(f"held.keys.{layer}") for layer in told["keys"]},
        )
        check_held(schedule, held)
        waits = header["settled"] - header["short"][told["drop"]] - told["start"]
        if (rows := sum(map(len, held.rows))) != waits:
            raise ValueError(f"{rows} rows wait, {waits} were to")
    cache.restore(held, header["settled"], alive, list(header["short"]))
    return cache
