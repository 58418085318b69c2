"""Plans: tokens and bytes against what watching really makes, what fits, what is refused."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from longtake.fitting import Fitting
from longtake.needs import MARGIN
from longtake.system import System
from longtake.targets import Where, fitting_of
from longtake.video.decode import open_video
from longtake.video.sample import Footage
from tests.clips import write_clip
from tests.peak import Case, measured
from tests.sized import WIDE, bare, filled, sized

SYSTEMS = ("longva", "video_xl", "videochat_flash", "llava_onevision")
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "longva": (
        {},
        {"pool": "paper"},
        {"pool": "off"},
        {"kv": "int8"},
        {"kv": "int4"},
        {"extend": "yarn:4"},
        {"extend": "visual-window:window=500"},
    ),
    "video_xl": (
        {},
        {"ratio": 2},
        {"ratio": 16, "place": "append"},
        {"ratio": "2,4,8", "mix": "sequence"},
        {"ratio": 8, "fine": 2, "budget": "1GiB"},
        {"kv": "int8"},
        {"kv": "int4", "extend": "visual-window"},
    ),
    "videochat_flash": (
        {},
        {"drop": "2,5:1,0.75,0.25"},
        {"drop": "uniform:2,5:1,0.75,0.25"},
        {"drop": "attention:3:1,0.5"},
        {"drop": "2,5:1,0.75,0.25", "kv": "int8"},
        {"extend": "linear:2"},
    ),
    "llava_onevision": (
        {},
        {"pool": "fine", "pool_mode": "area"},
        {"pool": "2,8,4", "extend": "visual-window:window=500"},
        {"kv": "int4"},
    ),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planned")


@pytest.fixture(scope="module")
def clip(home: Path) -> Path:
    return write_clip(home / "forty.mp4", 40, rate=1)


@pytest.fixture(scope="module")
def folders(home: Path) -> dict[str, Path]:
    """A folder without weights for each system."""
    return {name: sized(home / name, name, {}, {}) for name in SYSTEMS}


@pytest.fixture(scope="module")
def grown(folders: dict[str, Path]) -> dict[str, System]:
    """A working model of each."""
    return {name: filled(bare(folder)) for name, folder in folders.items()}


def weighed(made: System, clip: Path, where: Where | None = None) -> Fitting:
    """What a plan weighs a clip with, sizes alone."""
    where = where or Where(device=torch.device("cpu"), name="cpu", memory=2**34)
    with open_video(clip) as video:
        footage = Footage(frames=video.frames, fps=video.fps)
        return fitting_of(made, video, footage, where)


# -- predictions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name, every in OPTIONS.items() for options in every],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value),
)
@pytest.mark.parametrize("frames", [13])
def test_tokens_and_bytes_are_those_of_watching(
    name: str,
    options: dict[str, Any],
    frames: int,
    folders: dict[str, Path],
    grown: dict[str, System],
    clip: Path,
) -> None:
    memory = grown[name].variant(**options).watch(str(clip), max_frames=frames)
    made = bare(folders[name]).variant(**options)
    fitting = weighed(made, clip)
    needs, showing = fitting.needs(frames), fitting.showing(frames)
    tokens = made.arranged(showing.frames)
    assert tokens is not None
    assert showing.frames == memory.stats.frames
    assert tokens == memory.stats.visual_tokens
    copies = 2 if "fine" in options else 1
    rows = max(made.rows(tokens, showing.text))
    coarse = sum(made.copies(tokens, tokens)[:1]) if copies == 2 else rows - showing.text
    assert memory.length == coarse + showing.text
    assert needs.memory == memory.bytes


def test_with_content_adaptive_windows_the_plan_is_a_bound(
    folders: dict[str, Path], grown: dict[str, System], clip: Path
) -> None:
    options = {"dynamic": True, "average_ratio": 4, "ratio": "2,4,8"}
    memory = grown["video_xl"].variant(**options).watch(str(clip), max_frames=13)
    needs = weighed(bare(folders["video_xl"]).variant(**options), clip).needs(13)
    assert 0.9 * memory.bytes <= needs.memory <= 1.1 * memory.bytes


HEAVY = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4}
PEAKS = (
    ("longva", 64, WIDE, {}, "float32"),
    ("video_xl", 64, WIDE, {"ratio": 2}, "float32"),
    ("videochat_flash", 640, WIDE, {"drop": "2,5:1,0.75,0.25"}, "float32"),
    ("llava_onevision", 48, WIDE, {"kv": "int8"}, "float32"),
)


def within(predicted: float, found: float, share: float = MARGIN) -> bool:
    return abs(predicted - found) <= share * found


def check_peaks(cases: Iterator[Case], home: Path) -> None:
    """Measure, and compare with what was foretold; all that are off are shown."""
    every = list(cases)
    off = []
    for number, (case, taken) in enumerate(zip(every, measured(every), strict=True)):
        folder = sized(home / f"peak{number}", case.system, case.config, case.tower)
        made = bare(folder, dtype=case.dtype).variant(**case.options)
        fitting = weighed(made, Path(case.clip))
        showing = replace(fitting.showing(case.frames), answer=2, question=taken.question)
        needs = made.needs(showing, fitting.place)
        pairs = ((needs.watching, taken.watching), (needs.asking, taken.asking))
        if not all(within(*pair) for pair in pairs) or needs.memory != taken.memory:
            off.append((case, pairs, needs))
    assert off == []


def test_the_peak_of_real_processes(home: Path) -> None:
    """Resident size above the weights, at sizes where keys and values are most of it."""
    clip = write_clip(home / "long.mp4", 640, rate=1)
    cases = (
        Case(system=name, clip=str(clip), frames=frames, config=config, options=options)
        for name, frames, config, options, _ in PEAKS
    )
    check_peaks(cases, home)
