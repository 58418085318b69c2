"""Two levels on a trained model: what the question asks for is found and read finely."""

from benchmarks.bilevel import COARSE, FINE, measure, recovered
from benchmarks.ledger import trained


def test_two_levels_close_half_of_the_gap_at_the_bytes_of_ratio_12() -> None:
    """60 questions; over 500 it is 69 % of the gap (benchmarks/results/bilevel.md)."""
    how = {"rows": 6, "windows": 24, "questions": 10}
    points = measure(trained(), **how, ratios=(COARSE, FINE), bytes_of=(12,))
    by = {(point.kind, point.ratio): point for point in points}
    assert by["one level", FINE].share > by["one level", COARSE].share + 0.3
    assert recovered(points) >= 0.5
    assert by["two levels", 12].share > by["random windows", 12].share + 0.2
    assert by["two levels", 12].kib * 1024 <= (1 + 24 * 32 // 12) * 3072
