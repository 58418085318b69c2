"""The training step of VideoChat-Flash: conversations about one visual or none, and their loss.

Its released training code's text and labels (arXiv 2501.00574; stages 2 to 4, and the plain form of
stage 1), then next-token cross-entropy over what token dropping leaves, with gradients into the
decoder, the features and what made them. Which tokens stay is decided without gradients. Gradient
checkpointing works: tokens are dropped between layers, and only layers run twice.

B batch, S sequence, N visual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from longtake.errors import CheckpointError, PromptError
from longtake.folder import Tokenizer
from longtake.model import LongtakeModel
from longtake.parts.between import IGNORED, DropBetween, Row
from longtake.parts.chat import PLACEHOLDER, QWEN_1_5
from longtake.parts.dropping import Block, Schedule
from longtake.parts.qwen2 import Decoder, Step
from longtake.parts.splice import IMAGE_ID
from longtake.train.condensed import Losses

HEADS = {"human": QWEN_1_5.user, "gpt": QWEN_1_5.assistant}
"""What stands before the words of each who may speak, by its published name."""

SCAFFOLD = ("\n", "<|im_start|>", "<|im_end|>")
"""Texts of one token that are learned wherever they stand, a user's words included."""


@dataclass(frozen=True)
class Said:
    """One message of a conversation."""

    who: Literal["human", "gpt"]
    words: str

    def __post_init__(self) -> None:
        if self.who not in HEADS:
            known = " or ".join(map(repr, HEADS))
            raise PromptError(f"a message is from {self.who!r}, expected {known}")
        if not isinstance(self.words, str):
            raise PromptError(f"a message must be text, got {type(self.words).__name__}")


def said(record: Mapping[str, object]) -> Said:
    """A message as data sets hold it, {"from": ..., "value": ...}; PromptError for another."""
    if not {"from", "value"} <= record.keys():
        found = ", ".join(map(repr, sorted(record))) or "nothing"
        raise PromptError(f"a message holds {found}; expected 'from' and 'value'")
    return Said(record["from"], record["value"])  # type: ignore[arg-type]  # it checks


def expand(conversation: Sequence[Said], message: str) -> tuple[Said, ...]:
    """Put the placeholder of a message that has one first, and the time message behind it.

    The message as `VideoChatFlash.follow` has it, a newline before and a space behind; "" for
    images. Several placeholders in a message stay where they are. The original writes into the
    record, so that a second epoch inserts the message twice; here it is left alone.
    """
    return tuple(replace(one, words=_placed(one.words, message)) for one in conversation)


def _placed(words: str, message: str) -> str:
    if words.count(PLACEHOLDER) != 1:
        return words
    if not words.startswith(PLACEHOLDER):
        words = f"{PLACEHOLDER}\n{words.replace(PLACEHOLDER, '').strip()}".strip()
    return words.replace(PLACEHOLDER, PLACEHOLDER + message)


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The text of a sample."""

    ids: tuple[int, ...]
    """IMAGE_ID where a visual goes."""
    labels: tuple[int, ...]
    """The id itself where it is to be learned, else IGNORED; shifted by the loss, not before."""

    def __post_init__(self) -> None:
        if not self.ids:
            raise PromptError("there are no tokens; a sample needs some")
        if len(self.ids) != len(self.labels):
            raise PromptError(f"{len(self.ids)} ids have {len(self.labels)} labels")
        pairs = zip(self.ids, self.labels, strict=True)
        if any(i == IMAGE_ID and label != IGNORED for i, label in pairs):
            raise PromptError("a placeholder is labelled; a visual cannot be learned")


def tokens_of(conversation: Sequence[Said], tokenizer: Tokenizer) -> Tokens:
    """Ids and labels of an expanded conversation: answers are learned, with their headers.

    So is every SCAFFOLD token, wherever it stands: a habit of the LLaVA-NeXT code that decides the
    loss and, while tokens are dropped, who asks. A leading answer to nothing is left out. Raises
    PromptError if no answer remains.
    """
    if conversation and conversation[0].who == "gpt":
        conversation = conversation[1:]
    if all(one.who != "gpt" for one in conversation):
        raise PromptError("the conversation has no answer to learn; it needs a question and one")
    scaffold = scaffold_ids(tokenizer)
    messages = [(HEADS[one.who] + one.words + QWEN_1_5.end, one.who) for one in conversation]
    ids: list[int] = []
    labels: list[int] = []
    for text, who in ((QWEN_1_5.system, "system"), *messages):
        piece = _encoded(text, tokenizer)
        ids += piece
        learned = [i != IMAGE_ID and (who == "gpt" or i in scaffold) for i in piece]
        labels += [i if learn else IGNORED for i, learn in zip(piece, learned, strict=True)]
    return Tokens(ids=tuple(ids), labels=tuple(labels))


def scaffold_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids of SCAFFOLD. Raises CheckpointError unless each is a single token."""
    ids = set()
    for text in SCAFFOLD:
        found = tokenizer.encode(text, add_special_tokens=False)
        if len(found) != 1:
            raise CheckpointError(
                f"the tokenizer makes {len(found)} tokens of {text!r}, expected 1"
            )
        ids.update(found)
    return frozenset(ids)


def plain_tokens(conversation: Sequence[Said], tokenizer: Tokenizer) -> Tokens:
    """Stage 1: nothing but the visual, its caption and a newline; the last two are learned.

    What is asked is left out, as in the original. Raises PromptError unless this is one question
    about a visual and its answer.
    """
    who = [one.who for one in conversation]
    if who != ["human", "gpt"] or PLACEHOLDER not in conversation[0].words:
        raise PromptError(f"the plain form needs a question with {PLACEHOLDER} and one caption")
    caption = _encoded(conversation[1].words + "\n", tokenizer)
    if IMAGE_ID in caption:
        raise PromptError(f"leave {PLACEHOLDER} out of the caption; a visual cannot be learned")
    return Tokens(ids=(IMAGE_ID, *caption), labels=(IGNORED, *caption))


def _encoded(text: str, tokenizer: Tokenizer) -> list[int]:
    ids: list[int] = []
    for number, part in enumerate(text.split(PLACEHOLDER)):
        ids += [IMAGE_ID] * bool(number) + tokenizer.encode(part, add_special_tokens=False)
    return ids


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A conversation and the visual it is about."""

    tokens: Tokens
    features_ND: Tensor | None = None
    """What the decoder reads in place of the placeholder, with its graph; None for text alone."""

    def __post_init__(self) -> None:
        places, visuals = self.tokens.ids.count(IMAGE_ID), int(self.features_ND is not None)
        if places != visuals:
            raise PromptError(
                f"a sample has {places} {PLACEHOLDER} placeholders for {visuals} visuals; "
                "expected one each, or none"
            )
        if self.features_ND is not None and (
            self.features_ND.ndim != 2 or not self.features_ND.numel()
        ):
            raise PromptError(f"features must be [N, D], got {list(self.features_ND.shape)}")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples as the decoder reads them, padded on the right."""

    x_BSD: Tensor
    """Embeddings with the visuals in place; zeros behind a row's end."""
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Read:
    """What comes out of the decoder."""

    features_BSD: Tensor
    labels_BS: Tensor
    """Of the tokens that are left, IGNORED where they are padding."""
    kept: tuple[tuple[Tensor, ...], ...] = ()
    """Of each drop and sample: what stayed, as indices into what went in."""


def hico_loss(
    model: LongtakeModel, samples: Sequence[Sample], schedule: Schedule | None = None
) -> Losses:
    """Next-token cross-entropy of a batch; `.loss` is the mean over all of its labelled tokens.

    With a schedule, visual tokens are dropped between layers as in the original's training mode:
    ranked by the tokens before learned ones. The released checkpoints were trained without.
    """
    done = read_batch(model, batch_of(model, samples), schedule)
    losses = Losses()
    losses.add(model, done.features_BSD, next_labels(done.labels_BS))
    return losses


def next_labels(labels_BS: Tensor) -> Tensor:
    """Labels shifted by one: what should follow each token, nothing after the last."""
    return F.pad(labels_BS[:, 1:], (0, 1), value=IGNORED)


def batch_of(model: LongtakeModel, samples: Sequence[Sample]) -> Batch:
    """Embed samples, splice their visuals in, pad. Raises PromptError for no sample.

    A text alone gets no empty visual: a tower that nobody uses has no gradients.
    """
    if not samples:
        raise PromptError("the batch is empty; give at least one sample")
    spliced = [splice(model, sample) for sample in samples]
    x_BSD = pad_sequence([x_SD for x_SD, _ in spliced], batch_first=True)
    return Batch(x_BSD=x_BSD, rows=tuple(row for _, row in spliced))


def splice(model: LongtakeModel, sample: Sample) -> tuple[Tensor, Row]:
    """Embeddings [S, D] of a sample with its features in place, and what it consists of."""
    ids, labels = (
        torch.tensor(numbers, dtype=torch.int64, device=model.device)
        for numbers in (sample.tokens.ids, sample.tokens.labels)
    )
    features_ND = sample.features_ND
    if features_ND is None:
        return model.embed(ids), Row(len(ids), (), labels)
    if features_ND.shape[1] != model.config.hidden_size:
        raise PromptError(
            f"features are {features_ND.shape[1]} wide, the decoder {model.config.hidden_size}"
        )
    start, visual = sample.tokens.ids.index(IMAGE_ID), len(features_ND)
    before, after = model.embed(ids[:start]), model.embed(ids[start + 1 :])
    x_SD = torch.cat([before, features_ND.to(before), after])
    unlearned = labels.new_full((visual,), IGNORED)
    labels = torch.cat([labels[:start], unlearned, labels[start + 1 :]])
    return x_SD, Row(len(x_SD), (Block(start, visual, visual),), labels)


def read_batch(model: LongtakeModel, batch: Batch, schedule: Schedule | None) -> Read:
    """Run the decoder. Raises OptionError for a schedule that is deeper than it."""
    decoder, x_BSD = cast(Decoder, model.decoder), batch.x_BSD
    positions_S = torch.arange(x_BSD.shape[1], device=x_BSD.device)
    # no mask: no token sees what is behind it, and padding is
    step = Step(positions_BS=positions_S.expand(len(x_BSD), -1))
    if schedule is None:
        labels = [row.labels_S for row in batch.rows if row.labels_S is not None]
        labels_BS = pad_sequence(labels, batch_first=True, padding_value=IGNORED)
        return Read(features_BSD=decoder(x_BSD, step), labels_BS=labels_BS)
    schedule.check_depth(decoder.config.layers)
    between = DropBetween(decoder=decoder, schedule=schedule, rows=batch.rows)
    features_BSD = decoder(x_BSD, step, between)
    kept = tuple(tuple(stays) for stays in between.kept)
    return Read(features_BSD=features_BSD, labels_BS=between.labels_BS, kept=kept)
