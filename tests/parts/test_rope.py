"""Rotary tables and YaRN against transformers', and what a config may say about them."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2Model
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from longtake.errors import CheckpointError
from longtake.parts.cache import GrowingCache
from longtake.parts.qwen2 import Decoder, Step, decoder_config
from longtake.parts.rope import (
    Linear,
    Rope,
    Yarn,
    frequencies,
    rope_from_config,
    rope_table,
    rotate,
    unrotate,
)

PUBLISHED = Yarn(factor=4.0, original=32768)
"""What VideoChat-Flash's needle harness sets, with head_dim 128 and theta 1e6."""
SHORT = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
"""On a head of 16 the ramp runs from pair 0 to 5: pairs of all three sorts."""


def table(rope: Rope, positions: Tensor, head_dim: int = 16) -> Any:
    return rope_table(positions[None], frequencies(head_dim, rope), torch.float32, rope.gain)


# -- frequencies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("head_dim", [16, 48, 64, 128])
@pytest.mark.parametrize("theta", [1e4, 1e6, 1e7, 1e9])
@pytest.mark.parametrize(
    "fields",
    [
        {"factor": 1.0},
        {"factor": 1.5},
        {"factor": 4.0},
        {"factor": 32.0},
        {"factor": 4, "original_max_position_embeddings": 6272},
        {"factor": 4.0, "original_max_position_embeddings": 1010000},
        {"factor": 4.0, "original_max_position_embeddings": 4},  # no pair turns once
        {"factor": 4.0, "beta_fast": 16.0, "beta_slow": 2.0},
        {"factor": 4.0, "beta_fast": 1.0, "beta_slow": 1.0, "truncate": False},  # no ramp
        {"factor": 4.0, "attention_factor": 1.0},
        {"factor": 4.0, "attention_factor": 0.7, "truncate": False},
        {"factor": 4.0, "beta_fast": None, "attention_factor": None},
    ],
)
def test_yarn_equals_transformers(head_dim: int, theta: float, fields: dict[str, Any]) -> None:
    """Bit for bit."""
    said = {
        "rope_type": "yarn",
        "rope_theta": theta,
        "original_max_position_embeddings": 32768,
        **fields,
    }
    theirs = Qwen2Config(hidden_size=head_dim, num_attention_heads=1, rope_parameters=dict(said))
    expected, gain = ROPE_INIT_FUNCTIONS["yarn"](theirs, "cpu")
    rope = rope_from_config({"rope_parameters": said})
    torch.testing.assert_close(frequencies(head_dim, rope), expected, rtol=0, atol=0)
    assert rope.gain == gain


def test_the_published_numbers() -> None:
    assert PUBLISHED.edges(128, 1e6) == (23, 40)
    assert PUBLISHED.gain == pytest.approx(1.1386, abs=5e-5)
    plain = frequencies(128, Rope(theta=1e6))
    stretched = frequencies(128, Rope(theta=1e6, scaling=PUBLISHED))
    torch.testing.assert_close(stretched[:24], plain[:24], rtol=0, atol=0)
    torch.testing.assert_close(stretched[40:], plain[40:] / 4, rtol=1e-6, atol=0)
    assert bool((stretched[24:40] < plain[24:40]).all())


def test_the_plain_table_is_what_it_was() -> None:
    """Bit for bit, written out."""
    theta, positions = 1e6, torch.tensor([0, 1, 227, 99_999])
    plain = 1.0 / theta ** (torch.arange(0, 16, 2).float() / 16)
    angles = (positions[:, None].float() * plain).repeat(1, 2)
    for dtype in (torch.float32, torch.bfloat16):
        ours = rope_table(positions[None], frequencies(16, Rope(theta=theta)), dtype)
        assert ours.gain == 1.0
        assert torch.equal(ours.cos[0, 0], angles.cos().to(dtype))
        assert torch.equal(ours.sin[0, 0], angles.sin().to(dtype))


# -- turning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", [None, PUBLISHED, Yarn(factor=64.0, original=128)])
def test_turning_back_undoes(scaling: Yarn | None) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2, 50, 16)
    held = table(Rope(theta=1e4, scaling=scaling), torch.arange(1000, 1050))
    turned = rotate(x, held)
    # a turn keeps lengths, and the gain scales them
    lengths = turned.norm(dim=-1) / x.norm(dim=-1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, held.gain))
    # two roundings of numbers up to 4
    torch.testing.assert_close(unrotate(turned, held), x, rtol=0, atol=2e-6)


def test_the_first_rows_of_a_table_keep_its_gain() -> None:
    whole = table(Rope(theta=1e4, scaling=PUBLISHED), torch.arange(9))
    first = table(Rope(theta=1e4, scaling=PUBLISHED), torch.arange(4))
    for ours, expected in zip(whole.first(4), first, strict=True):
        assert torch.equal(torch.as_tensor(ours), torch.as_tensor(expected))
    assert whole.first(4).gain == PUBLISHED.gain


# -- the decoder ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair() -> tuple[Qwen2Model, Decoder]:
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=100,
        max_position_embeddings=256,
        rope_parameters=dict(SHORT),
        attn_implementation="sdpa",
    )
    reference = Qwen2Model(config).eval()
    fields = config.to_dict()
    decoder = Decoder(decoder_config(fields, rope_from_config(fields))).eval()
    decoder.load_state_dict(reference.state_dict())
    return reference, decoder


def test_the_decoder_equals_transformers(pair: tuple[Qwen2Model, Decoder]) -> None:
    reference, decoder = pair
    assert decoder.config.rope.scaling == Yarn(factor=4.0, original=64)
    ids = torch.randint(0, 100, (2, 150))
    with torch.no_grad():
        ours = decoder(
            decoder.embed_tokens(ids), Step(positions_BS=torch.arange(150).expand(2, -1))
        )
        theirs = reference(ids).last_hidden_state
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_blocks_equal_the_whole(pair: tuple[Qwen2Model, Decoder], chunk: int) -> None:
    _, decoder = pair
    torch.manual_seed(1)
    x, cache = torch.randn(1, 150, 64), GrowingCache()
    at = torch.arange(150)[None]
    with torch.no_grad():
        whole = decoder(x, Step(positions_BS=at))
        pieces = [
            decoder(piece, Step(positions_BS=positions, cache=cache))
            for piece, positions in zip(x.split(chunk, 1), at.split(chunk, 1), strict=True)
        ]
    # fp32 sums in another order; the features are of size 1
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-5)


# -- configs --------------------------------------------------------------------------------------

YARN = {"type": "yarn", "factor": 4.0}
STRETCHED = Rope(theta=1e6, scaling=PUBLISHED)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, Rope(theta=1e4)),
        ({"rope_theta": 1e9, "rope_scaling": None}, Rope(theta=1e9)),
        ({"rope_parameters": {"rope_theta": 1e9}}, Rope(theta=1e9)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e9}}, Rope(theta=1e9)),
        ({"rope_theta": 1e6, "max_position_embeddings": 32768, "rope_scaling": YARN}, STRETCHED),
        ({"rope_theta": 1e6, "rope_scaling": YARN}, STRETCHED),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 4, "rope_theta": 1000000}},
            STRETCHED,
        ),
        (
            {
                "rope_theta": 1e6,
                "max_position_embeddings": 131072,
                "rope_scaling": {**YARN, "original_max_position_embeddings": 32768},
            },
            STRETCHED,
        ),
        (
            {
                "rope_theta": 1e6,
                "rope_scaling": {
                    **YARN,
                    "beta_fast": 16,
                    "beta_slow": 2,
                    "attention_factor": 1,
                    "truncate": False,
                },
            },
            Rope(
                theta=1e6,
                scaling=Yarn(
                    factor=4.0,
                    original=32768,
                    beta_fast=16.0,
                    beta_slow=2.0,
                    attention=1.0,
                    truncate=False,
                ),
            ),
        ),
        (
            {
                "rope_theta": 1e7,
                "max_position_embeddings": 1010000,
                "dual_chunk_attention_config": {"chunk_size": 262144, "local_size": 8192},
            },
            Rope(theta=1e7, positions=1010000),
        ),
    ],
)
def test_configs(config: dict[str, Any], expected: Rope) -> None:
    assert rope_from_config(config) == expected


@pytest.mark.parametrize(
    ("scaling", "told"),
    [
        ({"type": "linear", "factor": 0.5}, "rope scaling factor is 0.5, expected 1 or more"),
        ({"type": "linear"}, "factor is None"),
        ({"type": "dynamic", "factor": 2.0}, "'dynamic' is not supported"),
        ({"rope_type": "longrope"}, "'longrope' is not supported"),
        ({"rope_type": "llama3", "factor": 8.0}, "'llama3' is not supported"),
        ({"type": "mrope", "mrope_section": [2, 3, 3]}, "'mrope' with mrope_section"),
        ({"rope_type": "default", "mrope_section": [2, 3, 3]}, "'default' with mrope_section"),
        ({"rope_type": ["yarn"], "factor": 4}, "is not supported"),
        ({"factor": 4.0}, "None is not supported"),
        ({**YARN, "mscale": 1.0}, "'yarn' with mscale"),
        ({"type": "yarn"}, "factor is None"),
        ({"type": "yarn", "factor": 0.5}, "factor is 0.5, expected 1 or more"),
        ({"type": "yarn", "factor": -4}, "factor is -4"),
        ({"type": "yarn", "factor": "4"}, "factor is '4'"),
        ({"type": "yarn", "factor": True}, "factor is True"),
        ({"type": "yarn", "factor": float("nan")}, "factor is nan"),
        ({"type": "yarn", "factor": float("inf")}, "factor is inf"),
        ({**YARN, "original_max_position_embeddings": 0}, "original_max_position_embeddings is 0"),
        ({**YARN, "original_max_position_embeddings": "x"}, "original_max_position_embeddings"),
        ({**YARN, "beta_fast": 1, "beta_slow": 32}, "beta_fast 1.0 is below beta_slow 32.0"),
        ({**YARN, "beta_slow": -1}, "beta_slow is -1"),
        ({**YARN, "attention_factor": "much"}, "attention_factor is 'much'"),
        ({**YARN, "attention_factor": 10**400}, "attention_factor is 1000"),
        ({**YARN, "truncate": "no"}, "truncate is 'no'"),
        ([1], "rope_scaling is"),
    ],
)
def test_what_is_not_computed_is_refused(scaling: Any, told: str) -> None:
    for spelling in ("rope_scaling", "rope_parameters"):
        with pytest.raises(CheckpointError) as caught:
            rope_from_config({"rope_theta": 1e6, spelling: scaling})
        assert told.replace("rope_scaling", spelling) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("theta", [1, 0.5, 0, -1, "x", float("inf")])
def test_a_base_that_turns_nothing_is_refused(theta: Any) -> None:
    with pytest.raises(CheckpointError, match="rope_theta is"):
        rope_from_config({"rope_theta": theta, "rope_scaling": YARN})


@pytest.mark.parametrize("name", ["type", "rope_type"])
def test_linear_scaling_of_a_checkpoint(name: str) -> None:
    fields = {"rope_theta": 1e6, "max_position_embeddings": 32768}
    rope = rope_from_config({**fields, "rope_scaling": {name: "linear", "factor": 2.0}})
    assert rope == Rope(theta=1e6, positions=32768, scaling=Linear(factor=2.0))


def test_how_far_a_stretched_checkpoint_reads() -> None:
    fields = {"rope_theta": 1e6, "max_position_embeddings": 32768}
    plain = rope_from_config(fields)
    four = rope_from_config({**fields, "rope_scaling": {"type": "yarn", "factor": 4.0}})
    said = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    written = rope_from_config({**fields, "max_position_embeddings": 131072, "rope_scaling": said})
    assert plain.window(8192) == 8192
    assert [rope.window(32768) for rope in (four, written)] == [131072, 131072]
    assert four.window(200000) == 200000  # stated as it is
