"""The training loop: one for every stage, visible; a resumed run repeats itself exactly."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from longtake.errors import CheckpointError, OptionError
from longtake.model import LongtakeModel
from longtake.train.config import Moment, TrainConfig
from longtake.train.initial import new_model
from longtake.train.plot import plot_log
from longtake.train.tokenizer import build_tokenizer


def run(recipe: Path, overrides: Sequence[str] = (), resume: bool = False) -> Path:
    """Run a recipe and return its folder; `overrides` are "name=value" of plain fields."""
    folder = train(override(load_recipe(recipe), overrides), resume)
    if importlib.util.find_spec("matplotlib") is not None:
        plot_log(folder / "log.jsonl", folder / "loss.png")
    return folder


def train(config: TrainConfig, resume: bool = False) -> Path:
    """Train one stage from its start, or from the last saved state of the same run.

    Raises OptionError if the folder holds a run and `resume` is false, or the other way round.
    """
    state_file, log_file = config.out / "state.pt", config.out / "log.jsonl"
    if state_file.exists() != resume:
        found = "holds a run already; resume it or choose another" if not resume else "holds no run"
        raise OptionError(f"{config.out} {found}")
    config.out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    model = new_model(tokenizer.get_vocab_size(), config.seed)
    optimizer = prepare(model, config)
    done = load_state(state_file, model, optimizer) if resume else begin(model, config)
    clock = time.monotonic()
    for step in range(done, config.steps):
        entry = take_step(model, tokenizer, optimizer, config, step)
        last = step + 1 == config.steps
        checked = (step + 1) % config.check_every == 0 or last
        if checked:
            entry |= check(model, tokenizer, config, step)
        if (step + 1) % config.log_every == 0 or checked:
            append_line(log_file, entry | {"seconds": round(time.monotonic() - clock, 1)})
        if (step + 1) % config.save_every == 0 or last:
            save_state(state_file, model, optimizer, step + 1)
    return config.out


def take_step(
    model: LongtakeModel,
    tokenizer: Tokenizer,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    step: int,
) -> dict[str, float]:
    """One optimizer step; data and rate depend on seed and step alone."""
    rate = config.rate * schedule(step, config)
    for group in optimizer.param_groups:
        group["lr"] = rate
    rng = np.random.default_rng([config.seed, step])
    outcome = config.stage.learn(model, tokenizer, Moment(step=step, steps=config.steps, rng=rng))
    optimizer.zero_grad(set_to_none=True)
    outcome.loss.backward()
    norm = nn.utils.clip_grad_norm_(learned(model), config.clip)
    optimizer.step()
    figures = {name: round(value, 4) for name, value in outcome.figures.items()}
    loss = round(float(outcome.loss.detach()), 4)
    return {"step": step + 1, "loss": loss, "norm": round(float(norm), 3), "rate": rate} | figures


def schedule(step: int, config: TrainConfig) -> float:
    """Share of the highest rate: a line up, then a cosine down to the floor."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * done))


def prepare(model: LongtakeModel, config: TrainConfig) -> torch.optim.Optimizer:
    """Freeze all but the stage's parts; AdamW with decay on matrices only."""
    model.requires_grad_(False)
    for part in config.stage.parts(model).values():
        part.requires_grad_(True)
    model.train()
    weights = learned(model)
    groups = [
        {"params": [w for w in weights if w.ndim >= 2], "weight_decay": config.decay},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.rate, betas=config.betas, fused=True)


def learned(model: nn.Module) -> list[nn.Parameter]:
    """The weights in training."""
    return [weight for weight in model.parameters() if weight.requires_grad]


def check(
    model: LongtakeModel, tokenizer: Tokenizer, config: TrainConfig, step: int
) -> dict[str, float]:
    """The stage's own measurement, on data no step draws."""
    model.train(False)
    rng = np.random.default_rng([config.seed, step, 1])
    with torch.no_grad():
        figures = config.stage.check(model, tokenizer, rng)
    model.train()
    return {f"check_{name}": round(value, 4) for name, value in figures.items()}


def begin(model: LongtakeModel, config: TrainConfig) -> int:
    """Take over the parts of earlier runs; returns 0, the steps done."""
    for start in config.starts:
        weights: Mapping[str, Tensor] = read_state(start.file)["model"]
        chosen = {n: w for n, w in weights.items() if n.startswith(tuple(start.parts))}
        if not chosen:
            raise CheckpointError(f"{start.file} holds no weights called {', '.join(start.parts)}")
        model.load_state_dict(chosen, strict=False)
    return 0


def read_state(file: Path) -> dict[str, Any]:
    """A saved state. Only tensors and plain values are read, no code. Raises CheckpointError."""
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} does not exist; run the earlier stage first") from error
    return state


def load_state(file: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Continue from a saved state; returns the steps done."""
    state = read_state(file)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def save_state(file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write aside, then rename: a killed run leaves the old state or the new one."""
    aside = file.with_suffix(".aside")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    torch.save(state, aside)
    os.replace(aside, file)


def append_line(file: Path, entry: Mapping[str, float]) -> None:
    """One line of the log."""
    with file.open("a", encoding="utf-8") as log:
        log.write(json.dumps(entry) + "\n")


def load_recipe(path: Path) -> TrainConfig:
    """The config that the recipe's `config()` returns. Raises OptionError if it is no recipe."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise OptionError(f"{path} is not a recipe; expected a Python file with config()")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.config() if hasattr(module, "config") else None
    if not isinstance(config, TrainConfig):
        raise OptionError(f"{path} has no config() that returns a TrainConfig")
    return config


def override(config: TrainConfig, overrides: Sequence[str]) -> TrainConfig:
    """Replace plain fields, each given as "name=value". Raises OptionError for any other."""
    kinds = {"int": int, "float": float, "Path": Path}
    plain = {f.name: kinds[str(f.type)] for f in fields(config) if str(f.type) in kinds}
    changes: dict[str, Any] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or name not in plain:
            raise OptionError(f"{text!r} is no override; expected name=value of {', '.join(plain)}")
        try:
            changes[name] = plain[name](value)
        except ValueError as error:
            raise OptionError(f"{name}={value!r} is not of type {plain[name].__name__}") from error
    return replace(config, **changes)
