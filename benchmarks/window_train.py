"""Train the tiny models of `benchmarks/window_task.py` from scratch.

    OMP_NUM_THREADS=1 python -m benchmarks.window_train --out /tmp/window_study --seed 0

A run that was stopped goes on from where it was saved.
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
from benchmarks import window_task as task
from safetensors.torch import save_file
from torch import Tensor, nn

from longtake.model import LongtakeModel


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
        words = round(float(np.exp(rng.uniform(np.log(32), np.log(task.LANGUAGE)))))
        ids, labels = task.draw_text(rng, run.tokens // words, words)
        return task.answer_loss(task.text_logits(model, ids), labels)
    tokens = round(float(np.exp(rng.uniform(np.log(2 * task.NEEDLES), np.log(task.WINDOW)))))
    tokens = task.WINDOW if rng.random() < 0.5 and step > run.steps // 10 else tokens
    videos = task.draw(rng, run.tokens // tokens, tokens)
    return task.answer_loss(task.video_logits(model, videos), videos.labels_BS)


def train(run: Run) -> None:
    """Train for some steps, saving the state now and then."""
    run.out.mkdir(parents=True, exist_ok=True)
    model = task.new_model(run.seed)
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
    halved = {name: weight.bfloat16().contiguous() for name, weight in task.learned(model).items()}
    save_file(halved, run.out / f"window_task_{run.seed}.safetensors")


def note(run: Run, model: LongtakeModel, step: int, spent: float, losses: list[float]) -> None:
    """A line of the log; accuracy within the trained window only."""
    tally = task.marked(model, task.draw(np.random.default_rng([7, step]), 32, task.WINDOW))
    entry = {"step": step, "seconds": round(spent), "losses": [round(x, 3) for x in losses]}
    entry |= {"recall": tally.recall / tally.recall_asked, "order": tally.order / tally.order_asked}
    entry |= {"text": round(task.text_right(model, task.LANGUAGE, 2), 3)}
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
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rate", type=float, default=2e-3)
    train(Run(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
