"""The vocabulary: capitals, digits and colours are single tokens wherever they stand."""

import pytest
from tokenizers import Tokenizer

from longtake.api import DEFAULT
from longtake.errors import CheckpointError
from longtake.train.tokenizer import FRAME_TOKENS, Symbols, build_tokenizer, single
from longtake.train.words import LETTERS
from longtake.video.cards import HUES, Card


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer()


@pytest.mark.parametrize("text", ["ZIGZAG", "HELLO", "THE", "WHAT", "CARD", "WORD", "RED", "OF"])
def test_a_word_in_capitals_is_one_token_per_letter(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode(text).tokens == list(text)


def test_numbers_are_one_token_per_digit(tokenizer: Tokenizer) -> None:
    for number in range(10, 100):
        assert tokenizer.encode(str(number)).tokens == list(str(number))


@pytest.mark.parametrize("colour", HUES)
def test_a_colour_is_one_token(tokenizer: Tokenizer, colour: str) -> None:
    assert tokenizer.encode(colour).tokens == [colour]


def test_symbols_are_all_different(tokenizer: Tokenizer) -> None:
    symbols = Symbols.of(tokenizer)
    ids = [symbols.card, symbols.blank, *symbols.content]
    assert len(set(ids)) == len(ids) == 2 + 26 + 10 + 8


def test_a_frame_says_its_card(tokenizer: Tokenizer) -> None:
    symbols = Symbols.of(tokenizer)
    ids = symbols.frame(Card(number=70, word="QUIZ", colour="pink"))
    tokens = [tokenizer.id_to_token(i) for i in ids]
    assert tokens == ["<|card|>", "7", "0", "pink", *"QUIZ", *["<|blank|>"] * 8]
    assert symbols.frame(None) == [symbols.blank] * FRAME_TOKENS


def test_any_text_survives(tokenizer: Tokenizer) -> None:
    text = "Größe: 3.14 — \n\ttabs, ÜBER 漢字 🎬 " + LETTERS
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_text_of_several_tokens_is_no_symbol(tokenizer: Tokenizer) -> None:
    with pytest.raises(CheckpointError, match="expected one"):
        single(tokenizer, "AB")


def test_the_shipped_vocabulary_is_the_one_that_is_learned(tokenizer: Tokenizer) -> None:
    shipped = Tokenizer.from_file(str(DEFAULT / "tokenizer.json"))
    assert shipped.to_str() == tokenizer.to_str()
