"""The bundled model finds and reads a card among 64 generated frames, and shows where it was."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import longtake
from longtake.system import System
from longtake.train.haystack import haystack_frame
from longtake.train.pictures import card_picture, squash
from longtake.train.questions import FIELDS, HELD_OUT_QUESTIONS, answer
from longtake.train.words import TEST_WORDS
from longtake.types import Frames
from longtake.video.cards import Card, random_card

FRAMES = 64


@dataclass(frozen=True, kw_only=True)
class Asked:
    right: bool
    moment: bool


@pytest.fixture(scope="module")
def system() -> System:
    return longtake.load("default", device="cpu")


def haystack(rng: np.random.Generator, card: Card | None, at: int) -> Frames:
    pictures = [squash(haystack_frame(rng)) for _ in range(FRAMES)]
    if card is not None:
        pictures[at] = card_picture(card, rng, [None], 1.0)
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return Frames(
        pixels_TCHW=pixels.permute(0, 3, 1, 2),
        seconds_T=torch.arange(FRAMES).double(),
        index_T=torch.arange(FRAMES),
    )


def trials(system: System) -> Iterator[Asked]:
    rng = np.random.default_rng(11)
    for _ in range(10):
        card, at = random_card(rng, TEST_WORDS), int(rng.integers(FRAMES))
        memory = system.watch(haystack(rng, card, at), max_frames=FRAMES)
        for field in FIELDS:
            said = system.ask(memory, HELD_OUT_QUESTIONS[field][1])
            top = said.evidence[0]
            yield Asked(
                right=said.text == answer(field, card), moment=top.start - 1 <= at <= top.end + 1
            )


def test_needles_are_found_and_read(system: System) -> None:
    asked = list(trials(system))
    assert len(asked) == 30
    assert sum(one.right for one in asked) >= 27
    assert sum(one.moment for one in asked) >= 27


def test_without_a_card_it_says_so(system: System) -> None:
    memory = system.watch(haystack(np.random.default_rng(12), None, 0), max_frames=FRAMES)
    assert system.ask(memory, "What word is on the card?").text == "no card"
