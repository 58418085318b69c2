"""Stage 3, video: everything together on generated videos, with a small learning rate.

The decoder meets the tower's own tokens instead of symbols, and the tower learns what the answers
need. Most frames of a row come from a pool that is encoded once per step and without gradients, so
that rows are long and steps cheap.

B batch, T frames, N tokens of a frame, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from longtake.model import LongtakeModel
from longtake.train.config import Moment, Outcome
from longtake.train.fonts import find_faces
from longtake.train.pictures import background_picture, card_picture, to_pixels, training_faces
from longtake.train.read import reading_loss, score, see
from longtake.train.retrieval import recall
from longtake.train.text import TAIL_TOKENS, answer_loss
from longtake.train.tokenizer import FRAME_TOKENS, Symbols
from longtake.train.words import TEST_WORDS, random_word
from longtake.video.cards import Card, random_card


@dataclass(frozen=True, kw_only=True)
class JointStage:
    """All parts but the embedding table."""

    tokens: int = 3000
    """Tokens of a batch, about."""
    shortest: int = 4
    """Fewest frames of a row."""
    longest: int = 96
    """Most frames of a row."""
    cards: int = 24
    """Cards that are encoded with gradients; a row each, as far as the tokens reach."""
    fresh: int = 4
    """Other frames that are encoded with gradients."""
    pool: int = 24
    """Other frames that are encoded without."""
    no_card: float = 0.1
    """Chance that a row's card is left out."""
    reading: float = 1.0
    """Weight of the reading loss."""
    pull: float = 0.3
    check_frames: tuple[int, ...] = (16, 64, 256)
    check_rows: int = 8

    def parts(self, model: LongtakeModel) -> Mapping[str, nn.Module]:
        """Tower, projector, decoder without its embeddings, head."""
        return {
            "tower": model.tower,
            "projector": model.projector,
            "decoder.layers": model.decoder.layers,
            "decoder.norm": model.decoder.norm,
            "lm_head": model.lm_head,
        }

    def learn(self, model: LongtakeModel, tokenizer: Tokenizer, moment: Moment) -> Outcome:
        """Read cards and answer questions about rows of frames."""
        rng, faces = moment.rng, training_faces()
        cards: list[Card | None] = [random_card(rng, [random_word(rng)]) for _ in range(self.cards)]
        pictures = [
            card_picture(card, rng, faces, float(rng.choice([0.3, 1.0, 1.0])))
            for card in cards
            if card is not None
        ]
        pictures += [background_picture(rng) for _ in range(self.fresh)]
        seen_TND = see(model, to_pixels(pictures))
        read = reading_loss(
            model, Symbols.of(tokenizer), cards + [None] * self.fresh, seen_TND, self.pull
        )
        with torch.no_grad():
            others = see(model, to_pixels([background_picture(rng) for _ in range(self.pool)]))
        pool_TND = torch.cat([seen_TND[self.cards :], others])
        frames = round(np.exp(rng.uniform(np.log(self.shortest), np.log(self.longest))))
        rows = int(np.clip(self.tokens // (frames * FRAME_TOKENS + TAIL_TOKENS), 2, self.cards))
        shown = [None if rng.uniform() < self.no_card else card for card in cards[:rows]]
        frames_BND = lay_out(seen_TND, pool_TND, shown, frames, rng)
        answered = answer_loss(model, tokenizer, shown, frames_BND, rng)
        figures = {**read.figures, **answered.figures, "frames": float(frames)}
        return Outcome(loss=answered.loss + self.reading * read.loss, figures=figures)

    def check(
        self, model: LongtakeModel, tokenizer: Tokenizer, rng: np.random.Generator
    ) -> Mapping[str, float]:
        """Reading and free-running answers on faces, words and wordings never trained on."""
        faces, symbols = find_faces().test, Symbols.of(tokenizer)
        cards = [random_card(rng, TEST_WORDS) for _ in range(200)]
        seen_TND = see(model, to_pixels([card_picture(card, rng, faces, 1.0) for card in cards]))
        figures = {f"read_{k}": v for k, v in score(model, symbols, cards, seen_TND).items()}
        pool_TND = see(model, to_pixels([background_picture(rng) for _ in range(128)]))
        for frames in self.check_frames:
            rows = cards[: self.check_rows]
            frames_BND = lay_out(seen_TND, pool_TND, rows, frames, rng)
            found = recall(model, tokenizer, rows, frames_BND)
            figures |= {f"{name}@{frames}": value for name, value in found.items()}
        return figures


def lay_out(
    cards_TND: Tensor,
    pool_TND: Tensor,
    shown: list[Card | None] | list[Card],
    frames: int,
    rng: np.random.Generator,
) -> Tensor:
    """Rows of pool frames [B, T * N, D], row b with card b at a random place if shown.

    Half of the cards stay for one frame, the others for up to eight: a real card is sampled as
    often as it is long.
    """
    picked = torch.from_numpy(rng.integers(len(pool_TND), size=(len(shown), frames)))
    rows_BTND = pool_TND[picked]
    for row, card in enumerate(shown):
        if card is not None:
            at = int(rng.integers(frames))
            stop = min(frames, at + int(rng.choice([1, 1, 1, 2, 3, 8])))
            rows_BTND[row, at:stop] = cards_TND[row]
    return rows_BTND.flatten(1, 2)
