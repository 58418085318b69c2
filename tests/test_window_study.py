"""Visual context window extension on trained models: what the page of results says, in small."""

import numpy as np
import pytest
from benchmarks import window_task as task
from benchmarks.window_study import methods, total, visual

from longtake.model import LongtakeModel
from longtake.parts.rope import Rope


def share(model: LongtakeModel, rope: Rope, tokens: int) -> task.Tally:
    """Answers to 16 videos, the same for every rope."""
    rng = np.random.default_rng(tokens)
    drawn = [task.draw(rng, 8, tokens) for _ in range(2)]
    return total([task.marked(model.positioned(rope), videos) for videos in drawn])
