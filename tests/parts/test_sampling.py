"""Sampling rules against transformers' own processors; text streaming against plain decoding."""

from collections.abc import Sequence

import pytest
import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from longtake.errors import OptionError
from longtake.parts.sampling import choose, keep_top_k, keep_top_p, penalise
from longtake.parts.text import TextStream, cut_at_stop
from longtake.types import Options


@pytest.mark.parametrize("seed", range(5))
def test_penalty_and_filters_equal_transformers(seed: int) -> None:
    torch.manual_seed(seed)
    logits, written = torch.randn(40) * 3, torch.randint(0, 40, (9,)).tolist()
    ids = torch.tensor([written])
    ours, theirs = penalise(logits, written, 1.3), RepetitionPenaltyLogitsProcessor(1.3)
    torch.testing.assert_close(ours, theirs(ids, logits[None].clone())[0], rtol=0, atol=0)
    for k in (1, 7, 40, 99):
        expected = TopKLogitsWarper(k)(ids, logits[None].clone())[0]
        torch.testing.assert_close(keep_top_k(logits, k), expected, rtol=0, atol=0)
    for p in (1e-6, 0.3, 0.8, 0.999):
        expected = TopPLogitsWarper(p)(ids, logits[None].clone())[0]
        torch.testing.assert_close(keep_top_p(logits, p), expected, rtol=0, atol=0)


def test_off_values_change_nothing() -> None:
    logits = torch.randn(9)
    assert keep_top_k(logits, 0) is logits
    assert keep_top_p(logits, 1.0) is logits
    assert penalise(logits, [3], 1.0) is logits
    assert penalise(logits, [], 2.0) is logits


def test_seed_decides_and_greedy_ignores_it() -> None:
    logits = torch.randn(50)

    def draws(seed: int, **options: float) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return [choose(logits, [], Options(**options), generator) for _ in range(20)]

    assert draws(1, temperature=1.0) == draws(1, temperature=1.0)
    assert draws(1, temperature=1.0) != draws(2, temperature=1.0)
    assert draws(1) == draws(2) == [int(logits.argmax())] * 20
    assert set(draws(3, temperature=5.0, top_k=3)) <= set(logits.topk(3).indices.tolist())


def test_sampling_follows_the_distribution() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0])
    generator = torch.Generator().manual_seed(0)
    options = Options(temperature=1.0)
    counts = torch.zeros(3)
    for _ in range(4000):
        counts[choose(logits, [], options, generator)] += 1
    # 4000 draws: three standard errors are below 0.025
    torch.testing.assert_close(counts / 4000, logits.softmax(0), rtol=0, atol=0.025)


def test_bad_logits_are_told() -> None:
    with pytest.raises(OptionError, match="not finite"):
        choose(torch.tensor([1.0, torch.nan]), [], Options(), torch.Generator())


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"repetition_penalty": 0.0},
        {"stop": ("",)},
        {"stop": "abc"},
        {"temperature": 1e-40},
        {"seed": 2**70},
        {"top_k": 2.5},
        {"max_new_tokens": float("nan")},
    ],
)
def test_wrong_options(wrong: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        Options(**wrong)


def utf8(ids: Sequence[int]) -> str:
    return bytes(ids).decode("utf-8", errors="replace")


@pytest.mark.parametrize("text", ["plain words", "naïve café – 日本語 🎬 end", ""])
def test_stream_of_bytes_is_the_text(text: str) -> None:
    stream = TextStream(utf8)
    shown = [stream.push(byte) for byte in text.encode()]
    assert "".join(shown) + stream.finish() == text
    assert not any("�" in piece for piece in shown)


def test_stream_shows_broken_bytes_at_the_end() -> None:
    stream = TextStream(utf8)
    assert stream.push(ord("a")) == "a"
    assert stream.push(0xF0) == ""
    assert stream.finish() == "�"


def test_stop_text_is_held_back_and_cut() -> None:
    stream = TextStream(utf8, ["STOP", "##"])
    shown = ""
    for byte in b"go ST on # STOP never":
        shown += stream.push(byte)
        assert "STOP" not in shown
        if stream.stopped:
            break
    assert shown + stream.finish() == "go ST on # "
    assert stream.stopped


def test_cut_takes_the_first_stop() -> None:
    assert cut_at_stop("one two three", ["three", "two"]) == ("one ", True)
    assert cut_at_stop("one", ["two"]) == ("one", False)
