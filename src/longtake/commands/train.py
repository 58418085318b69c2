"""`longtake train`: run one stage of training."""

from __future__ import annotations

from longtake.flags import Changes, Recipe, ResumeFlag


def train(*, recipe: Recipe, changes: Changes = None, resume: ResumeFlag = False) -> None:
    """Run one stage of training."""
    from longtake.train.loop import run

    print(run(recipe, changes or (), resume))
