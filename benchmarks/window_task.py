"""A generated task with a visual window shorter than the language window, and tiny models for it.

A "video" is N visual tokens, at most WINDOW in training. A token is the sum of embeddings: what all
patches share, and two symbols. Most tokens are noise; NEEDLES of them, at uniform depth, hold a key
and a value. The questions that follow ask for the value of a key, and for the value of whichever of
two keys came first: the former need the content alone, the latter the places as well.

A "text" is up to LANGUAGE words. Some are names; further on, anywhere, a name's class is mentioned
and the name follows, as "the animal" is the cat of a page before. So attention to text is trained
four times as far as attention to video.

The models are trained by `benchmarks/window_train.py`, and read by `benchmarks/window_study.py`.

B batch, N visual tokens, S sequence, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.ledger import TOWER
from safetensors.torch import load_file
from torch import Tensor, nn

from longtake.model import LongtakeModel, blueprint, build
from longtake.parts.qwen2 import DecoderConfig, Step
from longtake.parts.rope import Rope
from longtake.train.dialogue import IGNORED

HERE = Path(__file__).parent
SEEDS = (0, 1)
"""Models whose weights are stored, `window_task_<seed>.safetensors`."""
WINDOW, LANGUAGE = 256, 1024
NEEDLES, RECALLS, ORDERS = 6, 5, 3
KEYS, VALUES, NOISE, CLASSES, NAMES, WORDS = 64, 64, 64, 64, 8, 64
"""NAMES of each class."""
START, ASK, FIRST, PATCH = range(4)
FIRST_KEY = 4
FIRST_VALUE = FIRST_KEY + KEYS
FIRST_NOISE = FIRST_VALUE + VALUES
FIRST_CLASS = FIRST_NOISE + NOISE
FIRST_NAME = FIRST_CLASS + CLASSES
FIRST_WORD = FIRST_NAME + CLASSES * NAMES
VOCABULARY = FIRST_WORD + WORDS

SIZES = DecoderConfig(
    hidden=128,
    layers=2,
    heads=4,
    kv_heads=4,
    head_dim=32,
    mlp=256,
    vocab=VOCABULARY,
    eps=1e-6,
    rope=Rope(theta=1e4, positions=LANGUAGE),
)
"""The fastest pair turns WINDOW / 2 pi = 41 times within the visual window, more than the 32 from
which YaRN leaves a pair alone; nine of sixteen pairs turn less than once."""


@dataclass(frozen=True)
class Videos:
    """Rows of symbol videos and the questions that follow each."""

    visual_BN3: Tensor
    """The three symbols of each token."""
    ids_BS: Tensor
    """Questions with their right answers."""
    labels_BS: Tensor
    """The answers, in their places; IGNORED elsewhere."""
    others_BS: Tensor
    """Where the value of the first key is asked for, that of the second; IGNORED elsewhere."""


@dataclass(frozen=True)
class Tally:
    """How many questions of each kind were answered, and how many rightly."""

    recall: int
    recall_asked: int
    order: int
    order_asked: int


def draw(rng: np.random.Generator, rows: int, tokens: int) -> Videos:
    """Videos of `tokens` tokens, RECALLS and ORDERS questions each."""
    visual = rng.integers(FIRST_NOISE, FIRST_CLASS, (rows, tokens, 3))
    visual[..., 0] = PATCH
    row = np.arange(rows)[:, None]
    places = np.sort(np.argsort(rng.random((rows, tokens)))[:, :NEEDLES])
    keys = FIRST_KEY + np.argsort(rng.random((rows, KEYS)))[:, :NEEDLES]
    values = rng.integers(FIRST_VALUE, FIRST_NOISE, keys.shape)
    visual[row, places, 1], visual[row, places, 2] = keys, values
    asked = np.argsort(rng.random(keys.shape))[:, :RECALLS]
    recall = np.full((rows, RECALLS, 3), ASK)
    recall[..., 1], recall[..., 2] = keys[row, asked], values[row, asked]
    # distinct pairs: no answer helps with another
    pairs = np.argsort(rng.random(keys.shape))[:, : 2 * ORDERS].reshape(rows, ORDERS, 2)
    order = np.full((rows, ORDERS, 4), FIRST)
    order[..., 1:3] = keys[row[..., None], pairs]
    order[..., 3] = values[row, pairs.min(-1)]
    ids = np.concatenate([recall.reshape(rows, -1), order.reshape(rows, -1)], 1)
    labels, others = np.full_like(ids, IGNORED), np.full_like(ids, IGNORED)
    labels[:, 2 : 3 * RECALLS : 3] = recall[..., 2]
    labels[:, 3 * RECALLS + 3 :: 4] = order[..., 3]
    others[:, 3 * RECALLS + 3 :: 4] = values[row, pairs.max(-1)]
    return Videos(*(torch.from_numpy(part) for part in (visual, ids, labels, others)))


def draw_text(rng: np.random.Generator, rows: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Texts of `tokens` words, and the names that can be foretold: ids, labels, [B, S] each.

    An eighth of a text's pairs of words hold a name that is new, an eighth a mention and its name.
    """
    pairs, count = tokens // 2, tokens // 16
    classes = np.argsort(rng.random((rows, CLASSES)))[:, :count]
    names = FIRST_NAME + NAMES * classes + rng.integers(0, NAMES, classes.shape)
    held = np.argsort(rng.random((rows, pairs))) // 2
    empty, which = held >= count, np.minimum(held, count - 1)
    again = np.tril(held[:, :, None] == held[:, None], -1).any(-1) & ~empty
    row = np.arange(rows)[:, None]
    name, mention = names[row, which], FIRST_CLASS + classes[row, which]
    ids = rng.integers(FIRST_WORD, VOCABULARY, (rows, pairs, 2))
    ids[..., 0] = np.where(empty, ids[..., 0], np.where(again, mention, name))
    ids[..., 1] = np.where(again, name, ids[..., 1])
    labels = np.full_like(ids, IGNORED)
    labels[..., 1] = np.where(again, name, IGNORED)
    return tuple(torch.from_numpy(part.reshape(rows, -1)) for part in (ids, labels))


def features_of(model: LongtakeModel, x_BSD: Tensor) -> Tensor:
    """What the decoder makes of embeddings behind the start token: [B, 1 + S, D]."""
    start_BSD = model.embed(torch.full((len(x_BSD), 1), START))
    x_BSD = torch.cat([start_BSD, x_BSD], 1)
    positions_BS = torch.arange(x_BSD.shape[1]).expand(len(x_BSD), -1)
    return model.decoder(x_BSD, Step(positions_BS=positions_BS))


def video_logits(model: LongtakeModel, videos: Videos) -> Tensor:
    """Logits from which each token of the questions is foretold: [B, S, V]."""
    visual_BND = model.embed(videos.visual_BN3).sum(2)
    questions_BSD = model.embed(videos.ids_BS)
    features = features_of(model, torch.cat([visual_BND, questions_BSD], 1))
    return model.logits(features[:, visual_BND.shape[1] : -1])


def text_logits(model: LongtakeModel, ids_BS: Tensor) -> Tensor:
    """Logits from which each token is foretold: [B, S, V]."""
    return model.logits(features_of(model, model.embed(ids_BS))[:, :-1])


def answer_loss(logits_BSV: Tensor, labels_BS: Tensor) -> Tensor:
    """Mean cross-entropy of what has a label."""
    return F.cross_entropy(logits_BSV.flatten(0, 1), labels_BS.flatten(), ignore_index=IGNORED)


@torch.no_grad()
def marked(model: LongtakeModel, videos: Videos) -> Tally:
    """Values recalled count among the whole vocabulary, those of first keys against the other's."""
    logits_BSV = video_logits(model, videos)
    order_BS = videos.others_BS != IGNORED
    recall_BS = (videos.labels_BS != IGNORED) & ~order_BS
    hits_BS = logits_BSV.argmax(-1) == videos.labels_BS
    first, second = (
        logits_BSV[order_BS].gather(1, named[order_BS][:, None])
        for named in (videos.labels_BS, videos.others_BS)
    )
    recall, order = int(hits_BS[recall_BS].sum()), int((first > second).sum())
    return Tally(recall, int(recall_BS.sum()), order, int(order_BS.sum()))


@torch.no_grad()
def text_right(model: LongtakeModel, tokens: int, rows: int = 16) -> float:
    """Share of the names that can be foretold which are, in fresh texts of `tokens` words."""
    ids, labels = draw_text(np.random.default_rng([9, tokens]), rows, tokens)
    hits = text_logits(model, ids).argmax(-1) == labels
    return float(hits[labels != IGNORED].float().mean())


def new_model(seed: int = 0) -> LongtakeModel:
    """Random weights."""
    torch.manual_seed(seed)
    model = build(blueprint(TOWER, SIZES, tied=True))
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            nn.init.normal_(weight, std=0.02 if "embed" in name else weight.shape[1] ** -0.5)
    return model


def learned(model: LongtakeModel) -> dict[str, Tensor]:
    """Weights that are trained; the head is the embedding, and symbols never pass the tower."""
    of = model.state_dict()
    return {name: of[name] for name in of if name.startswith("decoder")}


def trained(seed: int = 0, folder: Path = HERE) -> LongtakeModel:
    """A model with the stored weights of a finished run."""
    model = new_model()
    weights = load_file(folder / f"window_task_{seed}.safetensors")
    model.load_state_dict(model.state_dict() | {n: w.float() for n, w in weights.items()})
    return model.eval()
