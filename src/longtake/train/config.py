"""What a training run is: a frozen value that a recipe returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from tokenizers import Tokenizer
from torch import Tensor, nn

from longtake.errors import OptionError
from longtake.model import LongtakeModel


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where a run stands; all that a stage may depend on, so that a resumed run repeats itself."""

    step: int
    """Steps taken before this one."""
    steps: int
    """Steps of the whole run."""
    rng: np.random.Generator
    """Seeded by the run's seed and the step."""

    @property
    def progress(self) -> float:
        """Share of the run behind us, 0 to 1."""
        return self.step / max(1, self.steps)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The loss of a step and what to write into the log."""

    loss: Tensor
    figures: Mapping[str, float] = field(default_factory=dict)


class Stage(Protocol):
    """What is trained, on what, and how it is checked."""

    def parts(self, model: LongtakeModel) -> Mapping[str, nn.Module]:
        """The modules this stage trains, by name; all others stay frozen."""

    def learn(self, model: LongtakeModel, tokenizer: Tokenizer, moment: Moment) -> Outcome:
        """Draw a batch and compute its loss."""

    def check(
        self, model: LongtakeModel, tokenizer: Tokenizer, rng: np.random.Generator
    ) -> Mapping[str, float]:
        """Measure on fresh data that is not trained on; called without gradients."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Weights to begin with: the parts of an earlier run's state."""

    file: Path
    """A `state.pt` of an earlier run."""
    parts: tuple[str, ...]
    """Prefixes of the weights to take."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One stage of training."""

    stage: Stage
    """What is trained on what."""
    out: Path
    """Folder of the run: log.jsonl, loss.png, state.pt."""
    steps: int
    """Optimizer steps."""
    rate: float
    """Highest learning rate."""
    starts: tuple[Start, ...] = ()
    """Earlier runs to begin with; what they do not hold starts at random."""
    warmup: int = 100
    """Steps until the highest rate."""
    floor: float = 0.03
    """The last rate, as a share of the highest; a cosine leads there."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's moments."""
    decay: float = 0.02
    """AdamW's weight decay, on matrices only."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    seed: int = 0
    """Seed of weights and data."""
    log_every: int = 20
    """Steps between lines of the log."""
    check_every: int = 500
    """Steps between checks, and at the end."""
    save_every: int = 200
    """Steps between saved states, and at the end."""

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "check_every", "save_every"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if not self.rate > 0:
            raise OptionError(f"rate must be more than 0, got {self.rate}")
