"""Token sequences: the chat around the frames, with the answers marked for the loss.

B batch, T frames, S sequence, L tail (all tokens after the frames).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from longtake.train.questions import FIELDS, QUESTIONS, answer
from longtake.train.tokenizer import FRAME_TOKENS
from longtake.video.cards import Card

IGNORED = -100
"""Label of a token that is not learned; cross_entropy skips it."""
HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
NEXT_TURN = "\n<|im_start|>user\n"
END = "<|im_end|>"


@dataclass(frozen=True, kw_only=True)
class Tails:
    """What follows the frames in each row, padded where causal attention never looks."""

    ids_BL: Tensor
    labels_BL: Tensor
    """The next token where it belongs to an answer, else IGNORED."""
    first_BL: Tensor
    """True where the next token is the first of an answer."""


def ask(question: str) -> str:
    """The template from the frames to where the answer starts."""
    return f"\n{question}{END}\n<|im_start|>assistant\n"


def tail(tokenizer: Tokenizer, turns: Sequence[tuple[str, str]]) -> tuple[list[int], list[int]]:
    """Ids and labels of questions and answers in turn; a label is the next token."""
    ids: list[int] = []
    learned: list[bool] = []
    for index, (question, answered) in enumerate(turns):
        asked = ask(question) if index == 0 else NEXT_TURN + ask(question)[1:]
        for text, learn in ((asked, False), (answered + END, True)):
            piece = tokenizer.encode(text, add_special_tokens=False).ids
            ids += piece
            learned += [learn] * len(piece)
    labels = [i if learn else IGNORED for i, learn in zip(ids[1:], learned[1:], strict=True)]
    return ids, [*labels, IGNORED]


def draw_tails(
    tokenizer: Tokenizer, cards: Sequence[Card | None], rng: np.random.Generator
) -> Tails:
    """One to three questions about each row's card, in random order and wording."""
    rows = []
    for card in cards:
        fields = [FIELDS[i] for i in rng.permutation(len(FIELDS))[: int(rng.choice([1, 3, 3, 3]))]]
        wordings = [QUESTIONS[f][int(rng.integers(len(QUESTIONS[f])))] for f in fields]
        rows.append(
            tail(tokenizer, [(w, answer(f, card)) for w, f in zip(wordings, fields, strict=True)])
        )
    longest = max(len(ids) for ids, _ in rows)
    ids_BL = torch.zeros(len(rows), longest, dtype=torch.int64)
    labels_BL = torch.full_like(ids_BL, IGNORED)
    for row, (ids, labels) in enumerate(rows):
        ids_BL[row, : len(ids)] = torch.tensor(ids)
        labels_BL[row, : len(labels)] = torch.tensor(labels)
    learned_BL = labels_BL != IGNORED
    first_BL = learned_BL.clone()
    first_BL[:, 1:] &= ~learned_BL[:, :-1]
    return Tails(ids_BL=ids_BL, labels_BL=labels_BL, first_BL=first_BL)


def draw_positions(
    head: int, frames: int, tails: int, rows: int, rng: np.random.Generator
) -> Tensor:
    """Positions [B, S]: every second row contiguous, the others with random gaps.

    Ordered random positions teach far distances on short sequences (Ruoss et al. 2023); tokens of
    one frame stay together, as they always are.
    """
    plain = torch.arange(head + frames * FRAME_TOKENS + tails).repeat(rows, 1)
    for row in range(1, rows, 2):
        reach = np.exp(rng.uniform(np.log(8), np.log(20_000)))
        cuts = np.sort(rng.integers(0, int(reach), frames + 1))
        gaps = torch.from_numpy(np.diff(cuts, prepend=0))
        shift = torch.cumsum(gaps, 0)
        plain[row, head : head + frames * FRAME_TOKENS] += shift[:-1].repeat_interleave(
            FRAME_TOKENS
        )
        plain[row, head + frames * FRAME_TOKENS :] += shift[-1]
    return plain
