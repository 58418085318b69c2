"""Packed tensors: errors bounded by the step, exact packing of codes, any magnitude and length."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from longtake.parts import packed as packed_module
from longtake.parts.packed import Group, Packed, pairs, power_above

FP16_STEP = 2.0**-11
"""Half a unit in the last place of fp16, relative: what rounding a middle or a step costs."""
FP32 = 2.0**-22
"""Four roundings of fp32, relative to the group's largest."""
TINY = 2.0**-32
"""Of the tensor's largest number, of evenly spaced levels: see `packed.EXPONENT`."""
TINY_FLOATING = 2.0**-30

SHAPES = [(1, 1, 1, 1), (1, 2, 63, 16), (2, 3, 64, 48), (1, 2, 65, 128), (1, 1, 200, 7)]


def groups_of(width: int) -> tuple[Group, Group]:
    return Group.of_keys(), Group.of_values(width)


Levels = Callable[[Tensor, Group], Packed]
"""Packs a tensor."""


def int8(x: Tensor, group: Group) -> Packed:
    return Packed.of(x, 8, group)


def int4(x: Tensor, group: Group) -> Packed:
    return Packed.of(x, 4, group)


def fp8(x: Tensor, group: Group) -> Packed:
    return Packed.of(x, 8, group, floating=True)


LEVELS = (int8, int4, fp8)


def per_number(packed: Packed, scales: Tensor) -> Tensor:
    """A group's number for each of its numbers, written out the plain way."""
    tokens = scales.float().repeat_interleave(packed.group.tokens, 2)[:, :, : packed.tokens]
    return tokens.repeat_interleave(packed.group.channels, 3) * packed.factor


def check_bound(x: Tensor, packed: Packed) -> None:
    """No number is further off than half a step and the roundings of fp32, here and in packing.

    Steps of e4m3 numbers grow with the distance from the middle: half of one is a 16th of it, and
    2**-10 where numbers are subnormal.
    """
    step = per_number(packed, packed.step_BKGJ)
    middle = per_number(packed, packed.middle_BKGJ)
    largest = middle.abs() + step * packed.top
    off = (packed.unpack(torch.float32).double() - x.double()).abs()
    half = torch.full_like(step, 0.5)
    if packed.floating:
        away = ((x.float() - middle) / step.masked_fill(step == 0, 1.0)).abs()
        half = (away / 16).clamp(min=2.0**-10)
    bound = (step * half).double() * 1.0002 + largest.double() * FP32
    least = TINY_FLOATING if packed.floating else TINY
    assert (off <= bound + float(x.abs().max()) * least).all()


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_number_is_within_half_a_step(
    shape: tuple[int, int, int, int], levels: Levels
) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator)
    x = x * torch.logspace(-3, 2, shape[-1]) + torch.linspace(-400, 400, shape[-1])  # outliers
    for group in groups_of(shape[-1]):
        packed = levels(x, group)
        assert packed.unpack(torch.float32).shape == x.shape
        check_bound(x, packed)
        # and the steps are no wider than the group's range asks, but for the rounded middle
        x6 = group.view(x[:, :, : shape[2] - shape[2] % min(group.tokens, shape[2])])
        low, high = x6.amin((3, 5)), x6.amax((3, 5))
        widest = (high - low + 2 * FP16_STEP * (low + high).abs() / 2) / packed.top
        step = packed.step_BKGJ[:, :, : low.shape[2]].float() * packed.factor
        assert (step <= widest * (1 + FP16_STEP) + 400 * TINY).all()


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("magnitude", [1e-30, 1e-20, 1e-7, 1.0, 7e4, 1e20, 5e37])
def test_any_magnitude(magnitude: float, levels: Levels) -> None:
    x = torch.randn(1, 2, 100, 24, generator=torch.Generator().manual_seed(2)) * magnitude
    for group in groups_of(24):
        check_bound(x, levels(x, group))


@pytest.mark.parametrize("levels", LEVELS)
def test_magnitudes_side_by_side(levels: Levels) -> None:
    """A channel a million times smaller than another keeps its own step."""
    x = torch.randn(1, 1, 128, 2, generator=torch.Generator().manual_seed(3))
    x = x * torch.tensor([1e4, 1e-2])
    packed = levels(x, Group.of_keys())
    check_bound(x, packed)
    off = (packed.unpack(torch.float32) - x)[..., 1].norm() / x[..., 1].norm()
    worst = 1 / 16 if packed.floating else 0.6 * 6 / packed.top  # a range of 6 deviations
    assert off < worst


@pytest.mark.parametrize("levels", LEVELS)
def test_a_channel_too_small_for_fp16_steps(levels: Levels) -> None:
    x = torch.randn(1, 1, 128, 2, generator=torch.Generator().manual_seed(3))
    small = x * torch.tensor([1.0, 1e-9])
    check_bound(small, levels(small, Group.of_keys()))


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 0.1, 1e-12, 65504.0, 1e30])
def test_constants(value: float, levels: Levels) -> None:
    x = torch.full((1, 2, 70, 16), value)
    for group in groups_of(16):
        packed = levels(x, group)
        if packed.step_BKGJ.any():  # no fp16 number: the levels reach from it to its neighbour
            torch.testing.assert_close(packed.unpack(torch.float32), x, rtol=FP32, atol=0)
        else:
            assert packed.unpack(torch.float32).equal(x)


@pytest.mark.parametrize("levels", LEVELS)
def test_half_precision(levels: Levels) -> None:
    x = torch.randn(1, 2, 130, 32, generator=torch.Generator().manual_seed(4)).bfloat16()
    for group in groups_of(32):
        packed = levels(x, group)
        check_bound(x.float(), packed)
        unpacked = packed.unpack(torch.bfloat16)
        assert unpacked.equal(packed.unpack(torch.float32).bfloat16())


def test_numbers_on_the_levels_come_back_exactly() -> None:
    codes = torch.arange(16.0).repeat(1, 1, 64, 1) * 0.25 - 2  # values: one token, all 16 levels
    for x, group in ((codes, Group.of_values(16)), (codes.mT.contiguous(), Group.of_keys())):
        assert Packed.of(x, 4, group).unpack(torch.float32).equal(x)


def test_codes_are_eight_bit_floating_point_numbers() -> None:
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    numbers = numbers[numbers.isfinite()].sort().values  # 254, from -448 to 448
    for x, group in (
        (numbers.view(1, 1, 1, -1), Group(1, len(numbers))),
        (numbers.view(1, 1, -1, 1), Group(len(numbers), 1)),
    ):
        packed = fp8(x, group)
        assert packed.unpack(torch.float32).equal(x)
        assert packed.codes_BKNC.view(torch.float8_e4m3fn).float().equal(x)
        assert packed.step_BKGJ.item() * packed.factor == 1.0


@pytest.mark.parametrize("width", [1, 2, 7, 16])
def test_two_codes_to_a_byte(width: int) -> None:
    codes = torch.randint(0, 16, (2, 1, 5, width), dtype=torch.uint8)
    packed = pairs(codes)
    half = (width + 1) // 2
    assert packed.shape == (2, 1, 5, half)
    for n in range(width):
        byte = packed[..., n % half]
        assert codes[..., n].equal(byte & 15 if n < half else byte >> 4)
    part = Packed.of(codes.float(), 4, Group.of_values(width))
    assert part.codes_BKNC.shape == packed.shape


def test_nothing_and_what_is_not_finite() -> None:
    for group in groups_of(16):
        for levels in LEVELS:
            none = levels(torch.empty(1, 2, 0, 16), group)
            assert (none.nbytes, none.unpack(torch.float32).shape) == (0, (1, 2, 0, 16))
        for bad in (float("nan"), float("inf")):
            x = torch.ones(1, 1, 128, 16)
            x[0, 0, 3, 5] = bad
            for levels in LEVELS:
                assert not levels(x, group).unpack(torch.float32)[0, 0, 3, 5].isfinite()
    numbers = (0.0, 1.0, -3.0, 2e-40)
    assert [power_above(torch.tensor(x)) for x in numbers] == [1, 2, 4, 2**-100]


@pytest.mark.parametrize("levels", LEVELS)
def test_blocks_do_not_show(levels: Levels, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 2, 333, 20)
    for group in groups_of(20):
        whole = levels(x, group)
        with monkeypatch.context() as patch:
            patch.setitem(packed_module.BLOCK, "cpu", 2 * 2 * 20 * 70)
            pieces = levels(x, group)
            for name in ("codes_BKNC", "middle_BKGJ", "step_BKGJ"):
                assert getattr(pieces, name).equal(getattr(whole, name))
            assert pieces.unpack(torch.float32).equal(whole.unpack(torch.float32))


@pytest.mark.parametrize(
    ("width", "parts"), [(16, 1), (48, 1), (67, 1), (80, 2), (96, 2), (128, 2)]
)
def test_groups_of_values_divide_the_head(width: int, parts: int) -> None:
    assert Group.of_values(width) == Group(1, width // parts)
