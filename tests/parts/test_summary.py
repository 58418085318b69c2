"""Summary windows against one plain causal pass a step that re-rotates every key.

Letters: B batch, S rows of a step, M rows kept before it, N = M + S, D width, H heads, K key/value
heads, E head width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtake.parts.cache import GrowingCache
from longtake.parts.layers import Linear
from longtake.parts.qwen2 import DecoderConfig, Step
from longtake.parts.rope import Rope
from longtake.parts.summary import PARAMETERS, SummaryDecoder, begin_summaries
from longtake.parts.windows import Place, Plan, Ratios, planned
from longtake.train.condensed import TapeCache

CONFIG = DecoderConfig(
    hidden=32,
    layers=3,
    heads=4,
    kv_heads=2,
    head_dim=8,
    mlp=48,
    vocab=20,
    eps=1e-6,
    rope=Rope(theta=1e4),
)
CLOSE = {"rtol": 0, "atol": 2e-5}
"""Sums of fp32 in another order; features are of size 1, and a wrong row is off by more than 0.1"""

OWN = [("q", "k", "v"), ("q",), ("k", "v"), ()]


def decoder_of(own: Sequence[str] = PARAMETERS) -> SummaryDecoder:
    """Random weights large enough for attention to choose, also in biases."""
    torch.manual_seed(1)
    decoder = SummaryDecoder(CONFIG, own)
    for weight in decoder.parameters():
        nn.init.normal_(weight, std=1.0 if weight.ndim == 1 else weight.shape[-1] ** -0.5)
    nn.init.normal_(decoder.beacon_embed_tokens.weight)
    return decoder


# -- the obvious way ----------------------------------------------------------------------------


def turn(x_BHNE: Tensor, positions_N: Tensor) -> Tensor:
    """Rotate by position, each pair (e, e + E/2) as a complex number."""
    half = x_BHNE.shape[-1] // 2
    angles = positions_N[:, None] * CONFIG.rope.theta ** (-torch.arange(half) / half)
    pairs = torch.complex(*x_BHNE.double().chunk(2, -1)) * torch.polar(
        torch.ones_like(angles).double(), angles.double()
    )
    return torch.cat([pairs.real, pairs.imag], -1).float()


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + CONFIG.eps).sqrt() * weight


@dataclass
class Held:
    """What a plain pass keeps: each layer's keys before rotation, and values, [B, K, M, E]."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)


def plain(decoder: SummaryDecoder, x_BSD: Tensor, summary_S: Tensor | None, held: Held) -> Tensor:
    """One step: a window with summary rows, of which only these are kept, or text, kept whole."""
    rows = x_BSD.shape[1]
    mine = torch.zeros(rows, dtype=torch.bool) if summary_S is None else summary_S
    kept = torch.arange(rows) if summary_S is None else summary_S.nonzero()[:, 0]
    x = torch.where(mine[:, None], decoder.beacon_embed_tokens.weight, x_BSD)
    before, held_next = held, Held()
    for n, layer in enumerate(decoder.layers):
        h = normed(x, layer.input_layernorm.weight)
        q, k, v = (
            torch.where(mine[:, None], summary(h), ordinary(h)).unflatten(-1, (-1, 8))
            for ordinary, summary in (projections(layer.self_attn, name) for name in "qkv")
        )
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        keys = torch.cat([before.keys[n], k], 2) if before.keys else k
        values = torch.cat([before.values[n], v], 2) if before.values else v
        total = keys.shape[2]
        past = total - rows
        scores = turn(q, torch.arange(past, total)) @ turn(
            keys.repeat_interleave(2, 1), torch.arange(total)
        ).transpose(2, 3)
        later = torch.arange(total) > torch.arange(past, total)[:, None]
        weights = (scores / math.sqrt(8)).masked_fill(later, -torch.inf).softmax(-1)
        out = (weights @ values.repeat_interleave(2, 1)).transpose(1, 2).flatten(2)
        x = x + out @ layer.self_attn.o_proj.weight.T
        h = normed(x, layer.post_attention_layernorm.weight)
        gate, up, down = (getattr(layer.mlp, f"{name}_proj") for name in ("gate", "up", "down"))
        x = x + (F.silu(h @ gate.weight.T) * (h @ up.weight.T)) @ down.weight.T
        held_next.keys.append(keys[:, :, [*range(past), *(past + kept)]])
        held_next.values.append(values[:, :, [*range(past), *(past + kept)]])
    held.keys, held.values = held_next.keys, held_next.values
    return normed(x, decoder.norm.weight)


def projections(
    attention: nn.Module, name: str
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Of ordinary rows and of summaries, as two plain functions."""
    parameters = dict(attention.named_parameters())

    def project(prefix: str) -> Callable[[Tensor], Tensor]:
        weight, bias = (parameters[f"{prefix}{name}_proj.{end}"] for end in ("weight", "bias"))
        return lambda h: h @ weight.T + bias

    own = f"beacon_{name}_proj.weight" in parameters
    return project(""), project("beacon_" if own else "")


# -- a sequence read both ways ------------------------------------------------------------------


@dataclass
class Script:
    """Text, windows of a visual, text."""

    before_BSD: Tensor
    windows: list[tuple[Tensor, Plan]]
    after_BSD: Tensor

    def leaves(self) -> list[Tensor]:
        """What gradients may be asked of."""
        return [self.before_BSD, *(x_BND for x_BND, _ in self.windows), self.after_BSD]


def sequence(sizes: Sequence[int], ratio: int, place: Place = "interleave") -> Script:
    generator = torch.Generator().manual_seed(ratio)

    def draw(rows: int) -> Tensor:
        return torch.randn(2, rows, CONFIG.hidden, generator=generator).requires_grad_()

    plans = planned(iter(sizes), Ratios(choices=(ratio,)).chooser(), place)
    return Script(draw(5), [(draw(plan.raw), plan) for plan in plans], draw(4))


def slowly(decoder: SummaryDecoder, read: Script, held: Held) -> list[Tensor]:
    """Features of every step."""
    out = [plain(decoder, read.before_BSD, None, held)]
    for x_BND, plan in read.windows:
        rows = plan.is_summary()
        # summaries' rows are overwritten; zeros hold their places
        spread_BSD = x_BND.new_zeros(2, len(rows), CONFIG.hidden)
        spread_BSD = spread_BSD.index_copy(1, (~rows).nonzero()[:, 0], x_BND)
        out.append(plain(decoder, spread_BSD, rows, held))
    return [*out, plain(decoder, read.after_BSD, None, held)]


def ours(decoder: SummaryDecoder, read: Script, cache: GrowingCache | TapeCache) -> list[Tensor]:
    """The same through the library."""

    def text(x_BSD: Tensor) -> Tensor:
        past = cache.get_seq_length()
        positions = torch.arange(past, past + x_BSD.shape[1]).expand(2, -1)
        return decoder(x_BSD, Step(positions_BS=positions, cache=cache))

    out = [text(read.before_BSD)]
    for x_BND, plan in read.windows:
        past = cache.get_seq_length()
        out.append(decoder.window(x_BND, plan.is_summary(), cache, past))
        assert cache.get_seq_length() == past + plan.summaries
    return [*out, text(read.after_BSD)]


CASES = [
    ([8, 8, 8], 2),
    ([16, 16, 8], 4),
    ([16, 16], 8),
    ([7, 9, 3], 2),
    ([10, 10, 10, 3], 4),
    ([13, 3, 13, 1], 8),  # the second window has no summary, the third begins with one soon
    ([6], 8),
]


@pytest.mark.parametrize("own", OWN, ids=lambda own: "".join(own) or "none")
@pytest.mark.parametrize(("sizes", "ratio"), CASES)
@torch.no_grad()
def test_windows_equal_the_plain_pass(sizes: list[int], ratio: int, own: Sequence[str]) -> None:
    decoder, read = decoder_of(own), sequence(sizes, ratio)
    cache, held = GrowingCache(), Held()
    for got, want in zip(ours(decoder, read, cache), slowly(decoder, read, held), strict=True):
        torch.testing.assert_close(got, want, **CLOSE)
    for layer, keys, values in zip(cache.layers, held.keys, held.values, strict=True):
        assert keys.shape[2] == 5 + sum(sizes) // ratio + 4
        torch.testing.assert_close(layer.values, values, **CLOSE)
        # each key stands where it was rotated to: the k-th kept row at position k
        torch.testing.assert_close(layer.keys, turn(keys, torch.arange(keys.shape[2])), **CLOSE)


@torch.no_grad()
def test_summaries_at_the_end_equal_the_plain_pass() -> None:
    decoder, read = decoder_of(), sequence([10, 10, 3], 4, "append")
    steps = ours(decoder, read, GrowingCache()), slowly(decoder, read, Held())
    for got, want in zip(*steps, strict=True):
        torch.testing.assert_close(got, want, **CLOSE)
    interleaved = ours(decoder, sequence([10, 10, 3], 4), GrowingCache())
    assert (interleaved[-1] - steps[0][-1]).abs().max() > 0.01


@pytest.mark.parametrize("own", OWN, ids=lambda own: "".join(own) or "none")
@pytest.mark.parametrize(("sizes", "ratio"), [([8, 8, 8], 2), ([10, 10, 10, 3], 4), ([6, 9], 8)])
def test_gradients_equal_those_of_the_plain_pass(
    sizes: list[int], ratio: int, own: Sequence[str]
) -> None:
    decoder, read = decoder_of(own), sequence(sizes, ratio)
    names, weights = zip(*decoder.named_parameters(), strict=True)
    leaves = [*weights, *read.leaves()]

    def gradients(steps: list[Tensor]) -> list[Tensor]:
        # the last step alone: all it knows of the windows went through what they kept
        mix = torch.randn(steps[-1].shape, generator=torch.Generator().manual_seed(0))
        return list(
            torch.autograd.grad(
                (steps[-1] * mix).sum(), leaves, allow_unused=True, materialize_grads=True
            )
        )

    got = gradients(ours(decoder, read, TapeCache()))
    want = gradients(slowly(decoder, read, Held()))
    for name, one, other in zip(
        [*names, *map(str, range(len(read.leaves())))], got, want, strict=True
    ):
        # relative to the largest entry; a key's bias has no gradient but rounding
        scale = max(float(other.abs().max()), 1e-2)
        torch.testing.assert_close(
            one / scale, other / scale, **CLOSE, msg=lambda text, name=name: f"{name}: {text}"
        )
    first_window = got[len(weights) + 1]
    assert bool(first_window.any()) == bool(read.windows[0][1].summaries)


def test_the_tape_and_the_growing_cache_agree() -> None:
    decoder, read = decoder_of(), sequence([10, 10, 3], 4)
    with torch.no_grad():
        growing = ours(decoder, read, GrowingCache())
    for got, want in zip(ours(decoder, read, TapeCache()), growing, strict=True):
        torch.testing.assert_close(got.detach(), want, **CLOSE)


@torch.no_grad()
def test_rows_of_a_batch_do_not_mix() -> None:
    decoder, read = decoder_of(), sequence([10, 10, 3], 4)
    turned = Script(
        read.before_BSD.flip(0),
        [(x_BND.flip(0), plan) for x_BND, plan in read.windows],
        read.after_BSD.flip(0),
    )
    whole = ours(decoder, read, GrowingCache())
    for got, want in zip(ours(decoder, turned, GrowingCache()), whole, strict=True):
        torch.testing.assert_close(got, want.flip(0), **CLOSE)
        assert (got[0] - got[1]).abs().max() > 0.1


# -- parts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", OWN, ids=lambda own: "".join(own) or "none")
def test_own_parameters(own: Sequence[str]) -> None:
    names = {name for name, _ in decoder_of(own).named_parameters() if "beacon" in name}
    assert names == {"beacon_embed_tokens.weight"} | {
        f"layers.{layer}.self_attn.beacon_{name}_proj.{end}"
        for layer in range(CONFIG.layers)
        for name in own
        for end in ("weight", "bias")
    }


def test_begin_summaries_copies() -> None:
    decoder = decoder_of()
    before = {name: weight.clone() for name, weight in decoder.named_parameters()}
    begin_summaries(decoder, 7)
    for name, weight in decoder.named_parameters():
        assert torch.equal(weight, before[name]) == ("beacon_" not in name), name
    torch.testing.assert_close(
        decoder.beacon_embed_tokens.weight[0], decoder.embed_tokens.weight[7], rtol=0, atol=0
    )
    for layer in decoder.layers:
        for name in PARAMETERS:
            own, ordinary = (
                layer.self_attn.get_submodule(f"{kind}{name}_proj") for kind in ("beacon_", "")
            )
            assert isinstance(own, Linear) and isinstance(ordinary, Linear)
            torch.testing.assert_close(own.weight, ordinary.weight, rtol=0, atol=0)
            torch.testing.assert_close(own.bias, ordinary.bias, rtol=0, atol=0)
            # copies: training one leaves the other
            assert own.weight.data_ptr() != ordinary.weight.data_ptr()
    assert all(weight.requires_grad for weight in decoder.parameters())


@torch.no_grad()
def test_begun_summaries_read_like_the_token_they_began_with() -> None:
    decoder = decoder_of()
    begin_summaries(decoder, 7)
    read = sequence([6], 2)
    x_BND, plan = read.windows[0]
    rows = plan.is_summary()
    x_BSD = torch.empty(2, len(rows), CONFIG.hidden)
    x_BSD[:, ~rows], x_BSD[:, rows] = x_BND, decoder.embed_tokens.weight[7]
    whole = decoder(x_BSD, Step(positions_BS=torch.arange(len(rows)).expand(2, -1)))
    torch.testing.assert_close(decoder.window(x_BND, rows, GrowingCache(), 0), whole, **CLOSE)


@pytest.mark.parametrize("reserve", [0, 50])
def test_peek_keeps_nothing(reserve: int) -> None:
    cache = GrowingCache(reserve)
    first, window, kept = (torch.randn(2, 2, rows, 4) for rows in (3, 2000, 5))
    # before anything is held
    keys, values = cache.peek(window, -window, 0)
    torch.testing.assert_close(keys, window, rtol=0, atol=0)
    torch.testing.assert_close(values, -window, rtol=0, atol=0)
    assert cache.get_seq_length() == 0 and cache.nbytes == 0
    cache.update(first, -first, 0)
    # and behind what is, in the same room and beyond it
    for rows in (4, 2000):
        keys, values = cache.peek(window[:, :, :rows], -window[:, :, :rows], 0)
        both = torch.cat([first, window[:, :, :rows]], 2)
        torch.testing.assert_close(keys, both, rtol=0, atol=0)
        torch.testing.assert_close(values, -both, rtol=0, atol=0)
        assert cache.get_seq_length() == 3
        assert cache.nbytes == 2 * first.numel() * first.element_size()
        torch.testing.assert_close(cache.layers[0].keys, first, rtol=0, atol=0)
        torch.testing.assert_close(cache.layers[0].values, -first, rtol=0, atol=0)
    keys, values = cache.update(kept, -kept, 0)
    torch.testing.assert_close(keys, torch.cat([first, kept], 2), rtol=0, atol=0)
    torch.testing.assert_close(values, -torch.cat([first, kept], 2), rtol=0, atol=0)


def test_the_tape_keeps_nothing_of_a_peek() -> None:
    cache = TapeCache()
    first, window = (torch.randn(1, 2, rows, 4) for rows in (3, 6))
    assert cache.get_seq_length() == 0
    assert cache.peek(window, -window, 0)[0] is window
    assert cache.get_seq_length() == 0
    cache.update(first, -first, 0)
    keys, values = cache.peek(window, -window, 0)
    torch.testing.assert_close(keys, torch.cat([first, window], 2), rtol=0, atol=0)
    torch.testing.assert_close(values, -torch.cat([first, window], 2), rtol=0, atol=0)
    assert cache.get_seq_length() == 3
    assert cache.get_seq_length(1) == 0
    keys, _ = cache.update(window, window, 0)
    assert keys.shape[2] == cache.get_seq_length() == 9
