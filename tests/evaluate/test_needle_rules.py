"""Places, labels, words of answers: tables."""

import pytest

from longtake.errors import OptionError
from longtake.evaluate.needle_rules import (
    CLEAN,
    LONGVA,
    VIDEO_XL,
    VIDEOCHAT_FLASH,
    Depth,
    depths_by,
    depths_of,
    last_of,
    matches,
    parse_counts,
    parse_percents,
    parted,
    rule_named,
    spread,
)


def at(share: float) -> Depth:
    return Depth(share=share, label=0.0)


def test_labels_and_float_artefacts_of_the_originals_loop() -> None:
    assert [d.share for d in depths_by(LONGVA, 0.2)][3] == 0.6000000000000001
    assert [d.share for d in depths_by(LONGVA, 0.3)][-1] == pytest.approx(1.2)
    assert [d.label for d in depths_by(LONGVA, 0.25)] == [0, 20, 50, 80, 100]
    assert [d.label for d in depths_of(CLEAN, [0, 25, 75])] == [0, 25, 75]
    assert [d.share for d in depths_by(CLEAN, 0.3)][-1] <= 1.0, "nothing is behind the end"
    assert [d.share for d in depths_of(VIDEO_XL, [29])] == [29 * 0.01]


@pytest.mark.parametrize(
    ("rule", "share", "before", "after"),
    [
        (LONGVA, 0.0, [], [0, 1, 2, 3]),
        (LONGVA, 0.6, [0, 1], [2, 3]),
        (LONGVA, 1.0, [0, 1, 2, 3], []),
        (LONGVA, 1.2, [0, 1, 2, 3], []),
        (LONGVA, 1.5, [0, 1, 2, 3, 4, 5], []),
        (LONGVA, 2.0, [0, 1, 2, 3, 4, 5, 6], []),
        (CLEAN, 0.0, [], [1, 2, 3]),
        (CLEAN, 0.5, [0, 1], [3]),
        (CLEAN, 1.0, [0, 1, 2], []),
        (VIDEO_XL, 0.5, [0, 1], [2, 3]),
    ],
)
def test_parts(rule: object, share: float, before: list[int], after: list[int]) -> None:
    """Of 7 rows there are, 4 make up the length."""
    assert parted(rule, [0, 1, 2, 3], at(share), 7) == (before, after)


def test_a_chain_is_spread_as_the_original_spreads_it() -> None:
    """As its loop says: segments from int((i-1) * n / (m-1)) to int(i * n / (m-1))."""
    for frames in (4, 10, 11):
        for needles in (2, 3, 5, 7):
            step = frames / (needles - 1)
            cuts = [(int((i - 1) * step), int(i * step)) for i in range(1, needles)]
            wanted = [[], *(list(range(a, b)) for a, b in cuts), []]
            assert spread(VIDEOCHAT_FLASH, range(frames), needles) == wanted
    groups = spread(CLEAN, range(10), 3)
    assert groups == [[], [1, 2, 3], [5, 6, 7, 8], []]
    assert sum(map(len, groups)) == 10 - 3, "each needle takes a frame's place"
    for frames, needles, said in ((10, 1, "2 needles or more"), (2, 3, "do not fit")):
        with pytest.raises(OptionError, match=said):
            spread(CLEAN, range(frames), needles)


@pytest.mark.parametrize(
    ("rule", "said", "wanted", "right"),
    [
        (CLEAN, "42", "42", True),
        (CLEAN, "The number is 42.", "42", True),
        (CLEAN, "142", "42", False),
        (CLEAN, "red", "Red", True),
        (CLEAN, "a bored man", "red", False),
        (CLEAN, "B", "B", True),
        (CLEAN, "(B) a dog", "B", True),
        (CLEAN, "A dog, so B", "B", False),
        (CLEAN, "", "B", False),
        (CLEAN, "There are 5.", "5", True),
        (CLEAN, "There are 15.", "5", False),
        (CLEAN, "It says \u732b.", "\u732b", True),
        (CLEAN, "New York City", "new york", True),
        (VIDEO_XL, "C) fighting", "C", True),
        (VIDEO_XL, "fight) C", "C", False),
        (VIDEOCHAT_FLASH, "(a)", "A", True),
        (VIDEOCHAT_FLASH, "(", "A", False),
        (LONGVA, " Yellow ", "Yellow", True),
        (LONGVA, "yellow", "Yellow", False),
    ],
)
def test_what_counts(rule: object, said: str, wanted: str, right: bool) -> None:
    assert matches(rule, said, wanted) is right


def test_numbers_as_users_write_them() -> None:
    assert parse_counts("64, 256,1024") == [64, 256, 1024]
    assert parse_counts("4-12:4,6") == [4, 6, 8, 12]
    assert parse_counts("200-3000:700") == [200, 900, 1600, 2300, 3000]
    assert last_of("200-2999:700") == 2999
    assert last_of("64,256") == 256
    assert parse_percents("0, 50,100,50") == [0, 50, 100]
    for said in ("", "a", "0", "8-4:2", "4-8:0", "4-8", "1,,2", "1-9999999:1", "\u0661"):
        with pytest.raises(OptionError, match="frames"):
            parse_counts(said)
    for said in ("", "x", "nan", "1;2"):
        with pytest.raises(OptionError, match="depths must be"):
            parse_percents(said)
    for percent in (-1.0, 101.0):
        with pytest.raises(OptionError, match="0 to 100"):
            depths_of(CLEAN, [percent])
    with pytest.raises(OptionError, match="clean, longva"):
        rule_named("none")
