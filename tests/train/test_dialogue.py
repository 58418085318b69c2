"""Sequences: only answers are learned, positions are ordered and keep frames together."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from longtake.parts.chat import QWEN_1_5
from longtake.train.dialogue import HEAD, IGNORED, ask, draw_positions, draw_tails, tail
from longtake.train.questions import FIELDS, HELD_OUT_QUESTIONS, NO_CARD, QUESTIONS, answer
from longtake.train.tokenizer import FRAME_TOKENS, build_tokenizer
from longtake.video.cards import Card

CARD = Card(number=42, word="LETTER", colour="blue")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer()


def test_the_sequence_is_the_chat_template_that_inference_uses(tokenizer: Tokenizer) -> None:
    question, asked_again = "What word is on the card?", "number?"
    ids, _ = tail(tokenizer, [(question, "LETTER"), (asked_again, "42")])
    history = [(question, "LETTER")]
    wanted = "\n" + QWEN_1_5.tail(asked_again, history) + "42<|im_end|>"
    assert tokenizer.decode(ids, skip_special_tokens=False) == wanted
    assert ids == tokenizer.encode(wanted, add_special_tokens=False).ids
    assert QWEN_1_5.head() == HEAD
    assert "\n" + QWEN_1_5.tail(question) == ask(question)


def test_labels_are_the_next_token_of_answers_and_nothing_else(tokenizer: Tokenizer) -> None:
    ids, labels = tail(tokenizer, [("colour?", "blue"), ("word?", "LETTER")])
    learned = [label for label in labels if label != IGNORED]
    said = tokenizer.decode(learned, skip_special_tokens=False)
    assert said == "blue<|im_end|>LETTER<|im_end|>"
    assert len(ids) == len(labels)
    for place, label in enumerate(labels):
        if label != IGNORED:
            assert ids[place + 1] == label


def test_drawn_tails_mark_each_answer_s_first_token(tokenizer: Tokenizer) -> None:
    tails = draw_tails(tokenizer, [CARD, None, CARD], np.random.default_rng(0))
    capital, digit, colour, absent = (
        tokenizer.encode(text).ids[0] for text in ("L", "4", "blue", NO_CARD)
    )
    firsts = [row[mask].tolist() for row, mask in zip(tails.labels_BL, tails.first_BL, strict=True)]
    assert set(firsts[0] + firsts[2]) <= {capital, digit, colour}
    assert set(firsts[1]) == {absent}
    ends = (tails.labels_BL == tokenizer.token_to_id("<|im_end|>")).sum(1)
    assert ends.tolist() == [len(first) for first in firsts]


def test_positions_are_ordered_and_frames_stay_together() -> None:
    head, frames, rows = 14, 5, 6
    positions = draw_positions(head, frames, 20, rows, np.random.default_rng(1))
    assert bool((positions.diff(dim=1) > 0).all())
    assert torch.equal(positions[0], torch.arange(positions.shape[1]))
    inside = positions[:, head : head + frames * FRAME_TOKENS].unflatten(1, (frames, -1))
    assert bool((inside.diff(dim=2) == 1).all())
    assert int(positions[1::2].max()) > positions.shape[1]


def test_held_out_wordings_are_not_trained_on() -> None:
    for field in FIELDS:
        assert not set(QUESTIONS[field]) & set(HELD_OUT_QUESTIONS[field])
    assert [answer(field, CARD) for field in FIELDS] == ["42", "LETTER", "blue"]
    assert answer("word", None) == NO_CARD
