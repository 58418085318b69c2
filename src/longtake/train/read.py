"""Stage 2, reading: tower and projector learn to write each frame as the symbols of stage 1.

T frames, N tokens of a frame, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn

from longtake.model import LongtakeModel
from longtake.parts.pooling import grid_pool
from longtake.train.config import Moment, Outcome
from longtake.train.fonts import find_faces
from longtake.train.initial import POOL_STRIDE, table_of
from longtake.train.pictures import background_picture, card_picture, to_pixels, training_faces
from longtake.train.tokenizer import Symbols
from longtake.train.words import TEST_WORDS, random_word
from longtake.video.cards import Card, random_card

SHARPNESS = 16.0
"""Logit of a token that equals a symbol's embedding; one of any other is about 0."""
BLANK_WEIGHT = 0.3
"""A blank token's share of the loss; most tokens are blank and soon learned."""


@dataclass(frozen=True, kw_only=True)
class ReadStage:
    """Tower and projector, on pictures."""

    batch: int = 32
    """Pictures of a step."""
    cards: float = 0.8
    """Share of them that are cards."""
    plain: float = 0.05
    """Share of the run with plain cards alone."""
    hard: float = 0.4
    """Share of the run after which cards have their full variety."""
    easy: float = 0.25
    """Share of cards that stay easy throughout."""
    pull: float = 0.3
    """Weight of the squared distance to the symbol's embedding."""
    check_pictures: int = 300

    def parts(self, model: LongtakeModel) -> Mapping[str, nn.Module]:
        """Tower and projector."""
        return {"tower": model.tower, "projector": model.projector}

    def learn(self, model: LongtakeModel, tokenizer: Tokenizer, moment: Moment) -> Outcome:
        """Read a batch of cards and haystack frames."""
        rng = moment.rng
        difficulty = min(1.0, max(0.0, (moment.progress - self.plain) / (self.hard - self.plain)))
        cards = [self._card(rng) for _ in range(self.batch)]
        pictures = [
            background_picture(rng) if card is None else self._picture(card, rng, difficulty)
            for card in cards
        ]
        tokens_TND = see(model, to_pixels(pictures))
        outcome = reading_loss(model, Symbols.of(tokenizer), cards, tokens_TND, self.pull)
        return Outcome(loss=outcome.loss, figures={**outcome.figures, "difficulty": difficulty})

    def _card(self, rng: np.random.Generator) -> Card | None:
        if rng.uniform() >= self.cards:
            return None
        return random_card(rng, [random_word(rng, shortest=3 if rng.uniform() < 0.6 else 5)])

    def _picture(self, card: Card, rng: np.random.Generator, difficulty: float) -> Image.Image:
        faces = training_faces()
        if rng.uniform() < self.easy:
            difficulty *= 0.3
        known = max(1, round(len(faces) * min(1.0, 1.5 * difficulty)))
        return card_picture(card, rng, faces[:known], difficulty)

    def check(
        self, model: LongtakeModel, tokenizer: Tokenizer, rng: np.random.Generator
    ) -> Mapping[str, float]:
        """Letters, words, numbers, colours on faces and words never trained on, at full variety."""
        symbols = Symbols.of(tokenizer)
        figures: dict[str, float] = {}
        for name, faces in (("seen", training_faces()), ("unseen", find_faces().test)):
            cards = [random_card(rng, TEST_WORDS) for _ in range(self.check_pictures)]
            pictures = [card_picture(card, rng, faces, 1.0) for card in cards]
            found = score(model, symbols, cards, see(model, to_pixels(pictures)))
            figures |= {f"{name}_{key}": value for key, value in found.items()}
        blanks = [background_picture(rng) for _ in range(self.check_pictures)]
        read = nearest(model, see(model, to_pixels(blanks)))
        figures["blank_frames"] = float((read == symbols.blank).all(1).float().mean())
        figures["false_cards"] = float((read[:, 0] == symbols.card).float().mean())
        return figures


def see(model: LongtakeModel, pixels_TCHW: Tensor) -> Tensor:
    """Frames as visual tokens [T, N, D]: tower, projector, pooling, as LongVA does."""
    return grid_pool(model.project(model.look(pixels_TCHW)), POOL_STRIDE)


def symbol_logits(model: LongtakeModel, tokens_TND: Tensor) -> Tensor:
    """How near each token is to each embedding: [T, N, V]."""
    table_VD = table_of(model)
    return tokens_TND @ table_VD.T * (SHARPNESS / table_VD.shape[1])


def nearest(model: LongtakeModel, tokens_TND: Tensor) -> Tensor:
    """The symbol that each token says: [T, N]."""
    return symbol_logits(model, tokens_TND).argmax(-1)


def reading_loss(
    model: LongtakeModel,
    symbols: Symbols,
    cards: Sequence[Card | None],
    tokens_TND: Tensor,
    pull: float,
) -> Outcome:
    """Cross-entropy of each token against the embedding table, and a pull to its embedding."""
    wanted_TN = torch.tensor([symbols.frame(card) for card in cards])
    weight_TN = torch.where(wanted_TN == symbols.blank, BLANK_WEIGHT, 1.0)
    logits = symbol_logits(model, tokens_TND)
    entropy_TN = F.cross_entropy(logits.flatten(0, 1), wanted_TN.flatten(), reduction="none")
    target_TND = table_of(model)[wanted_TN]
    distance_TN = (tokens_TND - target_TND).square().mean(-1)
    loss_TN = entropy_TN.view_as(wanted_TN) + pull * distance_TN
    right_TN = logits.argmax(-1) == wanted_TN
    content = right_TN[wanted_TN != symbols.blank]
    return Outcome(
        loss=(loss_TN * weight_TN).sum() / weight_TN.sum(),
        figures={
            "symbol": float(content.float().mean()) if len(content) else 1.0,
            "distance": float(distance_TN.mean().detach()),
        },
    )


def score(
    model: LongtakeModel, symbols: Symbols, cards: Sequence[Card], tokens_TND: Tensor
) -> dict[str, float]:
    """Shares of letters, whole words, numbers and colours read right."""
    wanted_TN = torch.tensor([symbols.frame(card) for card in cards])
    right_TN = nearest(model, tokens_TND) == wanted_TN
    letters = wanted_TN[:, 4:10] != symbols.blank
    return {
        "letter": float(right_TN[:, 4:10][letters].float().mean()),
        "word": float(right_TN[:, 4:10].all(1).float().mean()),
        "number": float(right_TN[:, 1:3].all(1).float().mean()),
        "colour": float(right_TN[:, 3].float().mean()),
        "all": float(right_TN.all(1).float().mean()),
    }
