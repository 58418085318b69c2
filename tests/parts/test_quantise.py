"""A cache of packed keys and values is a cache like any other, and a memory of it answers."""

import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import cast

import pytest
import torch
from tests.remembering import remembering
from tests.tiny import noise
from torch import Tensor

from longtake.api import load
from longtake.errors import OptionError, PromptError
from longtake.parts.attention import attend, last_row_weights
from longtake.parts.cache import SLACK, GrowingCache, kv_bytes_per_token
from longtake.parts.packed import GROUP, Group, Packed
from longtake.parts.quantise import (
    Kind,
    QuantisedLayer,
    packed_as,
    quantised,
    quantised_bytes_per_token,
)
from longtake.parts.qwen2 import Step
from longtake.system import System
from longtake.types import Memory

CHECKPOINT = Path(__file__).parents[1] / "parity" / "golden" / "video_xl" / "checkpoint"
KINDS: tuple[Kind, ...] = ("int8", "fp8", "int4")


def filled(tokens: int, *, layers: int = 2, heads: int = 2, width: int = 16) -> GrowingCache:
    generator = torch.Generator().manual_seed(tokens)
    growing = GrowingCache()
    for layer in range(layers):
        keys, values = torch.randn(2, 1, heads, tokens, width, generator=generator)
        growing.update(keys, values, layer)
    return growing


def everything(growing: GrowingCache, layer: int) -> tuple[Tensor, Tensor]:
    """Copies of all that a layer holds."""
    held = growing.layers[layer]
    assert held.keys is not None
    none = held.keys[:, :, :0]
    keys, values = growing.peek(none, none, layer)
    return keys.clone(), values.clone()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("tokens", "residual"), [(1, 0), (64, 0), (150, 0), (150, 40), (150, 150), (30, 128)]
)
def test_a_layer_is_its_parts(kind: Kind, tokens: int, residual: int) -> None:
    """Updated, peeked at and rewound like the plain cache, with the packed part in place of it."""
    exact, small = filled(tokens), quantised(filled(tokens), kind, residual)
    keys, values = everything(exact, 1)
    first = max(0, tokens - residual)
    was = [
        torch.cat([packed_as(kind, x[:, :, :first], group).unpack(x.dtype), x[:, :, first:]], 2)
        for x, group in zip((keys, values), (Group.of_keys(), Group.of_values(16)), strict=True)
    ]
    assert small.get_seq_length(1) == tokens
    for asked in range(2):  # the same again after a rewind
        more = [torch.randn(2, 1, 2, n, 16) for n in (5, 3)]
        peeked = small.peek(more[0][0], more[0][1], 1)
        for x, w, m in zip(peeked, was, more[0], strict=True):
            assert x.equal(torch.cat([w, m], 2))
        assert small.get_seq_length(1) == tokens, asked
        for step, new in enumerate(more):
            got, plain = small.update(*new, 1), exact.update(*new, 1)
            assert [x.shape for x in got] == [x.shape for x in plain]
            for x, y, w in zip(got, plain, was, strict=True):
                assert x[:, :, tokens:].equal(y[:, :, tokens:])
                assert x[:, :, :tokens].equal(w)
            assert small.get_seq_length(1) == exact.get_seq_length(1) == tokens + (5, 8)[step]
        for growing in (small, exact):
            growing.rewind(tokens + 2)
            growing.rewind(tokens)
        assert everything(small, 1)[0].equal(was[0])
    if residual and first < tokens:
        small.rewind(first)  # all of the tail may go
        assert small.get_seq_length(1) == first


def test_what_is_packed_stays() -> None:
    small = quantised(filled(100), "int4", residual=30)
    small.rewind(70)
    with pytest.raises(PromptError, match="70 tokens are packed, 69 were to stay"):
        small.rewind(69)
    with pytest.raises(PromptError, match="cannot lose part of itself"):
        small.crop(-1)
    small.update(torch.ones(1, 2, 4, 16), torch.ones(1, 2, 4, 16), 0)
    small.layers[0].crop(-3)
    assert small.get_seq_length() == 71
    small.reset()
    assert (small.get_seq_length(), small.nbytes) == (0, 0)
    assert small.update(torch.ones(1, 2, 4, 16), torch.ones(1, 2, 4, 16), 0)[0].shape[2] == 4


def test_rows_of_a_batch() -> None:
    """Beams: rows of the packed tokens move with those behind them."""
    rows = torch.arange(2 * 70, dtype=torch.float32).view(2, 1, 70, 1).expand(-1, -1, -1, 4)
    growing = GrowingCache()
    growing.update(rows, -rows, 0)
    small = quantised(growing, "int8", residual=3)
    before = everything(small, 0)[0]
    small.reorder_cache(cast(torch.LongTensor, torch.tensor([1, 1])))
    assert everything(small, 0)[0].equal(before[[1, 1]])
    small.batch_repeat_interleave(2)
    keys, _ = small.update(torch.zeros(4, 1, 1, 4), torch.zeros(4, 1, 1, 4), 0)
    assert keys[:, :, :70].equal(before[[1, 1, 1, 1]])


def tensors_of(thing: object) -> Iterator[Tensor]:
    for part in vars(thing).values():
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, Packed):
            yield from tensors_of(part)


def test_no_layer_keeps_what_it_unpacked() -> None:
    """Nor does a reservation for the whole memory make room for what is packed."""
    small = quantised(filled(5000), "int8")
    small.reserve(5010)
    new = torch.zeros(1, 2, SLACK + 1, 16)
    for index in range(2):
        small.update(new, new, index)  # more than the slack: the buffers move
    for layer in small.layers:
        assert isinstance(layer, QuantisedLayer)
        held = {
            x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors_of(layer)
        }
        codes = sum(p.nbytes for p in (layer.packed_keys, layer.packed_values) if p is not None)
        room = 2 * 2 * 16 * 4 * (2 * SLACK + 1)
        assert sum(held.values()) <= codes + room
    small.rewind(5000)
    small.trim()
    assert {
        layer.key_buffer.shape[2] for layer in small.layers if layer.key_buffer is not None
    } == {SLACK}
    assert small.get_seq_length() == 5000


def test_the_old_cache_goes_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    old = filled(300, layers=4)
    left: list[int] = []
    pack = QuantisedLayer.of

    def noted(*args: object) -> object:
        left.append(sum(layer.get_seq_length() > 0 for layer in old.layers))
        return pack(*args)

    monkeypatch.setattr(QuantisedLayer, "of", noted)
    buffers = [weakref.ref(cast(Tensor, layer.key_buffer)) for layer in old.layers]
    small = quantised(old, "int8")
    assert left == [4, 3, 2, 1]
    assert (old.nbytes, old.get_seq_length(), small.get_seq_length()) == (0, 0, 300)
    assert [buffer() for buffer in buffers] == [None] * 4
    with pytest.raises(OptionError, match="quantised already"):
        quantised(small, "int8")


def test_refusals() -> None:
    growing = filled(5)
    with pytest.raises(OptionError, match="choose int8, fp8, int4"):
        quantised(growing, "int2")
    with pytest.raises(OptionError, match="residual must be a whole number from 0, got -1"):
        quantised(growing, "int8", -1)
    with growing.busy, pytest.raises(PromptError, match="answering a question"):
        quantised(growing, "int8")
    assert growing.get_seq_length() == 5  # nothing was taken
    assert quantised(GrowingCache(), "int8").get_seq_length() == 0
    assert len(quantised(growing, "int8")) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [7, 16, 48, 96, 128])
@pytest.mark.parametrize("tokens", [64, 640, 1000])
def test_bytes_are_as_planned(kind: Kind, width: int, tokens: int) -> None:
    planned = tokens * quantised_bytes_per_token(2, 3, width, kind)
    found = quantised(filled(tokens, heads=3, width=width), kind, 0).nbytes
    begun = -tokens % GROUP * 2 * 3 * width * 4 / GROUP  # of the last group of keys, unused
    assert found == pytest.approx(planned + begun, abs=1e-6)
    part = quantised(filled(tokens, heads=3, width=width), kind, 64).nbytes
    plain = kv_bytes_per_token(2, 3, width, torch.float32)
    codes = (tokens - 64) * planned / tokens
    assert part == pytest.approx(64 * plain + codes + begun, abs=1e-6)


def test_planned_shares() -> None:
    """Of a Qwen2-7B (28 layers, 4 heads of 128) in bf16: 8.5 and 4.5 bits a number."""
    plain = kv_bytes_per_token(28, 4, 128, torch.bfloat16)
    shares = [plain / quantised_bytes_per_token(28, 4, 128, kind) for kind in KINDS]
    assert shares == pytest.approx([16 / 8.5, 16 / 8.5, 16 / 4.5])


@pytest.mark.parametrize(
    ("kind", "measured"), [("int8", 1.8e-3), ("fp8", 7.8e-3), ("int4", 2.3e-2)]
)
def test_attention_is_off_by_what_keys_and_values_are(kind: Kind, measured: float) -> None:
    """A score is off by d at most, a weight then by a factor within exp(+-2 d).

    `measured`: the largest error of any number, of outputs that deviate by 0.06; the last bound is
    twice that, because the first two are for the worst case: 20 times as much.
    """
    tokens = 500
    exact, small = filled(tokens, width=64), quantised(filled(tokens, width=64), kind, 0)
    (keys, values), (near_keys, near_values) = everything(exact, 0), everything(small, 0)
    q = torch.randn(1, 4, 1, 64, generator=torch.Generator().manual_seed(9))
    off = (attend(q, near_keys, near_values) - attend(q, keys, values)).abs().max()
    d = float(q.abs().sum(-1).max()) * 64**-0.5 * float((near_keys - keys).abs().max())
    weight = float(
        last_row_weights(q, near_keys).sub(last_row_weights(q, keys)).abs().sum(-1).max()
    )
    assert weight <= torch.tensor(2 * d).expm1()
    assert off <= weight * float(values.abs().max()) + float((near_values - values).abs().max())
    assert off <= 2 * measured


# -- a memory -------------------------------------------------------------------------------------


@cache
def system() -> System:
    return remembering(load(CHECKPOINT, device="cpu"))


def watched() -> Memory:
    return system().watch(noise(23), max_frames=23)


def smaller(kind: Kind, residual: int) -> Memory:
    memory = watched()
    return replace(memory, cache=quantised(cast(GrowingCache, memory.cache), kind, residual))


QUESTIONS = ("What happens?", "What word is on the card?", "Is it day or night?")


def logits(memory: Memory, question: str, ids: tuple[int, ...]) -> Tensor:
    """Of every written token, each behind the tokens given: [S, V]."""
    model, growing = system().model, cast(GrowingCache, memory.cache)
    tail = (*system().tokens("\n" + system().template.tail(question)), *ids[:-1])
    positions = torch.arange(memory.length, memory.length + len(tail))[None]
    with torch.no_grad():
        x_BSD = model.embed(torch.tensor(tail))[None]
        features_SD = model.decoder(x_BSD, Step(positions_BS=positions, cache=growing))[0]
        growing.rewind(memory.length)
        return model.logits(features_SD[-len(ids) :])


@pytest.mark.parametrize(
    ("kind", "residual", "smaller_by", "off_by"),
    [
        ("int8", 0, 3.459, 0.071),
        ("fp8", 0, 3.459, 0.65),
        ("int4", 0, 6.095, 1.15),
        ("int4", 128, 3.722, 1.15),
    ],
)
def test_a_packed_memory_answers(
    kind: Kind, residual: int, smaller_by: float, off_by: float
) -> None:
    """Heads are 16 wide here, so scales of values take 2 bits a number; 0.5 in published models.

    `off_by` was measured: the largest difference of any logit, which deviate by 3.0. It grows with
    the step (int4's is 17 times int8's, fp8's up to 9 times); twice that leaves room for another
    machine's rounding.
    """
    full, small = watched(), smaller(kind, residual)
    assert full.bytes / small.bytes == pytest.approx(smaller_by, abs=1e-3)
    options = system().options(max_new_tokens=20)
    for question in QUESTIONS:
        wanted = system().ask(full, question, options)
        first, again = (system().ask(small, question, options) for _ in range(2))
        assert (first.ids, first.evidence) == (again.ids, again.evidence)
        assert small.cache.get_seq_length() == small.length
        assert full.bytes / small.bytes == pytest.approx(smaller_by, abs=1e-3)
        off = logits(small, question, wanted.ids) - logits(full, question, wanted.ids)
        assert 0 < off.abs().max() < 2 * off_by
        if kind == "int8":
            assert first.ids == wanted.ids


def test_the_old_memory_says_that_it_is_gone() -> None:
    memory = watched()
    quantised(cast(GrowingCache, memory.cache), "int8")
    with pytest.raises(PromptError, match="has lost its keys and values; watch the video again"):
        system().ask(memory, "What?")


def test_generate_continues_a_packed_memory() -> None:
    memory = smaller("int8", 0)
    options = system().options(max_new_tokens=8, repetition_penalty=1.0)
    ours = system().ask(memory, QUESTIONS[0], options)
    tail = system().tokens("\n" + system().template.tail(QUESTIONS[0]))
    theirs = system().model.generate(
        input_ids=torch.tensor([tail]),
        attention_mask=torch.ones(1, memory.length + len(tail)),
        past_key_values=memory.cache,
        max_new_tokens=8,
        do_sample=False,
        repetition_penalty=1.0,
        eos_token_id=list(system().end_ids),
        pad_token_id=0,
    )
    assert theirs[0, len(tail) :].tolist() == list(ours.ids)
    assert system().ask(memory, QUESTIONS[0], options).ids == ours.ids
