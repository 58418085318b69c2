"""Drops as users write them. Other wishes are in tests/test_condense.py."""

from __future__ import annotations

import pytest

from longtake.errors import OptionError
from longtake.parts.dropping import Schedule
from longtake.wishes import PRESETS, schedule_of

CARD = Schedule(kind="uniform0_attention", layers=(4, 18), ratios=(1.0, 0.75, 0.25))
LAST = Schedule(kind="attention", layers=(24,), ratios=(1.0, 0.5))


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("4,18:1,0.75,0.25", CARD),
        ("uniform0_attention:4,18:1,0.75,0.25", CARD),
        ("attention:24:1,0.5", LAST),
        ("uniform:3:1,0.4", Schedule(kind="uniform", layers=(3,), ratios=(1.0, 0.4))),
        (
            "uniform1_attention:1,2,4:1.0,0.9,0.5,0.25",
            Schedule(kind="uniform1_attention", layers=(1, 2, 4), ratios=(1.0, 0.9, 0.5, 0.25)),
        ),
        (" 4 , 18 : 1 , 0.75 , 0.25 ", CARD),
        ("4.0,18:1,0.75,0.25", CARD),
        ("1:1,1", Schedule(layers=(1,), ratios=(1.0, 1.0))),
        ("card", CARD),
        (
            "repository",
            Schedule(kind="attention", layers=(8, 16, 24), ratios=(1.0, 0.5, 0.25, 0.125)),
        ),
        (LAST, LAST),
        ("off", None),
    ],
)
def test_what_is_said_is_what_is_meant(said: str | Schedule, meant: Schedule | None) -> None:
    assert schedule_of(said) == meant
    assert schedule_of(said, stated=LAST) == meant
    if meant is not None:
        assert all(type(layer) is int for layer in meant.layers)


def test_presets_are_written_out() -> None:
    for name, schedule in PRESETS.items():
        layers = ",".join(map(str, schedule.layers))
        ratios = ",".join(map(str, schedule.ratios))
        assert schedule_of(f"{schedule.kind}:{layers}:{ratios}") == schedule_of(name)
        schedule.check_depth(28)


def test_what_the_config_states() -> None:
    assert schedule_of("config", LAST) is LAST
    with pytest.raises(OptionError, match="states no drop that fits this model; give one"):
        schedule_of("config")


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ("18,4:1,0.75,0.25", r"that rise, got \[18, 4\]"),
        ("4,4:1,0.75,0.25", "that rise"),
        ("0:1,0.5", "from 1"),
        ("2.5:1,0.5", r"whole numbers from 1 that rise, got \[2.5\]"),
        ("4,18:1,0.25,0.75", "never rise"),
        ("4:1,1.5", "never rise"),
        ("4:0.5,0.25", "start at 1"),
        ("4:1,0", "above 0"),
        ("4,18:1,0.75", "needs 3 ratios for 2 layers"),
        ("4:1,0.75,0.25", "needs 2 ratios for 1 layers"),
        ("4:1", "needs 2 ratios"),
        ("median:4:1,0.5", "kind 'median' is unknown"),
        ("4:18:1,0.5", "kind '4' is unknown"),
        (":4:1,0.5", "kind '' is unknown"),
    ],
)
def test_lists_that_mean_nothing(said: str, match: str) -> None:
    with pytest.raises(OptionError, match=match):
        schedule_of(said)


@pytest.mark.parametrize(
    "said",
    [
        "",
        " ",
        ":",
        "::",
        ":::",
        "4",
        "4,18",
        "4:",
        ":1,0.5",
        "4,:1,0.5",
        "-4:1,0.5",
        "4:1,-0.5",
        "4:1,.5",
        "4:1,5e-1",
        "4:1,nan",
        "inf:1,0.5",
        "4:1;0.5",
        "uniform:4:1,0.5:8",
        "\N{ARABIC-INDIC DIGIT FOUR}:1,0.5",
        "9999999:1,0.5",
        "4:1,0.1234567890",
        "Off",
        "card ",
        "x" * 100_000,
        ":" * 100_000,
        "4:" + "1," * 50_000 + "x",
        5,
        [4],
        {"layers": 4},
        b"4:1,0.5",
    ],
    ids=lambda said: repr(said)[:20],
)
def test_nonsense_is_told_in_one_short_line(said: str) -> None:
    with pytest.raises(OptionError, match="drop must be layers and ratios such as 4,18:1") as error:
        schedule_of(said)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250


def test_long_lists_are_told_briefly() -> None:
    with pytest.raises(OptionError, match=r"needs 2 ratios for 1 layers: .*; got 50001"):
        schedule_of("4:" + "1," * 50_000 + "1")
    layers = ",".join(map(str, range(900, 0, -1)))
    with pytest.raises(OptionError, match="that rise") as error:
        schedule_of(f"{layers}:1")
    assert len(str(error.value)) < 250
    with pytest.raises(OptionError, match="unknown") as error:
        schedule_of(f"{'x' * 100_000}:4:1,0.5")
    assert len(str(error.value)) < 250
