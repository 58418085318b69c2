"""A tensor of keys or values in 8 or 4 bits a number.

A group of numbers shares two fp16 numbers: its middle, and the step between its evenly spaced
levels. Each number becomes the nearest level. Levels may also be those of an 8-bit floating-point
number (e4m3, OCP 8-bit Floating Point Specification), which lie closest around the middle. Keys
have a few channels that are large in every token, so a group of keys is one channel of 64 tokens;
values have no such channels, so a group of values is up to 64 channels of one token (KIVI, arXiv
2402.02750).

Letters: B batch, K key/value heads, N tokens, E head width, C bytes of one token's codes, G groups
along the tokens, J groups along the head width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

GROUP = 64
"""Numbers of a group: two fp16 numbers for 64 codes are half a bit each."""

EXPONENT = 15
"""A tensor is scaled so that its largest number lies below 2**15. Then middles and steps of any
tensor fit fp16, and a step too small for fp16 costs less than 2**-32 of the largest, of
floating-point levels 2**-30."""

BLOCK = {"cpu": 1 << 19}
"""Numbers packed or unpacked at a time: 2 MiB of fp32 stay in a processor's cache."""

BLOCK_GPU = 1 << 24

FP8 = torch.float8_e4m3fn
"""Floating-point levels: four bits of exponent, three of mantissa, up to 448."""


@dataclass(frozen=True)
class Group:
    """What shares a middle and a step."""

    tokens: int
    channels: int

    @classmethod
    def of_keys(cls) -> Group:
        """One channel of 64 tokens."""
        return cls(GROUP, 1)

    @classmethod
    def of_values(cls, width: int) -> Group:
        """One token's head, in as few equal parts of at most 64 channels as there are."""
        parts = -(-width // GROUP)
        return cls(1, width // parts if width % parts == 0 else width)

    def view(self, x_BKNE: Tensor) -> Tensor:
        """[B, K, N, E] as [B, K, G, tokens, J, channels]; N is whole groups or one shorter one."""
        tokens = min(self.tokens, x_BKNE.shape[2])
        return x_BKNE.unflatten(2, (-1, tokens)).unflatten(-1, (-1, self.channels))

    def spans(self, tokens: int, most: int) -> Iterator[slice]:
        """Stretches of about `most` tokens: whole groups each, then the shorter one that ends."""
        block = max(1, most // self.tokens) * self.tokens
        whole = tokens - tokens % self.tokens
        yield from (slice(n, min(n + block, whole)) for n in range(0, whole, block))
        if whole < tokens:
            yield slice(whole, tokens)

    def along(self, span: slice) -> slice:
        """The groups of a span."""
        return slice(span.start // self.tokens, -(-span.stop // self.tokens))


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """A tensor [B, K, N, E] as codes: number = (middle + (code - top / 2) * step) * factor.

    Floating: (middle + code * step) * factor.
    """

    codes_BKNC: Tensor
    """uint8; of 4 bits two to a byte: the first half of the channels low, the second half high.
    Floating: the bits of e4m3 numbers."""
    middle_BKGJ: Tensor
    """fp16."""
    step_BKGJ: Tensor
    """fp16; 0 where all numbers of the group are the same fp16 number."""
    factor: float
    """A power of two, the same for the whole tensor."""
    group: Group
    bits: int
    width: int
    """E."""
    floating: bool = False
    """Whether codes are 8-bit floating-point numbers."""

    @classmethod
    @torch.no_grad()
    def of(cls, x_BKNE: Tensor, bits: int, group: Group, floating: bool = False) -> Packed:
        """Pack; a number that is not finite makes its whole group so."""
        batch, heads, tokens, width = x_BKNE.shape
        groups, byte = -(-tokens // group.tokens), -(-width * bits // 8)
        scales = (batch, heads, groups, width // group.channels)
        packed = cls(
            codes_BKNC=x_BKNE.new_empty(batch, heads, tokens, byte, dtype=torch.uint8),
            middle_BKGJ=x_BKNE.new_empty(scales, dtype=torch.float16),
            step_BKGJ=x_BKNE.new_empty(scales, dtype=torch.float16),
            factor=power_above(x_BKNE) / 2.0**EXPONENT,
            group=group,
            bits=bits,
            width=width,
            floating=floating,
        )
        for span in packed._spans():
            packed._pack(span, x_BKNE[:, :, span].float() / packed.factor)
        return packed

    @property
    def tokens(self) -> int:
        """N."""
        return self.codes_BKNC.shape[2]

    @property
    def top(self) -> int:
        """Steps from the lowest level to the highest."""
        return 2 * int(torch.finfo(FP8).max) if self.floating else 2**self.bits - 1

    @property
    def zero(self) -> float:
        """The number of the code whose level is the middle."""
        return 0.0 if self.floating else self.top / 2

    @property
    def nbytes(self) -> int:
        """Bytes of codes, middles and steps."""
        parts = (self.codes_BKNC, self.middle_BKGJ, self.step_BKGJ)
        return sum(part.numel() * part.element_size() for part in parts)

    def unpack(self, dtype: torch.dtype) -> Tensor:
        """The tensor [B, K, N, E], each number off by half a step at most.

        Floating: by a 16th of its distance from the middle, and 2**-10 of a step at least.
        """
        shape = (*self.codes_BKNC.shape[:3], self.width)
        out_BKNE = torch.empty(shape, dtype=dtype, device=self.codes_BKNC.device)
        self.write(out_BKNE)
        return out_BKNE

    @torch.no_grad()
    def write(self, out_BKNE: Tensor) -> None:
        """Unpack into a tensor, block by block; arithmetic is fp32 whatever its dtype."""
        for span in self._spans():
            out = out_BKNE[:, :, span]
            plain = out.dtype == torch.float32
            exact = out if plain else torch.empty_like(out, dtype=torch.float32)
            self._codes_into(exact, span)
            middle, step = self._scales(span)
            self.group.view(exact).mul_(step).add_(middle - step * self.zero)
            if not plain:
                out.copy_(exact)

    def rows(self, index_B: Tensor) -> Packed:
        """Of the batch only these, in this order."""
        index_B = index_B.to(self.codes_BKNC.device)
        return replace(
            self,
            codes_BKNC=self.codes_BKNC[index_B],
            middle_BKGJ=self.middle_BKGJ[index_B],
            step_BKGJ=self.step_BKGJ[index_B],
        )

    def _spans(self) -> Iterator[slice]:
        batch, heads, tokens, _ = self.codes_BKNC.shape
        most = BLOCK.get(self.codes_BKNC.device.type, BLOCK_GPU)
        return self.group.spans(tokens, most // max(1, batch * heads * self.width))

    def _pack(self, span: slice, x_BKNE: Tensor) -> None:
        """Choose a span's levels and write its codes."""
        x, groups = self.group.view(x_BKNE), self.group.along(span)
        low, high = x.amin((3, 5), keepdim=True), x.amax((3, 5), keepdim=True)
        middle = ((low + high) / 2).half()
        # half the range around the middle as stored, so that rounding the middle clips nothing
        reach = torch.maximum(high - middle.float(), middle.float() - low)
        step = (reach * (2 / self.top)).half()
        between = step.float().masked_fill(step == 0, 1.0)
        levels = ((x - middle.float()) / between).reshape(x_BKNE.shape)
        self.codes_BKNC[:, :, span] = self._codes(levels)
        self.middle_BKGJ[:, :, groups] = middle[:, :, :, 0, :, 0]
        self.step_BKGJ[:, :, groups] = step[:, :, :, 0, :, 0]

    def _codes(self, levels: Tensor) -> Tensor:
        """Codes of steps from the middle."""
        if self.floating:
            return levels.clamp_(-self.top / 2, self.top / 2).to(FP8).view(torch.uint8)
        codes = levels.add_(self.zero).round_().clamp_(0, self.top).to(torch.uint8)
        return codes if self.bits == 8 else pairs(codes)

    def _codes_into(self, out_BKNE: Tensor, span: slice) -> None:
        """A span's codes as numbers."""
        codes = self.codes_BKNC[:, :, span]
        if self.floating:
            # fp16's five bits of exponent, of which e4m3 has the lower four: 2**8 times as large;
            # four times as fast as torch's conversion on a CPU. Not a number becomes 480, and its
            # group's middle is none either.
            bits = codes.view(torch.int8).to(torch.int16).bitwise_left_shift_(7)
            out_BKNE.copy_(bits.bitwise_and_(~(1 << 14)).view(torch.float16)).mul_(256.0)
        elif self.bits == 8:
            out_BKNE.copy_(codes)
        else:
            out_BKNE[..., : codes.shape[-1]] = codes & 15
            out_BKNE[..., codes.shape[-1] :] = codes[..., : self.width // 2] >> 4

    def _scales(self, span: slice) -> tuple[Tensor, Tensor]:
        """A span's middles and steps, fp32, to broadcast over the grouped view."""
        groups = self.group.along(span)
        middle, step = (
            (part[:, :, groups].float() * self.factor)[:, :, :, None, :, None]
            for part in (self.middle_BKGJ, self.step_BKGJ)
        )
        return middle, step


def power_above(x: Tensor) -> float:
    """The smallest power of two above every magnitude, 1 if all are 0.

    At least 2**-100: what it is divided by has to be a number of fp32.
    """
    if x.numel() == 0:
        return 1.0
    low, high = torch.aminmax(x)
    return math.ldexp(1.0, max(-100, math.frexp(max(abs(low.item()), abs(high.item())))[1]))


def pairs(codes_BKNE: Tensor) -> Tensor:
    """Codes below 16, two to a byte: channel c below channel c + half, [B, K, N, ceil(E / 2)]."""
    half = -(-codes_BKNE.shape[-1] // 2)
    packed = codes_BKNE[..., :half].clone()
    packed[..., : codes_BKNE.shape[-1] - half] |= codes_BKNE[..., half:] << 4
    return packed
