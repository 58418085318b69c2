"""Free-running answers for checks during training: greedy, batched, nothing teacher-forced.

B batch, T frames, N tokens of a frame, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from longtake.model import LongtakeModel
from longtake.parts.qwen2 import Step
from longtake.train.dialogue import HEAD, ask
from longtake.train.questions import FIELDS, HELD_OUT_QUESTIONS, answer
from longtake.train.tokenizer import single
from longtake.video.cards import Card

LONGEST_ANSWER = 10


@torch.no_grad()
def recall(
    model: LongtakeModel, tokenizer: Tokenizer, cards: Sequence[Card | None], frames_BND: Tensor
) -> dict[str, float]:
    """Share of rows whose number, word and colour are exact, and of right first letters."""
    found: dict[str, float] = {}
    for field in FIELDS:
        question = HELD_OUT_QUESTIONS[field][0]
        written = write(model, tokenizer, frames_BND, question)
        wanted = [answer(field, card) for card in cards]
        pairs = list(zip(written, wanted, strict=True))
        found[field] = sum(got == want for got, want in pairs) / len(cards)
        if field == "word":
            found["first"] = sum(got[:1] == want[:1] for got, want in pairs) / len(cards)
    return found


def write(
    model: LongtakeModel, tokenizer: Tokenizer, frames_BND: Tensor, question: str
) -> list[str]:
    """Greedy answers to one question, one per row of frames [B, T * N, D]."""
    rows = len(frames_BND)
    pieces = [
        tokenizer.encode(text, add_special_tokens=False).ids for text in (HEAD, ask(question))
    ]
    head, tail = (model.embed(torch.tensor(ids)).expand(rows, -1, -1) for ids in pieces)
    x_BSD, cache, past = torch.cat([head, frames_BND, tail], dim=1), model.new_cache(), 0
    ids_B = []
    for _ in range(LONGEST_ANSWER):
        positions = torch.arange(past, past + x_BSD.shape[1]).expand(rows, -1)
        features = model.decoder(x_BSD, Step(positions_BS=positions, cache=cache))
        past += x_BSD.shape[1]
        ids_B.append(model.logits(features[:, -1]).argmax(-1))
        x_BSD = model.embed(ids_B[-1])[:, None]
    end = single(tokenizer, "<|im_end|>")
    answers = [
        row[: row.index(end)] if end in row else row for row in torch.stack(ids_B, 1).tolist()
    ]
    return [tokenizer.decode(row) for row in answers]
