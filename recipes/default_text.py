"""The bundled model, stage 1: long context in text. The decoder alone, on symbol frames."""

from pathlib import Path

from longtake.train.config import TrainConfig
from longtake.train.text import TextStage


def config() -> TrainConfig:
    """The decoder learns to find one card among up to 96 frames."""
    return TrainConfig(
        stage=TextStage(),
        out=Path("runs/default_text"),
        steps=1600,
        rate=1.5e-3,
        warmup=100,
        betas=(0.9, 0.95),
        check_every=300,
        save_every=100,
    )
