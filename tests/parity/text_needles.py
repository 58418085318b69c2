"""Needles in text: every prompt of the golden table, from the seed on."""

from __future__ import annotations

import numpy as np

from longtake.evaluate.needle_text import LARGEST, Book
from tests.parity.cases import Case, StageResult, equal


def check_text(case: Case) -> list[StageResult]:
    """Numbers drawn, then the rows in order: each draws a place per distractor."""
    spec = case.spec
    rng = np.random.RandomState(spec["seed"])
    numbers, others = (
        [int(rng.randint(LARGEST)) for _ in spec[name]]
        for name in ("random_numbers", "distractor_numbers")
    )
    book = Book(
        text=spec["haystack"],
        prefix=spec["prefix"],
        question=spec["postfix"],
        distractors=spec["distractors"],
        periods=spec["period_tokens"],
    )
    prompts = [
        book.prompt(
            row["context_length"],
            row["depth"],
            spec["needle"],
            book.draws(rng, row["context_length"]),
        )
        for row in spec["rows"]
    ]
    return [
        equal("numbers", numbers, spec["random_numbers"]),
        equal("distractor numbers", others, spec["distractor_numbers"]),
        *(
            equal(f"prompt {n}", ours, row["prompt"])
            for n, (ours, row) in enumerate(zip(prompts, spec["rows"], strict=True))
        ),
    ]
