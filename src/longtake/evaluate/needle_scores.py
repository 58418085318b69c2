"""Rates of a cell's answers, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from longtake.evaluate.intervals import wilson

WAYS = ("forced", "generated", "exact", "moment")


def single_summary(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rates of what is scored, over all questions."""
    ways = [way for way in WAYS if answers and way in answers[0]]
    return {way: rate(sum(one[way] for one in answers), len(answers)) for way in ways}


def chain_summary(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """VideoChat-Flash's scores of chains: caption, answer, and how the two go together."""
    told: dict[str, Any] = {}
    pairs = [answers[n : n + 2] for n in range(0, len(answers), 2)]
    for way in [way for way in WAYS if answers and way in answers[0]]:
        right = [(bool(caption[way]), bool(answer[way])) for caption, answer in pairs]
        counts = {name: right.count(pair) for name, pair in TOGETHER.items()}
        caption = counts["both"] + counts["only_caption"]
        answer = counts["both"] + counts["only_answer"]
        told[way] = {
            "score": rate(caption + answer, 2 * len(pairs)),
            "caption": rate(caption, len(pairs)),
            "answer": rate(answer, len(pairs)),
            "both": rate(counts["both"], len(pairs)),
            "chains": len(pairs),
            **{name: counts[name] for name in ("only_caption", "only_answer", "neither")},
        }
    return told


TOGETHER = {
    "both": (True, True),
    "only_caption": (True, False),
    "only_answer": (False, True),
    "neither": (False, False),
}


def rate(right: int, asked: int) -> dict[str, Any]:
    """A share with its 95 % interval."""
    low, high = wilson(right, asked)
    return {"right": right, "share": round(right / asked, 6), "low": round(low, 6)} | {
        "high": round(high, 6)
    }
