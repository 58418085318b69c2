"""Peak memory of Video-XL's watching by number of frames, and bytes of a frame by ratio.

    OMP_NUM_THREADS=1 python benchmarks/video_xl_memory.py --folder /tmp/longtake-footage

Watches a made-up video of three hours, each number of frames in a process of its own, and records
the highest resident size during `watch` above that before it. The model has the tiny checkpoint's
tower and random weights, and a decoder whose keys and values are wide for its size (8 KiB a token),
so that what grows stands out. Writes results/video_xl_memory.md and .png. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import footage
import matplotlib.pyplot as plt
import torch
from memory import MIB, resident
from torch import nn

import longtake
from longtake.folder import read_folder, read_tower
from longtake.llava import Where, wiring
from longtake.model import build
from longtake.parts.cache import kv_bytes_per_token
from longtake.parts.summary import SummaryDecoder
from longtake.systems.video_xl import Config, VideoXL

HERE = Path(__file__).parent
RESULTS = HERE / "results"
TINY = HERE.parent / "tests/parity/golden/video_xl/checkpoint"
WIDE: dict[str, Any] = {
    "num_hidden_layers": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
"""Every other field is the tiny checkpoint's."""
TOKENS_PER_FRAME = 144
SECONDS = 3 * 3600
FRAME_COUNTS = (256, 512, 1024, 2048)
RATIO, RATIOS = 8, (2, 4, 8, 16)


def random_system(fields: Mapping[str, Any], tower_fields: Mapping[str, Any]) -> VideoXL:
    """A Video-XL with the tiny checkpoint's wiring, these sizes, and random weights (one seed)."""
    folder, tower = read_folder(TINY), read_tower(TINY / "vision_tower")
    folder = replace(folder, config={**folder.config, **fields})
    tower = replace(tower, config={**tower.config, **tower_fields})
    config = Config.from_published(folder.config, tower.config)
    model = build(config.blueprint(partial(SummaryDecoder, own=config.beacon_param))).eval()
    fill(model)
    where = Where(folder=folder, tower=tower, device=torch.device("cpu"), dtype=None)
    parts = wiring(config, where) | {"end_ids": frozenset()}
    return VideoXL(model=model, condense=config.condense(), **parts)


@torch.no_grad()
def fill(model: nn.Module, seed: int = 0) -> None:
    """Weights that keep activations near one, and attention that looks at few keys."""
    generator = torch.Generator().manual_seed(seed)
    for name, module in model.named_modules():
        for kind, weight in module.named_parameters(recurse=False):
            if "norm" in name or "norm" in kind:
                continue  # ones and zeros
            spread = 0.1 if weight.ndim == 1 else weight[0].numel() ** -0.5
            if isinstance(module, nn.Embedding):
                spread = 1.0
            if name.endswith(("q_proj", "k_proj")):
                spread *= 1.7
            weight.normal_(0.0, spread, generator=generator)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One measured process; sizes in bytes."""

    frames: int
    ratio: int
    before: int
    """Resident with the model built and used once."""
    peak: int
    """Highest resident while watching."""
    memory: int
    """Keys and values that came out."""
    text: int
    """Tokens of text among them."""
    wall: float
    """Seconds that watching took."""

    @property
    def above(self) -> float:
        """MiB above the model."""
        return (self.peak - self.before) / MIB

    @property
    def formula(self) -> float:
        """Bytes of a frame by the formula."""
        return TOKENS_PER_FRAME / self.ratio * TOKEN_BYTES

    @property
    def measured(self) -> float:
        """Bytes of a frame in the memory."""
        return (self.memory - self.text * TOKEN_BYTES) / self.frames


TOKEN_BYTES = kv_bytes_per_token(
    WIDE["num_hidden_layers"], WIDE["num_key_value_heads"], WIDE["head_dim"], torch.float32
)


def measure(clip: Path, frames: int, ratio: int) -> Arm:
    """Watch in this process."""
    system = random_system(WIDE | {"beacon_ratio": [ratio]}, {})
    with longtake.open_video(clip) as video:
        few = next(video.read(range(32), chunk=32))
    system.ask(system.watch(few, max_frames=32), "What happens?")  # pages code in
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest size is counted anew
    memory = system.watch(clip, max_frames=frames)
    return Arm(
        frames=frames,
        ratio=ratio,
        before=before,
        peak=resident("VmHWM"),
        memory=memory.bytes,
        text=memory.windows[0].start,
        wall=memory.stats.watch_seconds,
    )


def apart(clip: Path, frames: int, ratio: int) -> Arm:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--one", str(clip), str(frames), str(ratio)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    arm = Arm(**json.loads(done.stdout))
    print(f"{frames} frames, ratio {ratio}: {arm.above:.1f} MiB in {arm.wall:.0f} s", flush=True)
    return arm


def growth(arms: Sequence[Arm]) -> float:
    """How much the peak grows from the fewest to the most frames, as a multiple of the memory."""
    first, last = arms[0], arms[-1]
    return (last.above - first.above) * MIB / (last.memory - first.memory)


def table(arms: Sequence[Arm]) -> Iterator[str]:
    """Rows by number of frames."""
    yield "| frames | keys and values MiB | peak above the model MiB | besides MiB | s |"
    yield "|---|---|---|---|---|"
    for arm in arms:
        held = arm.memory / MIB
        beside = arm.above - held
        yield f"| {arm.frames} | {held:.1f} | {arm.above:.1f} | {beside:.1f} | {arm.wall:.0f} |"


def ratio_table(arms: Sequence[Arm]) -> Iterator[str]:
    """Rows by ratio."""
    yield "| ratio | bytes of a frame | 144 / ratio x bytes of a token | peak above the model MiB |"
    yield "|---|---|---|---|"
    for arm in arms:
        sizes = f"{arm.measured:,.0f} | {arm.formula:,.0f}"
        yield f"| {arm.ratio} | {sizes} | {arm.above:.1f} |"


def draw(arms: Sequence[Arm], target: Path) -> None:
    """Peak and memory by number of frames."""
    counts = [arm.frames for arm in arms]
    whole = [arm.frames * TOKENS_PER_FRAME * TOKEN_BYTES / MIB for arm in arms]
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    axes.plot(counts, [arm.above for arm in arms], "o-", label="peak above the loaded model")
    kept = [arm.memory / MIB for arm in arms]
    axes.plot(counts, kept, "s--", label=f"keys and values at ratio {RATIO}")
    axes.plot(counts, whole, ":", color="grey", label="keys and values of every token")
    axes.set(xlabel="frames watched of a long video", ylabel="MiB", ylim=(0, 2 * arms[-1].above))
    axes.set_title("Watching grows by what it keeps")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(target, dpi=120)


def main() -> None:
    """All arms, tables and plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/longtake-footage"))
    parser.add_argument("--seconds", type=int, default=SECONDS, help="length of the video")
    parser.add_argument("--counts", type=int, nargs="+", default=FRAME_COUNTS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        clip, frames, ratio = options.one
        print(json.dumps(asdict(measure(Path(clip), int(frames), int(ratio)))))
        return
    clip = footage.make(options.folder, seconds=options.seconds, gop=50)
    arms = [apart(clip, frames, RATIO) for frames in options.counts]
    ratios = [apart(clip, options.counts[0], ratio) for ratio in RATIOS]
    grown = f"From the first row to the last the peak grows {growth(arms):.2f} times the memory."
    by_ratio = f"By ratio, at {options.counts[0]} frames; a token takes {TOKEN_BYTES:,} bytes."
    lines = [*table(arms), "", grown, "", by_ratio, "", *ratio_table(ratios)]
    text = "\n".join(lines)
    print(text)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "av"))
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} thread(s)"
    machine = f"{platform.machine()}, {cores}, Python {platform.python_version()}"
    head = f"`{shlex.join(['python', *sys.argv])}` on {machine}; {packages}; fp32.\n"
    options.results.mkdir(exist_ok=True)
    page = f"# Peak memory of Video-XL\n\n{head}\n{text}\n\n![plot](video_xl_memory.png)\n"
    (options.results / "video_xl_memory.md").write_text(page)
    draw(arms, options.results / "video_xl_memory.png")


if __name__ == "__main__":
    main()
