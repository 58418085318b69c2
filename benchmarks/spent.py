"""Where CPU time goes, by torch's profiler; of threads besides this one it sees nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch.profiler import ProfilerActivity, profile

PRODUCTS = {
    *("mm", "addmm", "bmm", "baddbmm", "linear", "matmul"),
    *("mkldnn_linear", "mkldnn_convolution"),
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the calls of one operation took."""

    seconds: float
    """CPU time of its own."""
    calls: int


def spent(work: Callable[[], object]) -> dict[str, Cost]:
    """Costs of the operations that `work` calls, by name, the dearest first."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    return {
        event.key: Cost(seconds=event.self_cpu_time_total / 1e6, calls=event.count)
        for event in events
    }


def is_product(name: str) -> bool:
    """Whether an operation is a matrix product, a convolution or fused attention."""
    return name.split("::")[-1] in PRODUCTS or "scaled_dot_product" in name


def seconds_of(costs: Mapping[str, Cost]) -> tuple[float, float]:
    """Of products and attention, and of everything."""
    products = sum(cost.seconds for name, cost in costs.items() if is_product(name))
    return products, sum(cost.seconds for cost in costs.values())


def spending(costs: Mapping[str, Cost], rows: int = 15) -> str:
    """The share of products, then the dearest operations."""
    products, total = seconds_of(costs)
    share = f"{products / total:.1%} of {total:.1f} s of CPU time"
    lines = [
        f"Matrix products, convolutions and attention: {share}.",
        "",
        "| operation | own s | share | calls |",
        "|---|---|---|---|",
    ]
    for name, cost in list(costs.items())[:rows]:
        share = f"{cost.seconds:.2f} | {cost.seconds / total:.1%}"
        lines.append(f"| {name} | {share} | {cost.calls} |")
    return "\n".join(lines)
