"""What whoever asked is told, from the engine thread."""

from __future__ import annotations

from dataclasses import dataclass

from longtake.serve.faults import Refusal
from longtake.types import Answer


@dataclass(frozen=True, kw_only=True)
class Text:
    """A piece of an answer."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Done:
    """A whole answer."""

    answer: Answer


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Why there is no answer."""

    refusal: Refusal
