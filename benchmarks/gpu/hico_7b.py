"""VideoChat-Flash at the published 7B shape with random weights: seconds per stage, peak, MFU.

    python benchmarks/gpu/hico_7b.py --frames 1024 10000 --drop off card --side 448

Frames are noise in memory, so nothing is decoded. The bound beside each time is the FLOPs of
`longtake.costs` at 790 TFLOP/s, what an H200's bf16 products reach. `--tiny` runs the golden
checkpoint's shape on any device, to see that the script works. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from longtake.costs import flops_of
from longtake.folder import read_folder
from longtake.hico import HicoConfig
from longtake.model import LongtakeConfig, LongtakeModel
from longtake.systems.videochat_flash import VideoChatFlash, wired
from longtake.types import Frames
from longtake.video.inputs import Held

GOLDEN = Path(__file__).parents[2] / "tests/parity/golden/videochat_flash"
TINY = GOLDEN / "ckpt-umt224"
PEAK = 790e12
"""FLOP/s of bf16 products on an H200, measured."""
SEVEN_B: dict[str, Any] = {
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "mm_hidden_size": 1024,
    "tokenizer_model_max_length": 32768,
}
TOWER = "model.vision_tower.vision_tower.encoder."


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published 7B checkpoint."""
    lists = json.loads((GOLDEN / "published_keys.json").read_text())
    name = next(name for name in lists if name.startswith("Qwen2-7B"))
    shapes: dict[str, tuple[int, ...]] = {}
    for key, told in lists[name].items():
        first, last = map(int, told.get("i", "0..0").split(".."))
        for number in range(first, last + 1):
            shapes[key.replace("{i}", str(number))] = tuple(told["shape"])
    return shapes


def random_system(side: int, device: str, *, tiny: bool) -> VideoChatFlash:
    """A system of the published shape, bf16 on a GPU; the tokenizer is the golden checkpoint's."""
    folder = read_folder(TINY)
    published = dict(folder.config)
    shapes = {f"{TOWER}patch_embed.proj.weight": (128,), f"{TOWER}blocks.0.mlp.fc1.weight": (512,)}
    if not tiny:
        published |= SEVEN_B
        published["mm_vision_tower"] = "umt-hd-large" if side == 448 else "umt-large"
        shapes = published_shapes()
        published["image_grid_pinpoints"] = [[side, side]]
    config = HicoConfig.from_published(published, shapes)
    plan = config.blueprint()
    with torch.device("meta"):
        model = LongtakeModel(LongtakeConfig.of(plan.sizes, plan.tied), plan)
    nn.Module.to(model, torch.bfloat16 if device == "cuda" else torch.float32)
    model.to_empty(device=device)
    generator = torch.Generator(device=device).manual_seed(0)
    for name, weight in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            weight.data.fill_(1.0)
        else:
            weight.data.normal_(0.0, 0.02, generator=generator)
    return wired(folder, config, model.eval())


@dataclass
class Clock:
    """Seconds of each stage, with the device waited for."""

    device: str
    seconds: dict[str, float] = field(default_factory=dict)

    def wrap(self, owner: Any, name: str, stage: str) -> None:
        """Time a method of an object."""
        inner: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stage(stage):
                return inner(*args, **kwargs)

        object.__setattr__(owner, name, timed)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add what runs inside."""
        self._wait()
        began = time.perf_counter()
        yield
        self._wait()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


@dataclass(frozen=True, kw_only=True)
class Looped(Held):
    """A few pictures over and over, a second apart, so that memory stays small."""

    count: int

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.count

    @property
    def fps(self) -> float:
        """One a second."""
        return 1.0

    @property
    def duration(self) -> float:
        """Seconds."""
        return float(self.count)

    def read(self, indices: Sequence[int], *, chunk: int = 16) -> Iterator[Frames]:
        """The frames at these indices, `chunk` at a time."""
        for start in range(0, len(indices), chunk):
            index_T = torch.tensor(indices[start : start + chunk])
            pictures = self.held.pixels_TCHW[index_T % len(self.held)]
            yield Frames(pixels_TCHW=pictures, seconds_T=index_T.double(), index_T=index_T)


def noise(frames: int, side: int) -> Looped:
    """64 random pictures, as many times as it takes."""
    generator = torch.Generator().manual_seed(0)
    shape = (64, 3, side, side)
    pictures = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    index_T = torch.arange(64)
    held = Frames(pixels_TCHW=pictures, seconds_T=index_T.double(), index_T=index_T)
    return Looped(held=held, count=frames)


def measure(base: VideoChatFlash, frames: int, drop: str, device: str) -> str:
    """Watch and ask twice; a row of the table."""
    system = base.variant(drop=drop, extend="yarn:4")
    clock = Clock(device)
    clock.wrap(system, "encode", "encode")
    clock.wrap(system.model.decoder, "through", "decoder")
    shown = noise(frames, system.processor.side)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with clock.stage("watch"):
        memory = system.watch(shown, max_frames=frames)
    encode, decoder = (clock.seconds.get(name, 0.0) for name in ("encode", "decoder"))
    options = system.options(max_new_tokens=16)
    for name in ("first", "second"):
        with clock.stage(name):
            system.ask(memory, "What happens in this video?", options)
    peak = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else float("nan")
    weights = sum(weight.nbytes for weight in system.model.parameters()) / 1e9
    flops = flops_of(system.stages(frames))
    told = (
        f"{frames:,}",
        drop,
        *(f"{clock.seconds['watch']:.1f} {encode:.1f} {decoder:.1f}".split()),
        f"{clock.seconds['first']:.2f}",
        f"{clock.seconds['second']:.2f}",
        f"{peak:.1f} ({peak - weights:.1f})",
        f"{memory.bytes / 1e9:.2f}",
        f"{flops / PEAK:.1f}",
        f"{flops / PEAK / (encode + decoder):.0%}" if memory.depth == "kv" else "-",
    )
    return f"| {' | '.join(told)} |"


def main() -> None:
    """Every length with every drop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[1024, 10_000])
    parser.add_argument("--drop", nargs="+", help="by default off, an even drop and the card's")
    parser.add_argument("--side", type=int, choices=(224, 448), default=448)
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not chosen.tiny:
        parser.error("there is no CUDA device; --tiny runs anywhere")
    layers = "2,5" if chosen.tiny else "4,18"
    drops = chosen.drop or ["off", *(f"{kind}{layers}:1,0.75,0.25" for kind in ("uniform:", ""))]
    system = random_system(chosen.side, device, tiny=chosen.tiny)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}; UMT at {system.processor.side} px, random weights\n")
    head = "frames | drop | watch s | encode s | decoder s | question s | second s"
    head += " | peak GB (above weights) | memory GB | bound s at 790 TFLOP/s | MFU of that"
    print(f"| {head} |\n{'|---' * 11}|", flush=True)
    for frames in chosen.frames:
        for drop in drops:
            print(measure(system, frames, drop, device), flush=True)


if __name__ == "__main__":
    main()
