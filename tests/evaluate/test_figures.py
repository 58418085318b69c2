"""Scores of recorded answers, in the published logs' layouts, against counts made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.evaluate.benchmarks import dump

from longtake.errors import AnnotationError
from longtake.evaluate.benchmarks import open_benchmark
from longtake.evaluate.predictions import read_predictions
from longtake.evaluate.prompts import STYLES
from longtake.evaluate.published import PUBLISHED, name_of, published_for
from longtake.evaluate.report import Report, compared, rescored
from longtake.evaluate.tasks import Task

LETTERS = "ABCD"


def scored(name: str, annotations: Path, predictions: Path, style: str = "official") -> Report:
    """Score recorded answers."""
    task: Task = open_benchmark(name, annotations)
    recorded = read_predictions(predictions)
    return rescored(task, STYLES[name][style], {"system": "video_xl"}, recorded.text_of)


def shares(report: Report) -> dict[str, float]:
    return {name_of(figure): round(figure.score, 4) for figure in report.figures}


def mme_rows() -> list[dict[str, Any]]:
    """Twelve questions: four a length of video, the first of them about sports."""
    return [
        {
            "video_id": f"{n // 2:03}",
            "videoID": f"v{n // 2}",
            "duration": ("short", "medium", "long")[n // 4],
            "domain": "Sports Competition" if n % 4 == 0 else "Knowledge",
            "sub_category": "Football" if n % 4 == 0 else "Geography",
            "task_type": "OCR Problems",
            "question_id": f"{n // 2:03}-{n % 2 + 1}",
            "question": f"Question {n}?",
            "options": [f"{letter}. {letter * 3}" for letter in LETTERS],
            "answer": LETTERS[n % 4],
        }
        for n in range(12)
    ]


def mme_said(rows: list[dict[str, Any]]) -> list[str]:
    """Right answers but for the last of the medium and the last three of the long videos."""
    wrong = {7, 9, 10, 11}
    letters = [LETTERS[(n + (n in wrong)) % 4] for n in range(len(rows))]
    return [f"{letter}. {letter * 3}" if n % 2 else letter for n, letter in enumerate(letters)]


MME = {
    "overall": 66.6667,
    "duration short": 100.0,
    "duration medium": 75.0,
    "duration long": 25.0,
    "domain Sports Competition": 100.0,
    "domain Knowledge": 55.5556,
    "category Football": 100.0,
    "category Geography": 55.5556,
    "task OCR Problems": 66.6667,
}


def old_log(rows: list[dict[str, Any]], texts: list[str]) -> Any:
    """lmms-eval to 0.2: one object."""
    logs = [
        {"doc_id": n, "doc": row, "resps": [[text]], "filtered_resps": [text]}
        for n, (row, text) in enumerate(zip(rows, texts, strict=True))
    ]
    return {"args": {}, "logs": logs, "time": ""}


def template(rows: list[dict[str, Any]], texts: list[str]) -> Any:
    """Video-MME's own, by video."""
    pairs = list(zip(rows, texts, strict=True))
    return [
        {
            "video_id": pairs[n][0]["video_id"],
            "questions": [row | {"response": text} for row, text in pairs[n : n + 2]],
        }
        for n in range(0, len(pairs), 2)
    ]


@pytest.mark.parametrize("layout", [old_log, template])
def test_video_mme_by_length_and_kind(layout: Any, tmp_path: Path) -> None:
    rows = mme_rows()
    annotations = dump(tmp_path / "mme.json", rows)
    log = tmp_path / "log.json"
    log.write_text(json.dumps(layout(rows, mme_said(rows))))
    report = scored("video-mme", annotations, log)
    assert shares(report) == MME
    assert report.complete
    assert report.unread == 0


def test_the_same_from_a_newer_log_of_samples(tmp_path: Path) -> None:
    rows = mme_rows()
    lines = [
        {"doc_id": n, "doc": row, "filtered_resps": text}
        for n, (row, text) in enumerate(zip(rows, mme_said(rows), strict=True))
    ]
    log = dump(tmp_path / "samples.jsonl", lines)
    assert shares(scored("video-mme", dump(tmp_path / "mme.json", rows), log)) == MME


def test_the_same_from_a_log_that_numbers_its_rows(tmp_path: Path) -> None:
    rows = mme_rows()
    lines = [
        {
            "doc_id": n,
            "target": "",
            "filtered_resps": text,
            "input": f"Select.\n{row['question']}\n",
        }
        for n, (row, text) in enumerate(zip(rows, mme_said(rows), strict=True))
    ]
    annotations = dump(tmp_path / "mme.json", rows)
    log = dump(tmp_path / "samples.jsonl", lines)
    assert shares(scored("video-mme", annotations, log)) == MME
    report = scored("video-mme", dump(tmp_path / "mme.json", rows[::-1]), log)
    assert report.answered == 0, "rows in another order are other questions"


def test_what_was_not_answered_is_told_and_not_scored(tmp_path: Path) -> None:
    rows = mme_rows()
    texts = mme_said(rows)
    texts[0] = "no idea"
    log = tmp_path / "log.json"
    log.write_text(json.dumps(old_log(rows[:4], texts[:4])))
    report = scored("video-mme", dump(tmp_path / "mme.json", rows), log)
    assert (report.total, report.answered, len(report.failed)) == (12, 4, 8)
    assert shares(report)["overall"] == 75.0
    assert report.unread == 1
    assert not report.complete


def test_mlvu_is_the_mean_of_its_kinds(tmp_path: Path) -> None:
    row = {"candidates": ["p", "q", "r", "s"], "answer": "q"}
    kinds = {"1_plotQA": ("plotQA", 4), "4_count": ("count", 2)}
    texts = {"plotQA": ["(B) q", "B", "(A) p", "B)"], "count": ["(B", "C"]}
    listed = []
    for stem, (kind, number) in kinds.items():
        rows = [
            row | {"video": f"{kind}_{n}.mp4", "question": f"{kind} {n}?", "question_type": kind}
            for n in range(number)
        ]
        dump(tmp_path / "json" / f"{stem}.json", rows)
        listed += [
            {"pred": text, "video": f"/data/{r['video']}", "question": r["question"]}
            for r, text in zip(rows, texts[kind], strict=True)
        ]
    log = tmp_path / "test_all_choice.json"
    log.write_text(json.dumps({"acc_dict": {}, "res_list": listed}))
    report = scored("mlvu", tmp_path / "json", log)
    # "(B" has no closing bracket, so that the original compares all of it: wrong
    expected = {"mean by task": 37.5, "overall": 50.0, "task plotQA": 75.0, "task count": 0.0}
    assert shares(report) == expected
    assert ("mean by task", 64.9, 37.5) in [tuple(row[1:]) for row in compared(report)]


def vn_rows() -> list[dict[str, Any]]:
    """Three questions of two types, each in four orders of its options."""
    options = ["p", "q", "r", "s"]
    return [
        {
            "video": f"./VNBench/{name}.mp4",
            "question": "Which?",
            "options": options[turn:] + options[:turn],
            "gt": "q",
            "type": name[2:],
            "try": turn,
        }
        for name in ("1_ret_edit1", "2_ret_edit1", "3_cnt_insert1")
        for turn in range(4)
    ]


@pytest.mark.parametrize("own_layout", [True, False])
def test_vnbench_counts_a_question_only_if_all_four_are_right(
    own_layout: bool, tmp_path: Path
) -> None:
    rows, lines = vn_rows(), []
    for n, row in enumerate(rows):
        gt = LETTERS[row["options"].index("q")]
        wrong = n == 6  # one of the second question's four
        name = Path(row["video"]).stem
        said = f"{'A' if gt != 'A' else 'B'}." if wrong else f"{gt}. q"
        ids = {"question_id": f"{name}_{row['try']}", "type": row["type"]}
        other = {"video_path": row["video"], "task_type": row["type"]}
        lines.append({"pred": said, "gt": gt, "try": row["try"], **(ids if own_layout else other)})
    log = dump(tmp_path / "result.jsonl", lines)
    report = scored("vnbench", dump(tmp_path / "4try.json", rows), log)
    assert shares(report) == {
        "mean by type": 75.0,
        "overall": 66.6667,
        "task retrieval": 50.0,
        "task counting": 100.0,
        "type ret_edit1": 50.0,
        "type cnt_insert1": 100.0,
    }
    log = dump(tmp_path / "result.jsonl", lines[:-1])
    report = scored("vnbench", dump(tmp_path / "4try.json", rows), log)
    assert report.incomplete == 1
    assert shares(report)["overall"] == 50.0, "a question not asked four times is left out"


def test_lvbench_counts_a_question_in_each_of_its_kinds(tmp_path: Path) -> None:
    kinds = [["reasoning"], ["reasoning", "summarization"], ["summarization"]]
    entries = [
        {
            "uid": str(n),
            "question": f"Q{n}?\n(A) p\n(B) q\n(C) r\n(D) s",
            "answer": "C",
            "question_type": kind,
        }
        for n, kind in enumerate(kinds)
    ]
    meta = dump(tmp_path / "video_info.meta.jsonl", [{"key": "v", "type": "tv", "qa": entries}])
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps({"0": "C", "1": "(C) r", "2": "A"}))
    assert shares(scored("lvbench", meta, answers)) == {
        "overall": 66.6667,
        "task reasoning": 100.0,
        "task summarization": 50.0,
        "video tv": 66.6667,
    }


def test_longvideobench_by_length(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"v{n}_0",
            "video_path": f"v{n}.mp4",
            "question": "?",
            "candidates": ["p", "q", "r", "s", "t"],
            "correct_choice": n % 5,
            "duration": 10.0,
            "duration_group": (15, 60, 600, 3600)[n // 2],
            "question_category": ("E2O", "T3E")[n % 2],
            "subtitle_path": "",
            "starting_timestamp_for_subtitles": 0,
        }
        for n in range(8)
    ]
    for row in rows:
        row["subtitle_path"] = "none.json"
    texts = ["A", "(B)", "C.", "E", "E", "A", "?", "C"]  # wrong: the fourth and the seventh
    log = tmp_path / "log.json"
    log.write_text(json.dumps(old_log(rows, texts)))
    report = scored("longvideobench", dump(tmp_path / "lvb_val.json", rows), log)
    assert shares(report) == {
        "overall": 75.0,
        "duration 15": 100.0,
        "duration 60": 50.0,
        "duration 600": 100.0,
        "duration 3600": 50.0,
        "category E2O": 75.0,
        "category T3E": 75.0,
    }
    assert [f.value for f in report.figures[1:5]] == ["15", "60", "600", "3600"]
    assert report.unread == 1


def test_charades_answers_by_video_sentence_and_moment(tmp_path: Path) -> None:
    rows = [
        {"video": "V.mp4", "caption": f"Sentence {n}.", "timestamp": [0.0, 10.0]} for n in range(2)
    ]
    answers = {f"V.mp4>>>Sentence {n}.>>>[0.0, 10.0]": text for n, text in ((0, "0 - 6"), (1, ""))}
    log = tmp_path / "inference.json"
    log.write_text(json.dumps(answers))
    annotations = dump(tmp_path / "charades.json", rows)
    report = scored("charades-sta", annotations, log, "videochat-flash")
    assert shares(report) == {"mIoU": 30.0, "R1@0.3": 50.0, "R1@0.5": 50.0, "R1@0.7": 0.0}


def test_files_without_answers_are_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    for content in ("{}", "[]", '[{"question": "?"}]', '"text"', "3"):
        log.write_text(content)
        with pytest.raises(AnnotationError, match="no recorded answers"):
            read_predictions(log)


@pytest.mark.parametrize(
    ("system", "parameters", "models"),
    [
        ("longva", 2_900_000, []),
        ("longva", 7_900_000_000, ["LongVA-7B"]),
        ("longva", None, ["LongVA-7B"]),
        ("longva", 72_000_000_000, []),
        ("videochat_flash", 1_900_000_000, ["VideoChat-Flash-Qwen2_5-2B_res448"]),
    ],
)
def test_published_rows_are_of_models_of_the_same_size(
    system: str, parameters: int | None, models: list[str]
) -> None:
    rows = published_for("mvbench", system, subtitles=False, parameters=parameters)
    assert [row.model for row in rows] == models


def test_a_header_that_says_no_number_of_weights_is_read(tmp_path: Path) -> None:
    task: Task = open_benchmark("video-mme", dump(tmp_path / "mme.json", mme_rows()))
    for parameters, told in (("7B", True), (None, True), (2_900_000, False)):
        header = {"system": "longva", "parameters": parameters}
        report = rescored(task, STYLES["video-mme"]["official"], header, lambda one, n: "A")
        assert bool(report.published) == told


def test_published_rows_name_figures_that_tasks_have() -> None:
    names = {"overall", "mean by task", "mean by type", "mIoU", "R1@0.5"}
    for row in PUBLISHED:
        assert row.task in STYLES
        for name, score in row.scores.items():
            assert name in names or name.split()[0] in ("duration", "task"), (row.model, name)
            assert 0 < score < 100
