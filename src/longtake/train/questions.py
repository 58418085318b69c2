"""What is asked about a card, in many words; some wordings are kept for testing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from longtake.video.cards import Card

Field = Literal["number", "word", "colour"]
FIELDS: tuple[Field, ...] = ("number", "word", "colour")
NO_CARD = "no card"

QUESTIONS: Mapping[Field, Sequence[str]] = {
    "number": (
        "What number is on the card?",
        "Which number is on the card?",
        "What is the number on the card?",
        "What number does the card show?",
        "What is the number?",
        "A card appears in the video. What number does it show?",
        "Tell me the number on the card.",
        "Read the number on the card.",
        "Find the card and give its number.",
        "number?",
        "What two digits are on the card?",
        "There is a card in this video. Which number is written on it?",
    ),
    "word": (
        "What word is on the card?",
        "Which word is on the card?",
        "What is the word on the card?",
        "What word does the card show?",
        "What is the word?",
        "A card appears in the video. What word does it show?",
        "Tell me the word on the card.",
        "Read the word on the card.",
        "Find the card and give its word.",
        "word?",
        "What is written on the card in letters?",
        "There is a card in this video. Which word is written on it?",
    ),
    "colour": (
        "What colour is the card?",
        "Which colour is the card?",
        "What is the colour of the card?",
        "What colour does the card have?",
        "What is the colour?",
        "A card appears in the video. What colour is it?",
        "Tell me the colour of the card.",
        "What color is the card?",
        "Find the card and give its colour.",
        "colour?",
        "color?",
        "There is a card in this video. Which color does it have?",
    ),
}

HELD_OUT_QUESTIONS: Mapping[Field, Sequence[str]] = {
    "number": (
        "Which number can you see on the card?",
        "Please give the number that the card shows.",
    ),
    "word": ("Which word can you see on the card?", "Please give the word that the card shows."),
    "colour": (
        "Which colour can you see on the card?",
        "Please give the colour that the card has.",
    ),
}


def answer(field: Field, card: Card | None) -> str:
    """What the model is to write."""
    if card is None:
        return NO_CARD
    return {"number": str(card.number), "word": card.word, "colour": card.colour}[field]
