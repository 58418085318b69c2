"""How to answer: checked without torch, so that a mistake is told before torch has come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from longtake.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to answer. The defaults are greedy decoding, as the published evaluations run it."""

    max_new_tokens: int = 256
    """Most tokens to write."""
    temperature: float = 0.0
    """0 is greedy; otherwise logits are divided by it before sampling."""
    top_p: float = 1.0
    """Keep the smallest set of tokens with this probability mass (sampling only)."""
    top_k: int = 0
    """Keep this many most probable tokens; 0 keeps all (sampling only)."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens already written (and, in systems
    whose originals do so, of the prompt's text)."""
    seed: int = 0
    """Seed of the sampling generator."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""
    on_text: Callable[[str], None] | None = None
    """Called with each new piece of text as it is written."""
    cancelled: Callable[[], bool] | None = None
    """Asked before every token; true ends the answer early."""
    evidence: bool = True
    """Record which moments the answer rests on (docs/evidence.md has what it costs)."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "top_k", "seed"):
            if not isinstance(getattr(self, name), int):
                raise OptionError(f"{name} must be a whole number, got {getattr(self, name)!r}")
        if self.max_new_tokens < 1:
            raise OptionError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not -(2**63) <= self.seed < 2**63:
            raise OptionError(f"seed must fit 64 bits, got {self.seed}")
        if self.temperature != 0.0 and not 1e-3 <= self.temperature < float("inf"):
            raise OptionError(f"temperature must be 0 or at least 0.001, got {self.temperature}")
        if not 0.0 < self.top_p <= 1.0:
            raise OptionError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise OptionError(f"top_k must be 0 (off) or more, got {self.top_k}")
        if not 0.0 < self.repetition_penalty < float("inf"):
            raise OptionError(f"repetition_penalty must be positive, got {self.repetition_penalty}")
        stop: object = self.stop
        if isinstance(stop, str) or not all(self.stop):
            raise OptionError(f"stop must be texts, none of them empty, got {self.stop!r}")
