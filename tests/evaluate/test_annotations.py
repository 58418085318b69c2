"""Annotations are read in the published layouts; what is wrong with a row is one clear line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.evaluate.benchmarks import MAKERS, dump

from longtake.errors import AnnotationError, LongtakeError, OptionError
from longtake.evaluate.annotations import digest_of, read_rows
from longtake.evaluate.benchmarks import open_benchmark
from longtake.evaluate.options import split_options
from longtake.evaluate.predictions import read_predictions

DROPPED = {
    "video-mme": "options",
    "mlvu": "video",
    "longvideobench": "correct_choice",
    "lvbench": "key",
    "vnbench": "gt",
    "mvbench": "question",
}


def spoil(path: Path, name: str, value: Any = None) -> str:
    """Take a field of the second-last row away, or give it another value; the file it is in."""
    file = sorted(path.iterdir())[-1] if path.is_dir() else path
    text = file.read_text()
    lines = file.suffix == ".jsonl"
    rows = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
    rows[-1].pop(name)
    if value is not None:
        rows[-1][name] = value
    dump(file, rows)
    return f"{file.name}: row {len(rows)}"


@pytest.mark.parametrize(("name", "field"), DROPPED.items())
@pytest.mark.parametrize("value", [None, 3.5, [], {"a": 1}])
def test_a_malformed_row_is_one_line_that_says_where(
    name: str, field: str, value: Any, tmp_path: Path
) -> None:
    made = MAKERS[name](tmp_path)
    where = spoil(made.annotations, field, value)
    with pytest.raises(AnnotationError) as caught:
        open_benchmark(name, made.annotations)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(where)
    assert field in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is no JSON"),
        ("{}", "expected a list"),
        ("[]", "holds no rows"),
        ("[1]", "row 1 is 1, expected an object"),
        ("[" * 100_000, "is no JSON"),
        (b"\xff\xfe\x00", "is no text"),
    ],
)
def test_a_file_of_something_else_is_refused(
    content: str | bytes, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "rows.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(AnnotationError, match=told):
        read_rows(file)


def test_wrong_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="neither a file nor a folder"):
        read_rows(tmp_path / "nothing")
    with pytest.raises(AnnotationError, match="holds no file that ends in"):
        read_rows(tmp_path)
    (tmp_path / "rows.csv").write_text("a,b\n")
    with pytest.raises(AnnotationError, match="is no annotation file"):
        read_rows(tmp_path / "rows.csv")
    with pytest.raises(OptionError, match="no benchmark 'mme'; choose video-mme"):
        open_benchmark("mme", tmp_path)


def test_the_same_question_twice_is_refused(tmp_path: Path) -> None:
    made = MAKERS["video-mme"](tmp_path)
    rows = json.loads(made.annotations.read_text())
    dump(made.annotations, [*rows, rows[0]])
    with pytest.raises(AnnotationError, match="'001-1' is there twice"):
        open_benchmark("video-mme", made.annotations)


def test_unicode_line_breaks_end_no_json_line(tmp_path: Path) -> None:
    text = "What?\u2028Or\u0085who?"
    rows = [{"question": text}, {"question": "?"}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)
    (tmp_path / "a.jsonl").write_bytes(lines.encode())
    assert [row.values for row in read_rows(tmp_path / "a.jsonl")] == rows
    answer = {"question_id": "1", "response": text}
    (tmp_path / "p.jsonl").write_text(json.dumps(answer, ensure_ascii=False), encoding="utf-8")
    assert read_predictions(tmp_path / "p.jsonl").by_id == {"1": text}


def test_parquet_reads_as_json(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    made = MAKERS["video-mme"](tmp_path)
    rows = json.loads(made.annotations.read_text())
    file = tmp_path / "test-00000-of-00001.parquet"
    parquet.write_table(arrow.Table.from_pylist(rows), file)
    assert [row.values for row in read_rows(file)] == rows
    assert open_benchmark("video-mme", file) == open_benchmark("video-mme", made.annotations)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(AnnotationError, match="cannot be read as parquet"):
        read_rows(file)


def test_parquet_without_pyarrow_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(OptionError, match="pip install pyarrow, or give"):
        read_rows(tmp_path / "a.parquet")


def test_longvideobench_tables_give_the_same_examples(tmp_path: Path) -> None:
    made = MAKERS["longvideobench"](tmp_path)
    rows = json.loads(made.annotations.read_text())
    for row in rows:
        options = row.pop("candidates")
        columns = [*options, *["N/A"] * (5 - len(options))]
        row.update({f"option{n}": text for n, text in enumerate(columns)})
    tabled = open_benchmark("longvideobench", dump(tmp_path / "table.json", rows))
    assert tabled == open_benchmark("longvideobench", made.annotations)
    rows[0]["correct_choice"] = -1
    with pytest.raises(LongtakeError, match="test split"):
        open_benchmark("longvideobench", dump(tmp_path / "test.json", rows))


def test_mlvu_reads_options_in_the_question_as_in_a_list(tmp_path: Path) -> None:
    listed = {"question": "What?", "candidates": ["x", "y"], "answer": "y"}
    inside = {"question": "What?\n(A) x\n(B) y", "answer": "B"}
    ends = ({"video": "v.mp4", "question_type": "ego"}, {"video_name": "v.mp4", "task_type": "ego"})
    files = [
        dump(tmp_path / name / "mlvu.json", [row | end])
        for name, row, end in zip("ab", (listed, inside), ends, strict=True)
    ]
    assert open_benchmark("mlvu", files[0]) == open_benchmark("mlvu", files[1])


@pytest.mark.parametrize(
    ("question", "answer", "told"),
    [
        ("What?\nA. x\nB. y", "B", "no lines of options"),
        ("What?\n(A) x\n(B) y", "(B)", "'(B)', no letter of its 2 options"),
        ("What?\n(A) x\n(B) y", "banana", "'banana', no letter"),
        ("What?\n(A) x\n(B) y", "C", "'C', no letter"),
    ],
)
def test_options_in_the_question_must_be_there_and_hold_the_answer(
    question: str, answer: str, told: str, tmp_path: Path
) -> None:
    asked = {"question": question, "answer": answer}
    row = {"video_name": "v.mp4", "task_type": "ego", **asked}
    with pytest.raises(AnnotationError, match=f"a.json: row 1: .*{re.escape(told)}"):
        open_benchmark("mlvu", dump(tmp_path / "a.json", [row]))
    entry = {"uid": "0", "question_type": ["reasoning"], **asked}
    with pytest.raises(AnnotationError, match=f"row 1, question 1: .*{re.escape(told)}"):
        open_benchmark("lvbench", dump(tmp_path / "b.jsonl", [{"key": "yt1", "qa": [entry]}]))


def test_an_answer_that_is_no_option_has_no_letter(tmp_path: Path) -> None:
    row = {"video": "v.mp4", "question_type": "needle", "question": "?", "candidates": ["x"]}
    task = open_benchmark("mlvu", dump(tmp_path / "2_needle.json", [row | {"answer": "z"}]))
    assert task.example(0).answer == ""


def test_vnbench_must_ask_each_question_four_times(tmp_path: Path) -> None:
    made = MAKERS["vnbench"](tmp_path)
    rows = json.loads(made.annotations.read_text())[:-1]
    with pytest.raises(AnnotationError, match="2_cnt_edit1 is asked 3 times, expected 4"):
        open_benchmark("vnbench", dump(made.annotations, rows))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What?\n(A) x\n(B) y z", ("What?", ("x", "y z"))),
        ("What?", ("What?", ())),
        ("What?\n(B) x", ("What?\n(B) x", ())),
        ("Is (A) it?\n(A) x", ("Is (A) it?", ("x",))),
    ],
)
def test_options_are_split_from_a_question(
    text: str, expected: tuple[str, tuple[str, ...]]
) -> None:
    assert split_options(text) == expected


def test_the_digest_is_of_the_bytes(tmp_path: Path) -> None:
    made = MAKERS["mlvu"](tmp_path)
    before = digest_of(made.annotations)
    assert before == digest_of(made.annotations)
    spoil(made.annotations, "question", "Why?")
    assert digest_of(made.annotations) != before
