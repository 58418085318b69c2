"""The bundled model's vocabulary: byte-level BPE learned from lower-case template text alone.

Because no capital and no digit occurs in that text, none is ever merged: each is one token, on a
card as in an answer. Each colour's name is one token too. These tokens, `<|card|>` and `<|blank|>`
are the symbols that a frame's visual tokens are taught to speak (docs/default-model.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from longtake.errors import CheckpointError
from longtake.train.questions import HELD_OUT_QUESTIONS, NO_CARD, QUESTIONS
from longtake.train.words import LETTERS
from longtake.video.cards import HUES, Card

VOCABULARY = 448
DIGITS = "0123456789"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|card|>", "<|blank|>")
RESERVED = tuple(f"<|reserved_{index}|>" for index in range(11))
# numbers digit by digit, words with their leading space, the rest piece by piece
PIECES = Regex(r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s")
FRAME_TOKENS = 16
"""Visual tokens of a frame: a 4 x 4 grid."""
LONGEST_WORD = 6


def build_tokenizer() -> Tokenizer:
    """Learn the vocabulary; the same every time."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(PIECES, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*SPECIAL, *RESERVED],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def _corpus() -> list[str]:
    asked = [
        text
        for table in (QUESTIONS, HELD_OUT_QUESTIONS)
        for texts in table.values()
        for text in texts
    ]
    lines = [*asked, "system\nyou are a helpful assistant.\nuser\nassistant\n", NO_CARD]
    # often enough that a colour's name is merged before anything rarer
    return [line.lower() for line in lines] * 3 + list(HUES) * 40


@dataclass(frozen=True, kw_only=True)
class Symbols:
    """Token ids of what a frame can say."""

    card: int
    blank: int
    letters: tuple[int, ...]
    digits: tuple[int, ...]
    colours: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Symbols:
        """Look them up. Raises CheckpointError if one is not a single token."""
        return cls(
            card=single(tokenizer, "<|card|>"),
            blank=single(tokenizer, "<|blank|>"),
            letters=tuple(single(tokenizer, letter) for letter in LETTERS),
            digits=tuple(single(tokenizer, digit) for digit in DIGITS),
            colours=tuple(single(tokenizer, colour) for colour in HUES),
        )

    @property
    def content(self) -> tuple[int, ...]:
        """Letters, digits and colours."""
        return self.letters + self.digits + self.colours

    def frame(self, card: Card | None) -> list[int]:
        """The 16 symbols of a frame: card, two digits, colour, up to six letters, blanks."""
        if card is None:
            return [self.blank] * FRAME_TOKENS
        said = [
            self.card,
            *(self.digits[int(digit)] for digit in str(card.number)),
            self.colours[list(HUES).index(card.colour)],
            *(self.letters[LETTERS.index(letter)] for letter in card.word),
        ]
        return said + [self.blank] * (FRAME_TOKENS - len(said))


def single(tokenizer: Tokenizer, text: str) -> int:
    """The id of a text that must be one token. Raises CheckpointError otherwise."""
    ids: Sequence[int] = tokenizer.encode(text, add_special_tokens=False).ids
    if len(ids) != 1:
        raise CheckpointError(f"{text!r} is {len(ids)} tokens of this vocabulary, expected one")
    return ids[0]
