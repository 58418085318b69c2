"""Memories in files: one safetensors file each, whole or not there.

Tensors are the keys and values of each layer, as they are held (full, int8 or int4; one copy or
two); everything else is a JSON header in the file's metadata. No code runs when one is opened.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from longtake.bilevel import AsideCache, TwoLevelCache
from longtake.errors import PromptError, StoreError
from longtake.folder import pick_device
from longtake.parts.cache import GrowingCache, GrowingLayer
from longtake.parts.layered import StagedCache
from longtake.parts.packed import Group, Packed
from longtake.parts.quantise import QuantisedLayer
from longtake.staged_file import staged_cache, staged_header, staged_tensors
from longtake.types import Entry, Memory, Stats, Window

FORMAT = 4
"""Raised when what is written changes; other numbers are refused."""
KEPT = ("length", "durations", "system", "fingerprint", "ids", "lead", "depth", "target")
"""Plain fields of a memory."""


@dataclass(frozen=True)
class Scheme:
    """What a packed tensor says of itself besides its tensors."""

    factor: float
    group: tuple[int, int]
    bits: int
    width: int


def save_memory(memory: Memory, path: str | Path) -> Path:
    """Write a memory to a file, aside first and then renamed. Raises StoreError, PromptError.

    Keys and values are written as they are held, up to the memory's own length.
    """
    target, cache = Path(path), memory.cache
    if not isinstance(cache, GrowingCache) or cache.get_seq_length() < memory.length:
        raise PromptError("this memory has lost its keys and values; watch the video again")
    if not cache.busy.acquire(blocking=False):
        raise PromptError("this memory is answering a question; wait, then save it")
    try:
        cache.rewind(memory.length)
        return write_memory(memory, cache, target)
    finally:
        cache.busy.release()


def write_memory(memory: Memory, cache: GrowingCache, target: Path) -> Path:
    """Write a memory whose cache holds nothing else."""
    tensors, schemes = tensors_of(cache, "")
    header = {
        "format": FORMAT,
        "memory": {name: getattr(memory, name) for name in KEPT},
        "entries": [asdict(entry) for entry in memory.entries],
        "windows": [asdict(window) for window in memory.windows],
        "stats": asdict(memory.stats),
        "layers": len(cache.layers),
        "schemes": schemes,
    }
    if isinstance(cache, TwoLevelCache):
        more, schemes_of_fine = tensors_of(cache.fine, "fine.")
        tensors, header["schemes"] = tensors | more, schemes | schemes_of_fine
        header["fine"] = {
            "where": cache.fine.where if isinstance(cache.fine, AsideCache) else "memory",
            "windows": [asdict(window) for window in cache.fine_windows],
            "entries": [asdict(entry) for entry in cache.fine_entries],
        }
    if isinstance(cache, StagedCache):
        header["staged"], tensors = staged_header(cache), tensors | staged_tensors(cache)
    write_whole(tensors, {"longtake": json.dumps(header)}, target)
    return target


def write_whole(tensors: dict[str, Tensor], metadata: dict[str, str], target: Path) -> None:
    """Write a safetensors file so that a reader sees the old one, the new one, or none."""
    if not target.parent.is_dir():
        raise StoreError(f"{target.parent} is no folder; choose another place for {target.name}")
    aside = None
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
            aside = Path(file.name)
        save_file(tensors, aside, metadata)
        with aside.open("rb+") as written:
            os.fsync(written.fileno())
        aside.replace(target)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{target} cannot be written ({error})") from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


def load_memory(path: str | Path, device: str | torch.device = "auto") -> Memory:
    """Read a memory back, onto the device that `load` would choose, or another.

    Raises StoreError if the file is none, broken, or of another format, OptionError for a device
    that cannot be used.
    """
    source, chosen = Path(path), pick_device(str(device))
    try:
        with safe_open(source, framework="pt", device=str(chosen)) as file:
            header = json.loads((file.metadata() or {}).get("longtake", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise StoreError(f"{source} does not exist; watch the video and save it first") from error
    except (OSError, SafetensorError, ValueError) as error:
        raise StoreError(f"{source} is no whole memory ({error}); watch the video again") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else "no header"
        raise StoreError(f"{source} has format {found}, this longtake reads {FORMAT}")
    try:
        memory = memory_of(header, tensors)
        check_lengths(memory)
        return memory
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        what = f"{type(error).__name__} {error}"
        raise StoreError(f"{source} does not hold what its header says ({what})") from error


def check_lengths(memory: Memory) -> None:
    """Raise ValueError unless every layer holds just the tokens that the memory says it has.

    And unless its positions are stretched for some number of tokens.
    """
    cache = memory.cache
    assert isinstance(cache, GrowingCache)
    if type(memory.target) is not int or memory.target < 0:
        raise ValueError(f"target is {memory.target!r}")
    if isinstance(cache, StagedCache):
        if len(cache.layers) != cache.stages[-1].stop:
            raise ValueError(f"{len(cache.layers)} layers, the rule is for {cache.stages[-1].stop}")
        for number, layer in enumerate(cache.layers):
            expected = memory.length - cache.short[cache.stage_of(number)]
            if layer.get_seq_length() != expected or cache.settled != memory.length:
                raise ValueError(f"layer {number} does not hold {expected} tokens")
        return
    found = {layer.get_seq_length() for layer in cache.layers}
    if found != {memory.length} or type(memory.length) is not int:
        raise ValueError(f"layers hold {sorted(found)} tokens, {memory.length!r} were to be there")
    if isinstance(cache, TwoLevelCache):
        fine = {layer.get_seq_length() for layer in cache.fine.layers}
        if len(fine) != 1 or len(cache.windows) != len(cache.fine_windows):
            raise ValueError("the finer copy does not match")


def memory_of(header: Mapping[str, Any], tensors: dict[str, Tensor]) -> Memory:
    """A memory from what a file holds."""
    layers, schemes = header["layers"], header["schemes"]
    windows = tuple(Window(**window) for window in header["windows"])
    fine, cache = header.get("fine"), GrowingCache()
    if fine is not None:
        finer = AsideCache(fine["where"])
        for number in range(layers):
            keys, values = (tensors.pop(f"fine.{number}.{kind}") for kind in ("keys", "values"))
            finer.keep(keys, values, number)
        cache = TwoLevelCache(finer)
        cache.windows = windows
        cache.fine_windows = tuple(Window(**window) for window in fine["windows"])
        cache.fine_entries = tuple(Entry(**entry) for entry in fine["entries"])
    if "staged" in header:
        cache = staged_cache(header["staged"], tensors)
    cache.layers = layers_of(layers, tensors, schemes, "")
    plain = header["memory"]
    stats = Stats(**header["stats"])
    return Memory(
        cache=cache,
        length=plain["length"],
        entries=tuple(Entry(**entry) for entry in header["entries"]),
        durations=tuple(plain["durations"]),
        system=plain["system"],
        fingerprint=plain["fingerprint"],
        ids=tuple(plain["ids"]),
        lead=plain["lead"],
        depth=plain["depth"],
        target=plain["target"],
        windows=windows,
        stats=replace(stats, warnings=tuple(stats.warnings)),
    )


def tensors_of(cache: GrowingCache, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of every layer by name, and how the packed ones are packed."""
    tensors: dict[str, Tensor] = {}
    schemes: dict[str, Any] = {}
    for number, layer in enumerate(cache.layers):
        for kind in ("keys", "values"):
            name = f"{prefix}{number}.{kind}"
            tensors[name] = getattr(layer, kind).contiguous()
            packed = getattr(layer, f"packed_{kind}", None)
            if packed is not None:
                tensors |= {f"{name}.{part}": tensor for part, tensor in parts_of(packed).items()}
                group = (packed.group.tokens, packed.group.channels)
                scheme = Scheme(packed.factor, group, packed.bits, packed.width)
                schemes[name] = asdict(scheme)
    return tensors, schemes


def parts_of(packed: Packed) -> dict[str, Tensor]:
    """A packed tensor's own tensors."""
    return {
        "codes": packed.codes_BKNC,
        "middle": packed.middle_BKGJ,
        "step": packed.step_BKGJ,
    }


def layers_of(
    count: int, tensors: dict[str, Tensor], schemes: Mapping[str, Any], prefix: str
) -> list[GrowingLayer]:
    """Layers as they were; what is taken over is taken out of `tensors`."""
    layers: list[GrowingLayer] = []
    for number in range(count):
        name = f"{prefix}{number}"
        tail = (tensors.pop(f"{name}.keys"), tensors.pop(f"{name}.values"))
        if f"{name}.keys" in schemes:
            packed = [packed_of(f"{name}.{kind}", tensors, schemes) for kind in ("keys", "values")]
            layers.append(QuantisedLayer(packed[0], packed[1], tail))
            continue
        layer = GrowingLayer()
        layer.update(*tail)
        layers.append(layer)
    return layers


def packed_of(name: str, tensors: Mapping[str, Tensor], schemes: Mapping[str, Any]) -> Packed:
    """A packed tensor as it was."""
    scheme = Scheme(**schemes[name])
    return Packed(
        codes_BKNC=tensors[f"{name}.codes"],
        middle_BKGJ=tensors[f"{name}.middle"],
        step_BKGJ=tensors[f"{name}.step"],
        factor=scheme.factor,
        group=Group(*scheme.group),
        bits=scheme.bits,
        width=scheme.width,
    )
