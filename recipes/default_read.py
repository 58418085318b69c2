"""The bundled model, stage 2: reading. Tower and projector, on pictures."""

from pathlib import Path

from longtake.train.config import TrainConfig
from longtake.train.read import ReadStage


def config() -> TrainConfig:
    """The tower learns to write frames in the decoder's symbols; it may run beside stage 1."""
    return TrainConfig(
        stage=ReadStage(),
        out=Path("runs/default_read"),
        steps=5000,
        rate=1.2e-3,
        warmup=200,
        check_every=500,
        save_every=200,
    )
