"""Confidence intervals of shares."""

from __future__ import annotations

from math import sqrt

Z = 1.959963984540054
"""Standard normal quantile of a two-sided interval of 95 %."""


def wilson(right: int, asked: int) -> tuple[float, float]:
    """95 % interval of a share, 0 to 1 (Wilson 1927); all of it where nothing was asked."""
    if not 0 <= right <= asked:
        raise ValueError(f"{right} of {asked} is no share")
    if not asked:
        return 0.0, 1.0
    share, weight = right / asked, Z * Z / asked
    middle = share + weight / 2
    reach = Z * sqrt(share * (1 - share) / asked + weight / (4 * asked))
    # rounding must not leave the interval's own ends, 0 and 1
    low, high = (middle - reach) / (1 + weight), (middle + reach) / (1 + weight)
    return (0.0 if right == 0 else low), (1.0 if right == asked else high)


def percent(right: int, asked: int) -> str:
    """A share and its interval in per cent: "95.0 (91.9-96.9)", "-" where nothing was asked."""
    if not asked:
        return "-"
    low, high = wilson(right, asked)
    return f"{100 * right / asked:.1f} ({100 * low:.1f}-{100 * high:.1f})"
