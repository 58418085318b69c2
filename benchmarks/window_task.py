"""A generated task with a visual window shorter than the language window, and tiny models for it.

A "video" is N visual tokens, at most WINDOW in training. A token is the sum of embeddings: what all
patches share, and two symbols. Most tokens are noise; NEEDLES of them, at uniform depth, hold a key
and a value. The questions that follow ask for the value of a key, and for the value of whichever of
two keys came first: the former need the content alone, the latter the places as well.

A "text" is passages of words, each written twice, anywhere in up to LANGUAGE tokens; the second
time its words can be foretold from the first. So attention to text is trained four times as far as
attention to video.

    OMP_NUM_THREADS=1 python -m benchmarks.window_task --out /tmp/window_study --seed 0

B batch, N visual tokens, S sequence, D width.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.ledger import TOWER
from safetensors.torch import load_file, save_file
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
KEYS, VALUES, NOISE, WORDS, PASSAGE = 64, 64, 64, 512, 16
START, ASK, FIRST, PATCH = range(4)
FIRST_KEY = 4
FIRST_VALUE = FIRST_KEY + KEYS
FIRST_NOISE = FIRST_VALUE + VALUES
FIRST_WORD = FIRST_NOISE + NOISE
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
    visual = rng.integers(FIRST_NOISE, FIRST_WORD, (rows, tokens, 3))
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


def draw_text(rng: np.random.Generator, rows: int, passages: int) -> tuple[Tensor, Tensor]:
    """Texts of `passages` passages, each there twice, and what can be foretold: ids, labels."""
    words = FIRST_WORD + np.argsort(rng.random((rows, WORDS)))[:, : passages * PASSAGE]
    twice = np.argsort(rng.random((rows, 2 * passages))) // 2
    row = np.arange(rows)[:, None]
    ids = words.reshape(rows, passages, PASSAGE)[row, twice]
    earlier = np.tril(twice[:, :, None] == twice[:, None], -1).any(-1)
    labels = np.where(earlier[..., None], ids, IGNORED)
    labels[..., 0] = IGNORED
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
    """Share of the words that can be foretold which are, in fresh texts of `tokens` tokens."""
    ids, labels = draw_text(np.random.default_rng([9, tokens]), rows, tokens // (2 * PASSAGE))
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


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run."""

    out: Path
    seed: int
    steps: int
    tokens: int
    """Of a batch, about."""
    rate: float

    @property
    def state(self) -> Path:
        """Where it is saved; a run that was stopped goes on from there."""
        return self.out / f"state_{self.seed}.pt"


def loss_at(model: LongtakeModel, run: Run, step: int) -> Tensor:
    """Every third step is of texts; half of the videos' steps have videos of the whole window."""
    rng = np.random.default_rng([1, run.seed, step])
    if step % 3 == 2:
        passages = round(float(np.exp(rng.uniform(0, np.log(LANGUAGE // (2 * PASSAGE))))))
        ids, labels = draw_text(rng, run.tokens // (2 * PASSAGE * passages), passages)
        return answer_loss(text_logits(model, ids), labels)
    tokens = round(float(np.exp(rng.uniform(np.log(2 * NEEDLES), np.log(WINDOW)))))
    tokens = WINDOW if rng.random() < 0.5 and step > run.steps // 10 else tokens
    videos = draw(rng, run.tokens // tokens, tokens)
    return answer_loss(video_logits(model, videos), videos.labels_BS)


def train(run: Run) -> None:
    """Train for some steps, saving the state now and then."""
    run.out.mkdir(parents=True, exist_ok=True)
    model = new_model(run.seed)
    weights = list(model.decoder.parameters())
    optimizer = torch.optim.AdamW(weights, lr=run.rate, betas=(0.9, 0.98), fused=True)
    first, spent = resumed(run, model, optimizer)
    began, losses = time.process_time() - spent, (deque([0.0], 100), deque([0.0], 50))
    for step in range(first, run.steps):
        scale = min(1.0, (step + 1) / 100) * min(1.0, 0.02 + (1 - step / run.steps) / 0.5)
        for group in optimizer.param_groups:
            group["lr"] = run.rate * scale
        optimizer.zero_grad(set_to_none=True)
        loss = loss_at(model, run, step)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        losses[step % 3 == 2].append(float(loss.detach()))
        if (step + 1) % 100 == 0:
            spent = time.process_time() - began
            note(run, model, step + 1, spent, [float(np.mean(kind)) for kind in losses])
            save(run, model, optimizer, step + 1, spent)
    halved = {name: weight.bfloat16().contiguous() for name, weight in learned(model).items()}
    save_file(halved, run.out / f"window_task_{run.seed}.safetensors")


def note(run: Run, model: LongtakeModel, step: int, spent: float, losses: list[float]) -> None:
    """A line of the log; accuracy within the trained window only."""
    tally = marked(model, draw(np.random.default_rng([7, step]), 32, WINDOW))
    entry = {"step": step, "seconds": round(spent), "losses": [round(x, 3) for x in losses]}
    entry |= {"recall": tally.recall / tally.recall_asked, "order": tally.order / tally.order_asked}
    entry |= {"text": round(text_right(model, LANGUAGE, 2), 3)}
    with (run.out / f"log_{run.seed}.jsonl").open("a") as log:
        log.write(json.dumps(entry) + "\n")


def resumed(run: Run, model: LongtakeModel, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Steps done and CPU seconds spent by an earlier part of the same run."""
    if not run.state.exists():
        return 0, 0.0
    saved = torch.load(run.state, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return saved["step"], saved["seconds"]


def save(
    run: Run, model: LongtakeModel, optimizer: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    """Write aside, then rename."""
    aside = run.state.with_suffix(".aside")
    weights = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(weights | {"step": step, "seconds": seconds}, aside)
    aside.replace(run.state)


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("/tmp/window_study"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rate", type=float, default=2e-3)
    train(Run(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
