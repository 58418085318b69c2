"""Mistakes that need no torch to be seen: told at once, and before anything is made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from longtake import choices
from longtake.folder import DTYPES
from longtake.parts.pooling import PoolMode
from longtake.parts.quantise import BITS
from longtake.parts.windows import Place
from longtake.systems import SYSTEMS
from tests.clips import write_clip
from tests.evaluate.benchmarks import MAKERS
from tests.test_cli import ENVIRONMENT, MODEL, error_line, run

EVAL = ["eval", "mlvu", "--annotations", "mlvu/json", "--videos", "mlvu/videos"]
CASES: list[tuple[list[str], int, str]] = [
    (["ask", "missing.mp4", "What?"], 3, "missing.mp4: no such file"),
    (["ask", "ten.mp4", "What?", "--model", "./nowhere"], 4, "'./nowhere' does not exist"),
    (["ask", "ten.mp4", "What?", "--model", "empty"], 4, "empty is no model folder"),
    (["ask", "ten.mp4", "What?", "--vision-tower", "./nowhere"], 4, "'./nowhere' does not exist"),
    (["ask", "ten.mp4", "What?", "--temperature", "-1"], 2, "temperature must be 0"),
    (["ask", "ten.mp4", "What?", "--top-p", "3"], 2, "top_p must be in (0, 1]"),
    (["ask", "ten.mp4", "What?", "--dtype", "float33"], 2, "dtype 'float33' is unknown"),
    (["ask", "ten.mp4", "What?", "--system", "longvb"], 2, "system 'longvb' is unknown"),
    (["ask", "ten.mp4", "What?", "--kv", "int3"], 2, "kv 'int3' is unknown"),
    (["ask", "ten.mp4", "What?", "--ratio", "eight"], 2, "ratio must be whole numbers"),
    (["ask", "ten.mp4", "What?", "--ratio", "8,0"], 2, "ratio must be a whole number from 1"),
    (["ask", "ten.mp4", "What?", "--window", "-5"], 2, "window must be a whole number from 1"),
    (["ask", "ten.mp4", "What?", "--mix", "random"], 2, "mix 'random' is unknown"),
    (["ask", "ten.mp4", "What?", "--start", "nan"], 2, "start must be a time in seconds"),
    (["ask", "ten.mp4", "What?", "--start", "5", "--end", "2"], 2, "no frame lies between 5 s"),
    (["ask", "ten.mp4", "What?", "--max-frames", "1000001"], 2, "not a number from 1 to 1000000"),
    (["ask", "ten.mp4", "What?", "--evidence", "seen.text"], 2, "cannot save a picture as"),
    (["inspect", "ten.mp4", "--timeline", "nowhere/seen.png"], 2, "nowhere is no folder"),
    (["chat", "missing.mp4"], 3, "missing.mp4: no such file"),
    (["watch", "missing.mp4", "--library", "kept"], 3, "missing.mp4: no such file"),
    (["watch", "ten.mp4", "--library", "kept", "--pool-mode", "cubic"], 2, "pool mode 'cubic'"),
    (["plan", "missing.mp4"], 3, "missing.mp4: no such file"),
    (["plan", "ten.mp4", "--model", "empty"], 4, "empty is no model folder"),
    (["plan", "ten.mp4", "--memory", "much"], 2, "memory must be bytes such as"),
    (["inspect", "missing.mp4"], 3, "missing.mp4: no such file"),
    (["inspect", "empty"], 4, "holds no config.json but nothing"),
    (["inspect", "other"], 4, "holds no config.json but 0.txt, 1.txt, 2.txt and 1 more"),
    (["inspect", "ten.mp4", "--ratio", "8"], 2, "ratio is of a model"),
    (["inspect", "default", "--dtype", "float33"], 2, "dtype 'float33' is unknown"),
    (["needle", "missing.mp4", "--out", "X/Y"], 3, "missing.mp4: no such file"),
    (["needle", "ten.mp4", "--out", "X/Y", "--rule", "none"], 2, "rule 'none' is unknown"),
    (["needle", "ten.mp4", "--out", "X/Y", "--frames", "x"], 2, "frames must be numbers"),
    (["needle", "ten.mp4", "--out", "X/Y", "--cards", "0"], 2, "cards must be 1 or more"),
    (["needle", "ten.mp4", "--out", "X/Y", "--needles", "nowhere"], 2, "nowhere does not exist"),
    (["needle", "ten.mp4", "--out", "X/Y", "--model", "empty"], 4, "empty is no model folder"),
    (["needle", "no.txt", "--out", "X/Y", "--kind", "text"], 2, "no.txt is no text"),
    (["needle", "ten.mp4", "--out", "ten.mp4/Y"], 2, "ten.mp4 is a file"),
    (["eval", "mlvu", "--annotations", "nowhere"], 8, "neither a file nor a folder"),
    ([*EVAL, "--model", "./nowhere"], 4, "'./nowhere' does not exist"),
    ([*EVAL, "--dtype", "float33"], 2, "dtype 'float33' is unknown"),
    ([*EVAL, "--top-k", "-1"], 2, "top_k must be 0 (off) or more"),
    ([*EVAL, "--out", "ten.mp4/Y"], 2, "ten.mp4 is a file"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    write_clip(place / "ten.mp4", 10)
    (place / "mlvu").mkdir()
    made = MAKERS["mlvu"](place / "mlvu")
    assert (made.annotations, made.videos) == (place / "mlvu/json", place / "mlvu/videos")
    (place / "empty").mkdir()
    (place / "other").mkdir()
    for number in range(4):
        (place / "other" / f"{number}.txt").touch()
    return place


def test_mistakes_are_told_before_torch_comes_and_leave_nothing(place: Path) -> None:
    """One process for all: what has come once is there for good, so the first culprit is named."""
    code = (
        "import json, sys\n"
        "from typer.testing import CliRunner\n"
        "from longtake.cli import app\n"
        "for words in json.load(sys.stdin):\n"
        "    told = CliRunner().invoke(app, words)\n"
        "    heavy = sorted({'torch', 'transformers'} & set(sys.modules))\n"
        "    print(json.dumps([told.exit_code, told.stderr, told.stdout, heavy]))\n"
    )
    before = sorted(place.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([words for words, _, _ in CASES]),
        env=ENVIRONMENT,
        cwd=place,
        text=True,
        capture_output=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    for (words, code_wanted, told), line in zip(CASES, lines, strict=True):
        exit_code, err, out, heavy = json.loads(line)
        assert (exit_code, out, heavy) == (code_wanted, "", []), (words, err)
        assert told in err, words
        assert err.count("\n") == 1, err
    assert sorted(place.rglob("*")) == before


def test_haystacks_that_are_too_short_leave_no_folder(place: Path) -> None:
    words = ("--frames", "64", "--depths", "0", "--cards", "1", "--device", "cpu")
    result = run("needle", place / "ten.mp4", "--model", MODEL, *words, "--out", place / "X")
    assert result.exit_code == 2
    assert "10 frames in all, 64 are asked" in error_line(result)
    assert not (place / "X").exists()


def test_what_is_known_without_torch_is_what_there_is() -> None:
    assert tuple(SYSTEMS) == choices.SYSTEMS
    assert tuple(DTYPES) == choices.DTYPE_NAMES
    assert ("full", *BITS) == choices.KV
    assert get_args(PoolMode) == choices.POOL_MODES
    assert get_args(Place) == choices.PLACES
