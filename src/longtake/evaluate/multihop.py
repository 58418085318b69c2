"""Chains of cards: each names the next, the last is asked about; other chains lead elsewhere.

A card shows a number, a word and a colour, and at its foot which card comes next. A question names
the first card of one chain. The cards of all chains are shuffled, so that neither the order nor the
last card tells where the chain ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from longtake.errors import OptionError
from longtake.evaluate.needle_data import Ask, Drawn, Needle, tensor_of
from longtake.train.words import TEST_WORDS
from longtake.video.cards import draw_card, random_card, random_look

FOOT, FOOT_HEIGHT = 0.895, 0.075
"""Middle and height of the line below a card's plate, in shares of the frame."""
DARK, BRIGHT, LIGHT_GROUND = (18, 18, 22), (250, 250, 250), 130
"""The line's inks, and the grey of 255 above which the ground takes the dark one."""
DRAWN_SIZE = 64
"""Of the face that Pillow carries, before a line takes its place's size."""

CAPTION = (
    "Start at the card with the word {word}. The foot of each card names the next card. Follow "
    "them to the end. What word is on the last card?"
)
ANSWER = (
    "Start at the card with the word {word}. The foot of each card names the next card. Follow "
    "them to the end. What number is on the last card?"
)


@dataclass(frozen=True, kw_only=True)
class Link(Drawn):
    """A card that names another at its foot, or is a chain's last."""

    following: str | None

    def draw(self, width: int, height: int) -> Tensor:
        """In the haystack's size."""
        picture = draw_card(self.card, width, height, self.look)
        said = "THE END" if self.following is None else f"NEXT: {self.following}"
        font = ImageFont.load_default(DRAWN_SIZE)
        left, top, right, bottom = font.getbbox(said)
        line = Image.new("L", (round(right - left), round(bottom - top)))
        ImageDraw.Draw(line).text((-left, -top), said, fill=255, font=font)
        # a frame too narrow for the line squeezes it, as it does a card's letters
        tall = max(4, round(FOOT_HEIGHT * height))
        wide = min(round(line.width * tall / line.height), round(0.84 * width))
        x, y = (0.07 + self.look.shift[0]) * width, (FOOT + self.look.shift[1]) * height
        mask = line.resize((wide, tall), Image.Resampling.BILINEAR)
        ground = np.asarray(picture.convert("L"))[-1, 0]
        ink = DARK if ground > LIGHT_GROUND else BRIGHT
        picture.paste(ink, (round(x), round(y - tall / 2)), mask)
        return tensor_of(picture)

    def identity(self) -> str:
        """All that it is drawn from."""
        return f"{super().identity()} {self.following}"


@dataclass(frozen=True, kw_only=True)
class Chains:
    """How chains are made."""

    count: int = 20
    """Questions' chains, each with others of its own beside it."""
    cards: int = 3
    """Cards of a chain: two hops lead from the first to the last of three."""
    others: int = 1
    """Chains beside it that lead elsewhere."""

    def __post_init__(self) -> None:
        if self.count < 1 or self.cards < 2 or self.others < 0:
            raise OptionError(
                f"chains must be 1 or more of 2 cards or more, got {self.count} of {self.cards} "
                f"beside {self.others}"
            )
        if self.cards * (1 + self.others) > min(60, len(TEST_WORDS)):
            raise OptionError(
                f"{1 + self.others} chains of {self.cards} cards are more than the 60 cards that a "
                "video may hold; use fewer or shorter ones"
            )


def drawn_chains(how: Chains, seed: int) -> list[Needle]:
    """Chains with their distractors, the same for the same seed; each asks for word and number."""
    return [drawn_chain(how, np.random.default_rng([seed, 2, n]), n) for n in range(how.count)]


def drawn_chain(how: Chains, rng: np.random.Generator, number: int) -> Needle:
    """One chain among others; no two cards of a video share a word, and no two ends a number."""
    total = how.cards * (1 + how.others)
    words = [TEST_WORDS[n] for n in rng.choice(len(TEST_WORDS), total, replace=False)]
    numbers = rng.permutation(np.arange(10, 100))[:total].tolist()
    links: list[Link] = []
    for place, (word, value) in enumerate(zip(words, numbers, strict=True)):
        card = replace(random_card(rng, [word]), number=value)
        look = random_look(rng, (None,))
        last = (place + 1) % how.cards == 0
        links.append(Link(card=card, look=look, following=None if last else words[place + 1]))
    end = links[how.cards - 1].card
    asks = (
        Ask(name="caption", question=CAPTION.format(word=words[0]), answer=end.word),
        Ask(name="answer", question=ANSWER.format(word=words[0]), answer=str(end.number)),
    )
    shuffled = tuple(links[n] for n in rng.permutation(total))
    return Needle(name=f"chain-{number}", pictures=shuffled, asks=asks)
