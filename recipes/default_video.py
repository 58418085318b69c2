"""The bundled model, stage 3: video. Everything together, on generated videos of 4 to 96 frames."""

from pathlib import Path

from longtake.train.config import Start, TrainConfig
from longtake.train.joint import JointStage

DECODER = ("decoder.", "lm_head.")
TOWER = ("tower.", "projector.")


def config() -> TrainConfig:
    """The decoder gets used to the tower's tokens, the tower to the decoder's needs."""
    return TrainConfig(
        stage=JointStage(),
        out=Path("runs/default_video"),
        starts=(
            Start(file=Path("runs/default_text/state.pt"), parts=DECODER),
            Start(file=Path("runs/default_read/state.pt"), parts=TOWER),
        ),
        steps=450,
        rate=2.5e-4,
        warmup=50,
        seed=3,
        check_every=225,
        save_every=50,
    )
