"""What evidence costs while an answer is written: one decoded token, with and without it.

    python benchmarks/evidence_cost.py

Layers of the sizes of Qwen2-0.5B and Qwen2-7B with random weights, fp32. Turns alternate, so that
other load falls on both; CPU time, not wall time.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from longtake.engine import Observer
from longtake.parts.cache import GrowingCache
from longtake.parts.qwen2 import Decoder, DecoderConfig, Step
from longtake.parts.rope import Rope
from longtake.types import Entry

RESULTS = Path(__file__).parent / "results"
LAYERS = 4
HEAD_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of a layer."""

    name: str
    hidden: int
    heads: int
    kv_heads: int
    mlp: int


SIZES = (
    Size(name="0.5B", hidden=896, heads=14, kv_heads=2, mlp=4864),
    Size(name="7B", hidden=3584, heads=28, kv_heads=4, mlp=18944),
)


def decoder_of(size: Size) -> Decoder:
    """Layers with random weights."""
    torch.manual_seed(0)
    return Decoder(
        DecoderConfig(
            hidden=size.hidden,
            layers=LAYERS if size.hidden < 2000 else 1,
            heads=size.heads,
            kv_heads=size.kv_heads,
            head_dim=size.hidden // size.heads,
            mlp=size.mlp,
            vocab=16,
            eps=1e-6,
            rope=Rope(theta=1e6),
        )
    ).eval()


@torch.no_grad()
def measured(size: Size, frames: int, each: int, turns: int) -> tuple[float, float]:
    """Milliseconds of a token without and with evidence, medians of alternating turns."""
    decoder, tokens = decoder_of(size), frames * each
    cache = GrowingCache(tokens)
    width = size.hidden // size.heads
    for layer in range(len(decoder.layers)):
        cache.update(*torch.randn(2, 1, size.kv_heads, tokens, width), layer)
    entries = [
        Entry(start=each * n, stop=each * (n + 1), seconds=HEAD_SECONDS * n / frames)
        for n in range(frames)
    ]
    observer = Observer(entries, cache.rows_of)
    x_BSD = torch.randn(1, 1, size.hidden)

    def token(observe: Callable[[int, torch.Tensor], None] | None) -> float:
        cache.rewind(tokens)
        step = Step(positions_BS=torch.tensor([[tokens]]), cache=cache, observe=observe)
        began = time.process_time()
        decoder(x_BSD, step)
        return 1000 * (time.process_time() - began)

    pairs = [(token(None), token(observer)) for _ in range(turns + 2)][2:]
    off, on = (statistics.median(side) for side in zip(*pairs, strict=True))
    return off, on


def main() -> None:
    """Parse, run, write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    about = f"{platform.machine()} CPU, 1 thread, torch {torch.__version__}; CPU time per layer of "
    about += f"a token in ms, medians of {args.turns} alternating turns, beside other load."
    lines = [
        "# Evidence: what it costs while an answer is written",
        "",
        f"`python benchmarks/evidence_cost.py --turns {args.turns}`",
        "",
        about,
        "",
        "| layer of | frames | keys | without | with | more |",
        "|---|---|---|---|---|---|",
    ]
    for size in SIZES:
        for frames, each in ((64, 144), (256, 144), (1000, 16), (10_000, 16)):
            off, on = measured(size, frames, each, args.turns)
            layers = LAYERS if size.hidden < 2000 else 1
            more = f"{100 * (on / off - 1):+.1f} %"
            keys = f"{frames * each:,}"
            row = (
                size.name,
                f"{frames:,}",
                keys,
                f"{off / layers:.2f}",
                f"{on / layers:.2f}",
                more,
            )
            lines.append(f"| {' | '.join(row)} |")
            print(lines[-1], flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "evidence_cost.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
