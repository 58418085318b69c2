"""Wilson's interval against its defining equation, its edges, and tabled values."""

from math import sqrt

import pytest

from longtake.evaluate.intervals import Z, percent, wilson


@pytest.mark.parametrize(("right", "asked"), [(0, 5), (1, 1), (3, 7), (50, 100), (299, 300)])
def test_ends_are_the_shares_whose_test_just_rejects_what_was_seen(right: int, asked: int) -> None:
    seen = right / asked
    for end in wilson(right, asked):
        spread = sqrt(end * (1 - end) / asked)
        inside = end in (0.0, 1.0)
        assert inside or abs(seen - end) == pytest.approx(Z * spread, rel=1e-9)


def test_known_values() -> None:
    assert wilson(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)
    assert wilson(8, 10) == pytest.approx((0.49016, 0.94331), abs=1e-5)
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(7, 7)
    assert 0.0 < low < high == 1.0


@pytest.mark.parametrize(("right", "asked"), [(-1, 3), (4, 3)])
def test_what_is_no_share_is_refused(right: int, asked: int) -> None:
    with pytest.raises(ValueError, match="is no share"):
        wilson(right, asked)


def test_as_text() -> None:
    assert percent(285, 300) == "95.0 (91.9-96.9)"
    assert percent(0, 0) == "-"
