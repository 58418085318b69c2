"""Ways to stretch positions against float64 tables, and against transformers where it has them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from longtake.parts.rope import Linear, Ntk, Ramp, Rope, Yarn, frequencies, rope_table

GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "visual_context_window"
SETTINGS = json.loads((GOLDEN / "rope-tables.json").read_text())["settings"]
TABLES = load_file(GOLDEN / "rope-tables.safetensors")
RAMPS: tuple[Ramp, ...] = ("dim", "rotations")


def plain_of(setting: dict[str, Any]) -> Rope:
    return Rope(theta=setting["base"])


def yarn_of(setting: dict[str, Any], ramp: Ramp) -> Yarn:
    return Yarn(
        factor=setting["scale"],
        original=setting["visual_window"],
        beta_fast=setting["beta"],
        beta_slow=setting["alpha"],
        ramp=ramp,
    )


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting["name"])
@pytest.mark.parametrize("ramp", RAMPS)
def test_visual_windows_equal_the_golden_tables(setting: dict[str, Any], ramp: Ramp) -> None:
    name, width = setting["name"], setting["head_dim"]
    rope = plain_of(setting).stretched(yarn_of(setting, ramp))
    ours, theirs = frequencies(width, rope), TABLES[f"{name}.{ramp}.inv_freq"]
    # powers of the base in fp32
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=0)
    assert rope.gain == pytest.approx(setting["attention_scale_yarn"], rel=1e-12)
    # at position 100000 the last bit of a frequency is 6e-3 rad: what is compared is the recipe
    table = rope_table(
        torch.tensor([setting["positions"]]), theirs.float(), torch.float32, rope.gain
    )
    for got, kind in ((table.cos, "cos_f32"), (table.sin, "sin_f32")):
        assert torch.equal(got[0, 0, :, : width // 2], got[0, 0, :, width // 2 :])
        expected = TABLES[f"{name}.{ramp}.{kind}"] * rope.gain
        torch.testing.assert_close(got[0, 0, :, : width // 2], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting["name"])
def test_what_each_pair_keeps(setting: dict[str, Any]) -> None:
    name, width, base = setting["name"], setting["head_dim"], setting["base"]
    powers = 1.0 / frequencies(width, plain_of(setting))
    for ramp in RAMPS:
        kept = yarn_of(setting, ramp).kept(powers, base)
        if setting["scale"] == 1.0:  # nothing is stretched
            kept = torch.ones_like(kept)
        torch.testing.assert_close(kept.double(), TABLES[f"{name}.{ramp}.gamma"], rtol=0, atol=1e-6)
    edges = yarn_of(setting, "dim").edges(width, base)
    assert list(edges) == setting["ramp_dim_low_high"]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting["name"])
@pytest.mark.parametrize("kind", [Linear, Ntk])
def test_the_older_kinds(setting: dict[str, Any], kind: type[Linear] | type[Ntk]) -> None:
    rope = plain_of(setting).stretched(kind(factor=setting["scale"]))
    ours = frequencies(setting["head_dim"], rope)
    theirs = TABLES[f"{setting['name']}.{kind.__name__.lower()}.inv_freq"]
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=0)
    assert rope.gain == 1.0


def test_every_setting_is_compared() -> None:
    assert len(SETTINGS) == 9
    assert {setting["scale"] for setting in SETTINGS} >= {1.0, 8.0, 16.0}


@pytest.mark.parametrize("scaling", ["linear", "yarn", "no temperature"])
@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("factor", [1.5, 8.0, 10.666666666666666])
def test_transformers_has_the_same(scaling: str, head_dim: int, factor: float) -> None:
    """Bit for bit: a visual window whose ramp goes by number is its YaRN."""
    said: dict[str, Any] = {"rope_type": "linear", "rope_theta": 1e6, "factor": factor}
    if scaling != "linear":
        said |= {"rope_type": "yarn", "original_max_position_embeddings": 6272}
    if scaling == "no temperature":
        said["attention_factor"] = 1.0
    theirs = Qwen2Config(hidden_size=head_dim, num_attention_heads=1, rope_parameters=said)
    expected, gain = ROPE_INIT_FUNCTIONS[said["rope_type"]](theirs, "cpu")
    attention = 1.0 if scaling == "no temperature" else None
    yarn = Yarn(factor=factor, original=6272, ramp="dim", attention=attention)
    ours = Linear(factor=factor) if scaling == "linear" else yarn
    rope = Rope(theta=1e6).stretched(ours)
    if scaling == "linear":  # it divides the frequencies, we multiply their powers
        torch.testing.assert_close(frequencies(head_dim, rope), expected, rtol=2e-7, atol=0)
    else:
        assert torch.equal(frequencies(head_dim, rope), expected)
    assert rope.gain == gain


@pytest.mark.parametrize("factor", [1.0, 0.5, 1e-3, 0.0])
@pytest.mark.parametrize("head_dim", [2, 16, 64, 128])
def test_nothing_is_ever_pressed_together(factor: float, head_dim: int) -> None:
    """Up to the length that was trained on, every kind is the identity, bit for bit."""
    for theta in (1e2, 1e4, 1e6, 1e9):
        plain = Rope(theta=theta)
        for scaling in (
            Linear(factor=factor),
            Ntk(factor=factor),
            Yarn(factor=factor, original=6272),
            Yarn(factor=factor, original=6272, ramp="rotations", attention=None),
        ):
            rope = plain.stretched(scaling)
            assert rope == plain
            assert (rope.factor, rope.gain) == (1.0, 1.0)
            assert torch.equal(frequencies(head_dim, rope), frequencies(head_dim, plain))


def test_what_was_there_before_is_replaced() -> None:
    first = Rope(theta=1e6).stretched(Ntk(factor=3.0))
    assert first.stretched(Linear(factor=2.0)) == Rope(theta=1e6, scaling=Linear(factor=2.0))
    assert first.stretched(Linear(factor=1.0)) == Rope(theta=1e6)


def test_ntk_leaves_the_fastest_pair_and_slows_the_last_by_the_factor() -> None:
    plain = frequencies(64, Rope(theta=1e4))
    ours = frequencies(64, Rope(theta=1e4, scaling=Ntk(factor=8.0)))
    assert ours[0] == plain[0]
    torch.testing.assert_close(ours[-1], plain[-1] / 8, rtol=1e-6, atol=0)
    assert bool((ours[1:] < plain[1:]).all())


@pytest.mark.parametrize("ramp", RAMPS)
def test_a_ramp_without_length_is_a_step(ramp: Ramp) -> None:
    yarn = Yarn(factor=8.0, original=6272, beta_fast=4.0, beta_slow=4.0, ramp=ramp, truncate=False)
    plain = frequencies(64, Rope(theta=1e6))
    kept = yarn.kept(1.0 / plain, 1e6)
    turns = 6272 * plain / (2 * math.pi)
    assert torch.equal(kept, (turns > 4.0).float())


def test_the_papers_numbers() -> None:
    """Its figure 2, and the table of both readings in the specification."""
    window = Yarn(factor=8.0, original=6272)
    assert window.edges(128, 1e6) == (15, 32)
    assert Yarn(factor=2.0, original=32768).edges(128, 1e6) == (23, 40)
    printed = {16: (0.949, 0.988), 20: (0.743, 0.473), 24: (0.537, 0.255), 30: (0.228, 0.140)}
    plain = frequencies(128, Rope(theta=1e6))
    for column, ramp in enumerate(RAMPS):
        ours = Yarn(factor=8.0, original=6272, ramp=ramp).frequencies(128, 1e6) / plain
        for pair, values in printed.items():
            assert float(ours[pair]) == pytest.approx(values[column], abs=6e-4)
        assert float(ours[15]) == pytest.approx(1.0)
        assert float(ours[32]) == pytest.approx(0.125, abs=1e-6)
    assert window.gain == pytest.approx(1.208, abs=5e-4)
