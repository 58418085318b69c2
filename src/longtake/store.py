"""Memories in files: one safetensors file each, whole or not there.

Tensors are the keys and values of each layer, as they are held (full, int8, fp8 or int4; one
copy or two); everything else is a JSON header in the file's metadata. No code runs when one is
opened.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from longtake.bilevel import AsideCache, TwoLevelCache
from longtake.engine import memory_errors
from longtake.errors import DamagedError, PromptError, StoreError
from longtake.folder import pick_device
from longtake.layers_file import layers_of, part_of, tensors_of
from longtake.locks import sync_folder
from longtake.parts.cache import GrowingCache
from longtake.parts.layered import StagedCache
from longtake.sealed import Part, Sealed, write_sealed
from longtake.staged_file import staged_cache, staged_header, staged_tensors
from longtake.types import Entry, KVCache, Memory, Stats, Window

KEPT = (
    "length",
    "durations",
    "system",
    "fingerprint",
    "ids",
    "lead",
    "depth",
    "target",
    "captions",
)
"""Plain fields of a memory."""
LAYER = re.compile(r"(fine\.)?[0-9]+\.(keys|values)(\.codes|\.middle|\.step)?")
"""Names of a layer's keys and values."""


def save_memory(memory: Memory, path: str | Path) -> Path:
    """Write a memory to a file, aside first and then renamed. Raises StoreError, PromptError.

    Keys and values are written as they are held, up to the memory's own length.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise StoreError(f"{target.parent} is no folder; choose another place for {target.name}")
    aside = None
    try:
        with resting(memory) as cache:
            descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".longtake-")
            aside = Path(name)
            try:
                write_sealed(descriptor, *contents(memory, cache))
            finally:
                os.close(descriptor)
            aside.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{target} cannot be written ({error.strerror or error})") from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)
    return target


@contextmanager
def resting(memory: Memory) -> Iterator[GrowingCache]:
    """A memory's keys and values, which hold nothing else and answer no question meanwhile.

    Raises PromptError if it is answering one, or has lost them.
    """
    cache = memory.cache
    if not isinstance(cache, GrowingCache) or cache.get_seq_length() < memory.length:
        raise PromptError("this memory has lost its keys and values; watch the video again")
    if not cache.busy.acquire(blocking=False):
        raise PromptError("this memory is answering a question; wait, then save it")
    try:
        cache.rewind(memory.length)
        yield cache
    finally:
        cache.busy.release()


def contents(memory: Memory, cache: GrowingCache) -> tuple[dict[str, Any], dict[str, Part]]:
    """Header and tensors of a memory's file, whose cache is at rest."""
    tensors, schemes = tensors_of(cache, "")
    header = {
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
    return header, {name: part_of(tensor) for name, tensor in tensors.items()}


def load_memory(path: str | Path, device: str | torch.device = "auto") -> Memory:
    """Read a memory back, onto the device that `load` would choose, or another.

    On CPU keys and values stay in the file, mapped into memory: a layer is read, and its checksum
    compared, when it is first used. For another device all is read, and checked, at once. Raises
    StoreError if the file cannot be read or is of another format, DamagedError if it is none, or
    broken or damaged, CapacityError if it does not fit the device, OptionError for a device that
    cannot be used.
    """
    source, chosen = Path(path), pick_device(str(device))
    sealed = Sealed(source)
    mapped = chosen.type == "cpu"
    later = {name for name in sealed.names if mapped and LAYER.fullmatch(name)}
    sealed.check(name for name in sealed.names if name not in later)
    tensors = tensors_in(sealed, chosen)
    try:
        with memory_errors():
            memory = memory_of(sealed.header, tensors)
            check_lengths(memory)
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        what = f"{source} does not hold what its header says ({type(error).__name__} {error})"
        raise DamagedError(f"{what}; watch the video again") from error
    watch_over(memory.cache, sealed, later)
    return memory


def tensors_in(sealed: Sealed, device: torch.device) -> dict[str, Tensor]:
    """Tensors by name; on CPU they stay in the file. Raises StoreError, CapacityError."""
    try:
        with memory_errors(), safe_open(sealed.path, framework="pt", device=str(device)) as file:
            return {name: file.get_tensor(name) for name in sealed.names}
    except (SafetensorError, OSError, RuntimeError) as error:
        # too many open files are told as one that is not there; a device may fail for a while
        raise StoreError(f"{sealed.path} cannot be read ({error}); try again") from error


def watch_over(cache: KVCache, sealed: Sealed, later: Set[str]) -> None:
    """Have each layer compare its checksums before it is first used."""
    for prefix, copy in copies_of(cache):
        for number, layer in enumerate(copy.layers):
            start = f"{prefix}{number}."
            names = [name for name in sealed.names if name in later and name.startswith(start)]
            if names:
                layer.unchecked = partial(sealed.check, names)


def copies_of(cache: KVCache) -> list[tuple[str, GrowingCache]]:
    """The caches that a memory's file holds, and what their layers' names begin with."""
    assert isinstance(cache, GrowingCache)
    return [("", cache)] + ([("fine.", cache.fine)] if isinstance(cache, TwoLevelCache) else [])


def check_layers(memory: Memory) -> None:
    """Compare all layers with their checksums now. Raises StoreError, DamagedError."""
    for _, copy in copies_of(memory.cache):
        for layer in copy.layers:
            layer.ready()


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
            layer = finer.new_layer()
            layer.hold(*(tensors.pop(f"fine.{number}.{kind}") for kind in ("keys", "values")))
            finer.layers.append(layer)
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
        captions=plain.get("captions", ""),  # files of before have none
        windows=windows,
        stats=replace(stats, warnings=tuple(stats.warnings)),
    )
