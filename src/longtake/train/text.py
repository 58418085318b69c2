"""Stage 1, long context in text: the decoder finds one card among frames written as text tokens.

LongVA's idea in small (section 3): the language model learns long context from text alone, and the
visual tokens are aligned to text afterwards. A frame is its 16 symbols' embeddings, disturbed as a
tower's output would be.

B batch, T frames, N tokens of a frame, D width, L tail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from longtake.model import LongtakeModel
from longtake.parts.qwen2 import Step
from longtake.train.config import Moment, Outcome
from longtake.train.dialogue import HEAD, IGNORED, Tails, draw_positions, draw_tails
from longtake.train.initial import table_of
from longtake.train.retrieval import recall
from longtake.train.tokenizer import FRAME_TOKENS, Symbols
from longtake.train.words import random_word
from longtake.video.cards import Card, random_card

TAIL_TOKENS = 110
"""Tokens that chat and questions add to a row, about; sizes the batch."""


@dataclass(frozen=True, kw_only=True)
class TextStage:
    """The decoder and its head, on symbols."""

    tokens: int = 3000
    """Tokens of a batch, about."""
    longest: int = 96
    """Most frames of a row, reached at `grown` of the run."""
    grown: float = 0.7
    no_card: float = 0.1
    """Share of rows without a card."""
    noise: float = 0.7
    """Largest root mean square of the noise on a row's frames; a symbol's own is 1."""
    check_frames: tuple[int, ...] = (4, 64, 256)

    def parts(self, model: LongtakeModel) -> Mapping[str, nn.Module]:
        """The decoder without its embeddings, and the head."""
        return {
            "decoder.layers": model.decoder.layers,
            "decoder.norm": model.decoder.norm,
            "lm_head": model.lm_head,
        }

    def learn(self, model: LongtakeModel, tokenizer: Tokenizer, moment: Moment) -> Outcome:
        """Answer questions about symbol frames."""
        rng = moment.rng
        grown = min(1.0, max(0.0, moment.progress - 0.12) / (self.grown - 0.12))
        most = 2 * (self.longest / 2) ** grown
        frames = round(np.exp(rng.uniform(0, np.log(most))))
        rows = int(np.clip(self.tokens // (frames * FRAME_TOKENS + TAIL_TOKENS), 2, 48))
        cards = [self._card(rng) for _ in range(rows)]
        noise = self.noise * min(1.0, moment.progress / 0.4)
        frames_BND = symbol_frames(model, Symbols.of(tokenizer), cards, frames, noise, rng)
        outcome = answer_loss(model, tokenizer, cards, frames_BND, rng)
        return Outcome(loss=outcome.loss, figures={**outcome.figures, "frames": float(frames)})

    def _card(self, rng: np.random.Generator) -> Card | None:
        return None if rng.uniform() < self.no_card else random_card(rng, [random_word(rng)])

    def check(
        self, model: LongtakeModel, tokenizer: Tokenizer, rng: np.random.Generator
    ) -> Mapping[str, float]:
        """Free-running exact match on wordings and words never trained on."""
        figures: dict[str, float] = {}
        symbols = Symbols.of(tokenizer)
        for frames in self.check_frames:
            rows = max(4, min(16, 4096 // (frames * FRAME_TOKENS)))
            cards = [random_card(rng, [random_word(rng)]) for _ in range(rows)]
            frames_BND = symbol_frames(model, symbols, cards, frames, 0.3, rng)
            found = recall(model, tokenizer, cards, frames_BND)
            figures |= {f"{name}@{frames}": value for name, value in found.items()}
        return figures


def symbol_frames(
    model: LongtakeModel,
    symbols: Symbols,
    cards: Sequence[Card | None],
    frames: int,
    noise: float,
    rng: np.random.Generator,
) -> Tensor:
    """Rows of frames as embeddings [B, T * N, D], each row's card at a random place."""
    ids_BTN = torch.full((len(cards), frames, FRAME_TOKENS), symbols.blank)
    content = np.array(symbols.content)
    for row, card in enumerate(cards):
        # a tower's mistakes: single symbols on frames without a card
        strays = rng.uniform(size=(frames, FRAME_TOKENS)) < rng.choice([0, 0, 0.01, 0.05])
        ids_BTN[row][torch.from_numpy(strays)] = torch.from_numpy(
            content[rng.integers(len(content), size=int(strays.sum()))]
        )
        ids_BTN[row, int(rng.integers(frames))] = torch.tensor(symbols.frame(card))
    table = table_of(model)
    clean = table[ids_BTN].flatten(1, 2)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    size_B11 = torch.from_numpy(rng.uniform(0, noise, (len(cards), 1, 1))).float()
    doubt = torch.from_numpy(rng.uniform(size=(*clean.shape[:2], 1)) < 0.15 * noise)
    other = table[torch.from_numpy(content[rng.integers(len(content), size=clean.shape[:2])])]
    share = torch.from_numpy(rng.uniform(0, 0.4, (*clean.shape[:2], 1))).float() * doubt
    mixed = clean * (1 - share) + other * share
    return mixed + torch.randn(mixed.shape, generator=generator) * size_B11


def answer_loss(
    model: LongtakeModel,
    tokenizer: Tokenizer,
    cards: Sequence[Card | None],
    frames_BND: Tensor,
    rng: np.random.Generator,
) -> Outcome:
    """Cross-entropy of the answers alone, questions drawn at random."""
    head = tokenizer.encode(HEAD, add_special_tokens=False).ids
    tails: Tails = draw_tails(tokenizer, cards, rng)
    frames = frames_BND.shape[1] // FRAME_TOKENS
    positions_BS = draw_positions(len(head), frames, tails.ids_BL.shape[1], len(cards), rng)
    head_BND = model.embed(torch.tensor(head)).expand(len(cards), -1, -1)
    x_BSD = torch.cat([head_BND, frames_BND, model.embed(tails.ids_BL)], dim=1)
    features = model.decoder(x_BSD, Step(positions_BS=positions_BS))[:, -tails.ids_BL.shape[1] :]
    learned = tails.labels_BL != IGNORED
    logits, labels = model.logits(features[learned]), tails.labels_BL[learned]
    first = tails.first_BL[learned]
    right = logits.argmax(-1) == labels
    return Outcome(
        loss=F.cross_entropy(logits, labels),
        figures={"first": float(right[first].float().mean()), "token": float(right.float().mean())},
    )
