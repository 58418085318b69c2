"""A generated retrieval task for summary tokens, and a tiny model trained on it.

A "video" of symbols: one frame of every window shows a scene, its gist and four facts, the other is
noise. A token is the sum of embeddings, as a patch's feature holds several things at once: in the
frame of a scene the scene's, and either a fact's key and value or the gist and noise. A question
names a scene and asks for its gist or for the value of a key. At ratio 2 a summary token seldom has
more than one fact to carry, at ratio 16 four and the gist: the gist is easy to keep, facts are not.
What is lost there is what reading some windows at a finer level can bring back
(`benchmarks/bilevel.py` asks for facts alone).

    python -m benchmarks.ledger --out runs/ledger --minutes 22

B batch, N visual tokens, Q questions.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from longtake.model import LongtakeModel, blueprint, build
from longtake.parts.qwen2 import DecoderConfig
from longtake.parts.rope import Rope
from longtake.parts.summary import SummaryDecoder, begin_summaries
from longtake.parts.vit import ViTConfig
from longtake.parts.windows import Ratios
from longtake.train.condensed import Curriculum, Losses, Text, condensed_losses
from longtake.train.dialogue import IGNORED

WEIGHTS = Path(__file__).parent / "ledger.safetensors"
"""Of the run that the results in `benchmarks/results/bilevel.md` are from."""
SCENES, FACTS, VALUES, NOISE, GISTS = 64, 4, 64, 32, 32
"""FACTS are of every scene; each has a key of its own."""
START, ASK, GIST = 0, 1, 2
FIRST_SCENE = 3
FIRST_KEY = FIRST_SCENE + SCENES
FIRST_VALUE = FIRST_KEY + SCENES * FACTS
FIRST_NOISE = FIRST_VALUE + VALUES
FIRST_GIST = FIRST_NOISE + NOISE
VOCABULARY = FIRST_GIST + GISTS
FRAME, WINDOW = 16, 32
RATIOS = (2, 4, 8, 16)

SIZES = DecoderConfig(
    hidden=128,
    layers=3,
    heads=4,
    kv_heads=2,
    head_dim=64,
    mlp=256,
    vocab=VOCABULARY,
    eps=1e-6,
    rope=Rope(theta=1e6),
)
TOWER = ViTConfig(
    hidden=16,
    layers=1,
    heads=1,
    mlp=16,
    image=28,
    patch=14,
    activation="quick_gelu",
    eps=1e-5,
    class_token=True,
)
"""There because the layout has one; symbols never pass it."""
CURRICULUM = Curriculum(((0.0, (2,)), (0.06, (2, 4)), (0.12, (2, 4, 8)), (0.18, RATIOS)))


@dataclass(frozen=True)
class Ledgers:
    """Rows of symbol videos and questions about them."""

    visual_BN3: Tensor
    """The three symbols of each token."""
    asked_BQ2: Tensor
    """Key (or GIST) and scene of each question."""
    values_BQ: Tensor
    windows_BQ: Tensor
    """The window that holds each answer."""


def draw(
    rng: np.random.Generator, rows: int, windows: int, questions: int, gists: float = 0.0
) -> Ledgers:
    """Rows of `windows` windows; scenes are unique in a row, questions ask for distinct keys.

    `gists`: share of questions for a scene's gist instead, which all its other tokens show.
    """
    scenes = np.stack([rng.permutation(SCENES)[:windows] for _ in range(rows)])
    visual = rng.integers(FIRST_NOISE, FIRST_GIST, (rows, windows, 2, FRAME, 3))
    gist = rng.integers(FIRST_GIST, VOCABULARY, (rows, windows))
    row, window = np.ogrid[:rows, :windows]
    shown = rng.integers(0, 2, (rows, windows))
    visual[row, window, shown, :, 0] = scenes[..., None] + FIRST_SCENE
    visual[row, window, shown, :, 1] = gist[..., None]
    places = np.argsort(rng.random((rows, windows, FRAME)), axis=-1)[..., :FACTS]
    keys = scenes[..., None] * FACTS + np.arange(FACTS) + FIRST_KEY
    values = rng.integers(FIRST_VALUE, FIRST_NOISE, keys.shape)
    where = (row[..., None], window[..., None], shown[..., None], places)
    visual[(*where, 1)], visual[(*where, 2)] = keys, values
    asked = np.stack([rng.permutation(windows * FACTS)[:questions] for _ in range(rows)])
    wants_gist = rng.random(asked.shape) < gists
    of_row, of_window = np.arange(rows)[:, None], asked // FACTS
    key = np.where(wants_gist, GIST, keys.reshape(rows, -1)[of_row, asked])
    value = np.where(wants_gist, gist[of_row, of_window], values.reshape(rows, -1)[of_row, asked])
    return Ledgers(
        torch.from_numpy(visual.reshape(rows, -1, 3)),
        torch.from_numpy(np.stack([key, scenes[of_row, of_window] + FIRST_SCENE], -1)),
        torch.from_numpy(value),
        torch.from_numpy(of_window),
    )


def features_of(model: LongtakeModel, ledgers: Ledgers) -> Tensor:
    """Visual tokens [B, N, D]."""
    return model.embed(ledgers.visual_BN3).sum(2)


def losses_of(model: LongtakeModel, ledgers: Ledgers, ratios: Ratios) -> Losses:
    """Cross-entropy of the values asked for, one question after the other."""
    rows, questions = ledgers.values_BQ.shape
    head_B1 = torch.full((rows, 1), START)
    asks_BQ1 = torch.full((rows, questions, 1), ASK)
    ids_BS = torch.cat([asks_BQ1, ledgers.asked_BQ2, ledgers.values_BQ[..., None]], -1).flatten(1)
    labels_BS = torch.full((rows, questions, 4), IGNORED)
    labels_BS[..., 3] = ledgers.values_BQ
    sample = [
        Text(head_B1, torch.full_like(head_B1, IGNORED)),
        features_of(model, ledgers),
        Text(ids_BS, labels_BS.flatten(1)),
    ]
    return condensed_losses(model, sample, ratios.chooser(), WINDOW)


def new_model(seed: int = 0) -> LongtakeModel:
    """Random weights; summary tokens begin as copies of the ordinary weights."""
    torch.manual_seed(seed)
    plan = blueprint(TOWER, SIZES)
    model = build(replace(plan, decoder=lambda: SummaryDecoder(SIZES)))
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            nn.init.normal_(weight, std=0.02 if "embed" in name else weight.shape[1] ** -0.5)
    decoder = model.decoder
    assert isinstance(decoder, SummaryDecoder)
    begin_summaries(decoder, ASK)
    return model


def windows_at(rng: np.random.Generator, progress: float, most: int) -> int:
    """How many windows a step's rows have: few at first, later anything up to `most`."""
    top = 2 + (most - 2) * min(1.0, max(0.0, (progress - 0.1) / 0.3))
    return round(float(np.exp(rng.uniform(np.log(2), np.log(top + 0.49)))))


def ratios_at(rng: np.random.Generator, progress: float) -> Ratios:
    """Half the steps draw a ratio per window, half have one for all; small ones come first."""
    allowed = CURRICULUM.ratios(progress)
    if rng.uniform() < 0.5:
        allowed = (int(rng.choice(allowed)),)
    return Ratios(choices=allowed, seed=int(rng.integers(2**31)))


@torch.no_grad()
def accuracy(model: LongtakeModel, windows: int, ratio: int, rows: int = 32) -> float:
    """Share of right values at one ratio, on fresh rows."""
    rng = np.random.default_rng([7, windows, ratio])
    losses = losses_of(model, draw(rng, rows, windows, 4), Ratios(choices=(ratio,)))
    return losses.right / sum(losses.counts)


def trained(path: Path = WEIGHTS) -> LongtakeModel:
    """A model with the weights of a finished run."""
    model = new_model()
    model.load_state_dict({name: w.float() for name, w in load_file(path).items()})
    model.train(False)
    return model


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run, bounded by the clock."""

    out: Path
    minutes: float
    tokens: int
    """Visual tokens of a batch, about."""
    most: int
    """Most windows of a row."""
    rate: float
    start: Path | None = None
    """Weights of an earlier run to begin with."""

    @property
    def state(self) -> Path:
        """Where it is saved; a run that was stopped goes on from there."""
        return self.out / "state.pt"


def train(run: Run) -> None:
    """Train for some minutes, saving the state now and then."""
    run.out.mkdir(parents=True, exist_ok=True)
    model = new_model()
    learned = [w for n, w in model.named_parameters() if n.startswith(("decoder", "lm_head"))]
    optimizer = torch.optim.AdamW(learned, lr=run.rate, betas=(0.9, 0.98), fused=True)
    step, spent = resumed(run, model, optimizer)
    began, recent = time.monotonic() - spent, deque([0.0], maxlen=50)
    while (progress := (time.monotonic() - began) / (60 * run.minutes)) < 1:
        losses = take_step(model, optimizer, run, step, progress)
        recent.append(losses.right / sum(losses.counts))
        step += 1
        if step % 50 == 0:
            entry = {"step": step, "progress": round(progress, 3)}
            entry["right"] = round(float(np.mean(recent)), 3)
            if step % 250 == 0:
                for size in (2, 16):
                    entry |= {f"{size}w r{r}": round(accuracy(model, size, r), 3) for r in RATIOS}
                save(run, model, optimizer, step, time.monotonic() - began)
            with (run.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(entry) + "\n")
    save(run, model, optimizer, step, 60 * run.minutes)
    halved = {name: weight.bfloat16().contiguous() for name, weight in model.state_dict().items()}
    save_file(halved, run.out / "ledger.safetensors")


def take_step(
    model: LongtakeModel,
    optimizer: torch.optim.Optimizer,
    run: Run,
    step: int,
    progress: float,
) -> Losses:
    """One optimizer step; data depend on the step's number and how far the run is."""
    rng = np.random.default_rng([1, step])
    windows = windows_at(rng, progress, run.most)
    rows = max(2, min(64, run.tokens // (windows * WINDOW)))
    ledgers = draw(rng, rows, windows, min(12, windows * FACTS), gists=0.4)
    losses = losses_of(model, ledgers, ratios_at(rng, progress))
    scale = min(1.0, (step + 1) / 100) * min(1.0, 0.05 + (1 - progress) / 0.4)
    for group in optimizer.param_groups:
        group["lr"] = run.rate * scale
    optimizer.zero_grad(set_to_none=True)
    losses.loss.backward()
    nn.utils.clip_grad_norm_([w for group in optimizer.param_groups for w in group["params"]], 1.0)
    optimizer.step()
    return losses


def resumed(run: Run, model: LongtakeModel, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Steps done and seconds spent by an earlier part of the same run."""
    if not run.state.exists():
        if run.start is not None:
            model.load_state_dict(widened(load_file(run.start), model))
        return 0, 0.0
    saved = torch.load(run.state, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return saved["step"], saved["seconds"]


def widened(weights: dict[str, Tensor], model: LongtakeModel) -> dict[str, Tensor]:
    """Weights of a run with fewer symbols; the new ones' rows stay as the model has them."""
    state = model.state_dict()
    for name, weight in weights.items():
        state[name][: len(weight)] = weight.float()
    return state


def save(
    run: Run, model: LongtakeModel, optimizer: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    """Write aside, then rename."""
    weights = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(weights | {"step": step, "seconds": seconds}, run.out / "aside.pt")
    (run.out / "aside.pt").replace(run.state)


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/ledger"))
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--most", type=int, default=48)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--start", type=Path)
    train(Run(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
