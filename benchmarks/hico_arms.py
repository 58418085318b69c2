"""VideoChat-Flash by longtake, and at once as published: one folder, the same frames and weights.

Both arms begin with uint8 frames of the tower's size. The published procedure is
`literal_videochat_flash.py`. Each arm runs in a process of its own (`apart.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import literal_videochat_flash
import torch
from apart import Run, measured, serve
from literal_videochat_flash import Written

import longtake
from longtake.parts.abreast import MOST_LANES, lanes
from longtake.systems import videochat_flash
from longtake.systems.videochat_flash import VideoChatFlash
from longtake.types import Frames, Options
from longtake.video.sample import Footage, Shown

DROPS = {
    "off": "off",
    "uniform": "uniform:2,5:1,0.75,0.25",
    "mixed": "uniform0_attention:2,5:1,0.75,0.25",
}
"""The model card's drop scaled to 8 layers: all of it even, and as it is there."""
QUESTION = "What happens in this video?"
TOKENS = 16
ARMS = ("longtake", "literal")


def noise(num: int, seed: int = 0) -> Frames:
    """Random frames of 224 x 224, a second apart."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num, 3, 224, 224)
    return Frames(
        pixels_TCHW=torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
        seconds_T=torch.arange(num, dtype=torch.float64),
        index_T=torch.arange(num),
    )


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is measured."""

    name: str
    frames: int
    drop: str

    def logits(self, folder: Path) -> Path:
        """Where its logits are put."""
        return folder / f"{self.name}-{self.frames}-{self.drop}.pt"


@contextmanager
def clocked(out: Written, targets: Sequence[tuple[Any, str, str]]) -> Iterator[None]:
    """Add what calls of (object, attribute) take to a stage; lanes share their seconds."""
    beside, one_at_a_time = lanes(MOST_LANES), threading.Lock()

    def slowed(function: Callable[..., Any], stage: str, *given: Any) -> Any:
        began = time.perf_counter()
        made = function(*given)
        seconds = time.perf_counter() - began
        in_lane = threading.current_thread().name.startswith("longtake-lane")
        with one_at_a_time:
            out.add(stage, seconds / beside if in_lane else seconds)
        return made

    with ExitStack() as stack:
        for owner, name, stage in targets:
            timed = partial(slowed, getattr(owner, name), stage)
            stack.enter_context(patch.object(owner, name, timed))
        yield


def streamed(system: VideoChatFlash, frames: Frames) -> Written:
    """Watch and ask, as users do; evidence is off, the literal arm gives none."""
    out, model = Written(), system.model
    options = Options(max_new_tokens=TOKENS, repetition_penalty=1.0, evidence=False)
    targets = [
        (model, "look", "tower"),
        (videochat_flash, "merge_tokens", "merge"),
        (model, "project", "projector"),
        (model.decoder, "through", "prefill"),
    ]
    with clocked(out, targets):
        memory = system.watch(frames, max_frames=len(frames))
    head = model.logits

    def noted(features: torch.Tensor) -> torch.Tensor:
        out.logits.append(head(features))
        return out.logits[-1]

    with patch.object(model, "logits", noted):
        answer = system.ask(memory, QUESTION, options)
    out.ids = list(answer.ids)
    out.add("prefill", answer.stats.prefill_seconds)
    out.add("answer", answer.stats.answer_seconds)
    return out


def at_once(system: VideoChatFlash, frames: Frames) -> Written:
    """The published procedure on the same prompt."""
    footage = Footage(frames=len(frames), fps=1.0)
    lead = system.follow(Shown(frames=len(frames), seconds=footage.seconds), last=True)
    before = system.tokens(system.template.head())
    after = system.tokens(lead + system.template.tail(QUESTION))
    return literal_videochat_flash.answer(system, frames.pixels_TCHW, before, after, TOKENS)


def measure(arm: Arm, folder: Path) -> Run[Arm]:
    """Run one arm in this process; its logits go to a file."""
    system = longtake.load(folder / "checkpoint", device="cpu").variant(drop=DROPS[arm.drop])
    system = replace(system, end_ids=frozenset())
    assert isinstance(system, VideoChatFlash)
    frames, work = noise(arm.frames), at_once if arm.name == "literal" else streamed
    work(system, noise(8))  # pages code in

    def told(out: Written, wall: float) -> tuple[list[int], dict[str, float]]:
        torch.save(torch.stack(out.logits), arm.logits(folder))
        return out.ids, out.seconds | {"rest": wall - sum(out.seconds.values())}

    return measured(arm, lambda: work(system, frames), told)


if __name__ == "__main__":
    serve(Arm, measure)
