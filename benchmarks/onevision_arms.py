"""LLaVA-OneVision by longtake and by transformers' own class: one folder, the same frames and ids.

Each arm runs in a process of its own (`apart.py`). transformers' arm is its class as its
documentation uses it: pixels of all frames, one video token for each visual token, `generate`. Both
arms begin with uint8 frames of the tower's size.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from apart import Bench, Run, measured, serve
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
from video_xl_memory import fill

import longtake
from longtake.systems.llava_onevision import LlavaOneVision
from longtake.types import Frames, Options, VisualTokens

HERE = Path(__file__).parent
TINY = HERE.parent / "tests/parity/golden/llava_onevision/checkpoint-small7-hf"
"""Its tokenizer and processor files are used."""
SIDE = 384
GRIDS = tuple(itertools.product(range(1, 7), repeat=2))
QUESTION = "What happens in this video?"
TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is measured."""

    name: str
    frames: int
    pool: str = "model"
    """An option of longtake; "model" for the checkpoint's own."""


def noise(num: int, seed: int = 0) -> Frames:
    """Random frames of the tower's size, a second apart."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num, 3, SIDE, SIDE)
    return Frames(
        pixels_TCHW=torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
        seconds_T=torch.arange(num, dtype=torch.float64),
        index_T=torch.arange(num),
    )


def write_checkpoint(target: Path, tower: Mapping[str, int], text: Mapping[str, int]) -> None:
    """Random weights (float32, one seed), as transformers writes them, with a tokenizer."""
    fields = json.loads((TINY / "config.json").read_text())
    fields["vision_config"] |= {**tower, "image_size": SIDE}
    fields["text_config"] |= text
    fields["image_grid_pinpoints"] = [[SIDE * rows, SIDE * columns] for rows, columns in GRIDS]
    fields["dtype"] = fields["torch_dtype"] = "float32"
    config = LlavaOnevisionConfig(**fields)
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    with torch.no_grad():
        fill(model)
    model.save_pretrained(target)
    for file in TINY.iterdir():
        if file.is_file() and file.suffix != ".safetensors" and not (target / file.name).exists():
            shutil.copyfile(file, target / file.name)
    steps = json.loads((target / "preprocessor_config.json").read_text())
    steps["size"] = {"height": SIDE, "width": SIDE}
    (target / "preprocessor_config.json").write_text(json.dumps(steps))


class Longtake:
    """Watch and ask, as users do; evidence is off, the other arm gives none."""

    def __init__(self, folder: Path, arm: Arm) -> None:
        system = longtake.load(folder, device="cpu")
        if arm.pool != "model":
            system = system.variant(pool=arm.pool)
        self.system = replace(system, end_ids=frozenset())

    def answer(self, frames: Frames) -> tuple[list[int], int]:
        """Ids written, and visual tokens read."""
        options = Options(max_new_tokens=TOKENS, repetition_penalty=1.0, evidence=False)
        memory = self.system.watch(frames, max_frames=len(frames))
        answer = self.system.ask(memory, QUESTION, options)
        return list(answer.ids), answer.stats.visual_tokens


class Transformers:
    """Its class, on the prompt of the other arm."""

    def __init__(self, folder: Path, arm: Arm) -> None:
        self.asking = longtake.load(folder, device="meta")
        self.model = LlavaOnevisionForConditionalGeneration.from_pretrained(folder).eval()

    def prompt(self, frames: int) -> list[int]:
        """Text and one video token for each visual token."""
        system = self.asking
        assert isinstance(system, LlavaOneVision)
        tokens = system.arranged(frames)
        assert tokens is not None
        features_ND = torch.empty(tokens, system.config.decoder.hidden, device="meta")
        seen = VisualTokens(features_ND=features_ND, counts=(tokens,), seconds=(0.0,))
        ids: list[int] = []
        text = f"{system.template.head()}<image>\n{system.template.tail(QUESTION)}"
        for piece in system.pieces(text, [seen]):
            if isinstance(piece, VisualTokens):
                ids += [self.model.config.video_token_id] * tokens
            else:
                ids += piece
        return ids

    @torch.no_grad()
    def answer(self, frames: Frames) -> tuple[list[int], int]:
        """Ids written, and visual tokens read."""
        ids = self.prompt(len(frames))
        pixels_TCHW = (frames.pixels_TCHW.float() / 255 - 0.5) / 0.5
        out_1S = self.model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            pixel_values_videos=pixels_TCHW[None],
            max_new_tokens=TOKENS,
            min_new_tokens=TOKENS,
            do_sample=False,
            repetition_penalty=1.0,
        )
        return out_1S[0, len(ids) :].tolist(), ids.count(self.model.config.video_token_id)


ARMS: dict[str, type[Longtake] | type[Transformers]] = {
    "longtake": Longtake,
    "transformers": Transformers,
}


def measure(arm: Arm, folder: Path) -> Run[Arm]:
    """Run one arm in this process."""
    worker, frames = ARMS[arm.name](folder / "checkpoint", arm), noise(arm.frames)
    worker.answer(noise(2))  # pages code in

    def told(out: tuple[list[int], int], wall: float) -> tuple[list[int], dict[str, int]]:
        return out[0], {"tokens": out[1]}

    return measured(arm, lambda: worker.answer(frames), told)


def bench(folder: Path) -> Bench[Arm]:
    """These arms, their runs logged in a folder."""
    return Bench(script=Path(__file__), folder=folder, arm=Arm)


if __name__ == "__main__":
    serve(Arm, measure)
