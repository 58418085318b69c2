"""Layers in a memory's file: keys and values as they are held, full or packed.

Letters: as in `longtake.parts.packed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from longtake.parts.cache import GrowingCache, GrowingLayer
from longtake.parts.packed import Group, Packed
from longtake.parts.quantise import QuantisedLayer
from longtake.sealed import Part

NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
    torch.int64: "I64",
}
"""Of the dtypes that a memory may have."""
ROWS_AT_ONCE = 1 << 23
"""Bytes made ready for writing at a time, about."""


@dataclass(frozen=True)
class Scheme:
    """What a packed tensor says of itself besides its tensors."""

    factor: float
    group: tuple[int, int]
    bits: int
    width: int
    floating: bool = False


def tensors_of(cache: GrowingCache, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of every layer by name, and how the packed ones are packed."""
    tensors: dict[str, Tensor] = {}
    schemes: dict[str, Any] = {}
    for number, layer in enumerate(cache.layers):
        layer.ready()
        for kind in ("keys", "values"):
            name = f"{prefix}{number}.{kind}"
            tensors[name] = getattr(layer, kind)
            packed = getattr(layer, f"packed_{kind}", None)
            if packed is not None:
                tensors |= {f"{name}.{part}": tensor for part, tensor in parts_of(packed).items()}
                group = (packed.group.tokens, packed.group.channels)
                schemes[name] = said(
                    Scheme(packed.factor, group, packed.bits, packed.width, packed.floating)
                )
    return tensors, schemes


def said(scheme: Scheme) -> dict[str, Any]:
    """A scheme as a file has it: integers as earlier versions read them."""
    fields = asdict(scheme)
    if not scheme.floating:
        del fields["floating"]
    return fields


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
        layer.hold(*tail)
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
        floating=scheme.floating,
    )


def part_of(tensor: Tensor) -> Part:
    """A tensor as it is to be written; it is read, row by row of its first dimensions, only then.

    A slice of a larger buffer is never copied as a whole, nor a whole tensor from another device.
    """
    return Part(
        dtype=NAMES[tensor.dtype],
        shape=tuple(tensor.shape),
        size=tensor.numel() * tensor.itemsize,
        width=tensor.itemsize,
        read=lambda: blocks_of(tensor),
    )


def blocks_of(tensor: Tensor) -> Iterator[memoryview]:
    """A tensor's bytes in order, some rows at a time."""
    if tensor.numel() == 0:
        return
    rows = tensor.reshape(1) if tensor.ndim == 0 else tensor
    if rows.ndim > 1 and rows.nbytes > ROWS_AT_ONCE:
        for row in rows:
            yield from blocks_of(row)
        return
    for some in rows.split(max(1, ROWS_AT_ONCE // max(1, rows[0].nbytes))):
        whole = some.detach().to("cpu").contiguous().flatten().view(torch.uint8)
        yield memoryview(whole.numpy())
