"""`longtake eval`: every task on a tiny benchmark with the bundled model, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.evaluate.benchmarks import MAKERS, Made, dump
from tests.test_cli import error_line, run

QUICK = ("--device", "cpu", "--max-frames", "2", "--max-new-tokens", "3")


def words_for(name: str, made: Made, out: Path) -> list[str]:
    paths = ("--annotations", made.annotations, "--videos", made.videos, "--out", out)
    return ["eval", name, *map(str, paths), *QUICK]


@pytest.mark.parametrize("name", MAKERS)
def test_two_questions_of_each_task(name: str, tmp_path: Path) -> None:
    made, out = MAKERS[name](tmp_path), tmp_path / "out"
    extra = ["--subtitles", str(tmp_path / "subtitles")] if name == "longvideobench" else []
    result = run(*words_for(name, made, out), "--limit", "2", *extra)
    assert result.exit_code == 0, result.stderr
    report = json.loads((out / "result.json").read_text())
    asked = 8 if name == "vnbench" else 2  # its questions are asked four times
    assert (report["answered"], report["asked"], report["failed"]) == (asked, asked, [])
    assert report["figures"][0]["asked"] == 2
    assert result.stdout == (out / "result.txt").read_text()
    lines = (out / "answers.jsonl").read_text().splitlines()
    header = json.loads(lines[0])["header"]
    assert len(lines) == asked + 1
    assert header["fingerprint"] and header["versions"]["torch"] and header["seed"] == 0
    if extra:
        assert all(json.loads(line)["subtitles"] for line in lines[1:])


def test_missing_videos_are_listed_counted_and_not_scored(tmp_path: Path) -> None:
    made, out = MAKERS["video-mme"](tmp_path), tmp_path / "out"
    (made.videos / "data/aaa.mp4").unlink()
    result = run(*words_for("video-mme", made, out), "--json")
    assert result.exit_code == 0
    assert result.stderr == (
        "longtake: warning: 1 videos are missing (aaa.mp4); their 2 questions are not asked\n"
    )
    report = json.loads(result.stdout)
    assert report["missing"] == ["aaa.mp4"]
    assert (report["answered"], report["total"], report["missing_questions"]) == (1, 3, 2)
    assert report["figures"][0]["asked"] == 1
    assert not report["complete"]
    text = (out / "result.txt").read_text()
    assert "NOT all of the annotations" in text
    assert "LongVA" not in text, "the bundled model is of that system, and of another size"
    assert text.endswith("no published figures for this model\n")


def test_a_run_is_not_overwritten_and_goes_on_only_as_it_was(tmp_path: Path) -> None:
    made, out = MAKERS["lvbench"](tmp_path), tmp_path / "out"
    words = words_for("lvbench", made, out)
    assert run(*words, "--limit", "1").exit_code == 0
    again = run(*words)
    assert again.exit_code == 2
    assert "go on with --resume" in error_line(again)
    other = run(*words, "--resume", "--style", "official")
    assert other.exit_code == 7
    assert "style was" in error_line(other)
    assert run(*words, "--resume").exit_code == 0
    assert json.loads((out / "result.json").read_text())["complete"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["eval", "mmbench", "--annotations", "A"], 2, "no benchmark 'mmbench'; choose video-mme"),
        (["eval", "mlvu", "--annotations", "nowhere"], 8, "neither a file nor a folder"),
        (["eval", "mlvu", "--annotations", "A"], 2, "--videos, or score by --predictions"),
        (["eval", "mlvu", "--annotations", "A", "--videos", "nowhere"], 8, "is no folder"),
        (["eval", "mlvu", "--annotations", "A", "--videos", "empty"], 8, "none of the 2 videos"),
        (["eval", "mlvu", "--annotations", "A", "--style", "x"], 2, "mlvu has no style 'x'"),
        (["eval", "lvbench", "--annotations", "A"], 8, "1_plotQA.json: row 1"),
        (["eval", "mlvu", "--annotations", "A", "--predictions", "empty"], 8, "holds no file"),
        (
            ["eval", "mlvu", "--annotations", "A", "--videos", "V", "--subtitles", "nowhere"],
            8,
            "folder of the subtitles",
        ),
        (
            ["eval", "mlvu", "--annotations", "A", "--videos", "V", "--subtitles", "empty"],
            2,
            "MLVU has no subtitles; leave --subtitles out",
        ),
        (
            ["eval", "mlvu", "--annotations", "A", "--videos", "V", "--max-frames", "auto"],
            2,
            "auto is another number for each video",
        ),
        *(
            (["eval", "mlvu", "--annotations", "A", "--predictions", "P", *words], 2, f"{told} out")
            for words, told in (
                (["--limit", "1"], "leave --limit"),
                (["--model", "m", "--resume"], "leave --model, --resume"),
                (["--subtitles", "empty", "--videos", "V"], "leave --videos, --subtitles"),
                (["--ratio", "8", "--seed", "1"], "leave options of a model, options of answering"),
                (["--device", "cpu"], "leave options of a model"),
            )
        ),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], code: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = MAKERS["mlvu"](tmp_path)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    places = {"A": str(made.annotations), "V": str(made.videos)}
    result = run(*(places.get(word, word) for word in words))
    assert result.exit_code == code
    assert told in error_line(result)


def test_recorded_answers_are_scored_without_a_model(tmp_path: Path) -> None:
    made = MAKERS["lvbench"](tmp_path)
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps({"0": "B", "1": "B"}))
    words = ("--annotations", made.annotations, "--predictions", answers, "--json")
    result = run("eval", "lvbench", *words)
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert (report["figures"][0]["score"], report["answered"]) == (50.0, 2)


def test_own_answers_can_be_scored_again(tmp_path: Path) -> None:
    made, out = MAKERS["lvbench"](tmp_path), tmp_path / "out"
    assert run(*words_for("lvbench", made, out)).exit_code == 0
    words = ("--annotations", made.annotations, "--predictions", out / "answers.jsonl", "--json")
    again = json.loads(run("eval", "lvbench", "--style", "lmms-eval", *words).stdout)
    assert again["figures"] == json.loads((out / "result.json").read_text())["figures"]


def test_own_answers_are_read_as_they_were_asked(tmp_path: Path) -> None:
    """The file's own style, not the task's first; and published figures of its system."""
    made, out = MAKERS["lvbench"](tmp_path), tmp_path / "out"
    assert run(*words_for("lvbench", made, out), "--style", "lmms-eval").exit_code == 0
    answers = out / "answers.jsonl"
    header, *rows = map(json.loads, answers.read_text().splitlines())
    assert header["header"]["style"] == "lmms-eval"
    for row in rows:
        row["text"] = "It is B: the river"  # a letter by lmms-eval's rule alone
    dump(answers, [header, *rows])
    words = ("--annotations", made.annotations, "--predictions", answers, "--json")
    read = json.loads(run("eval", "lvbench", *words).stdout)
    assert (read["header"]["style"], read["unread"]) == ("lmms-eval", 0)
    assert read["figures"][0]["score"] == 50.0
    other = json.loads(run("eval", "lvbench", *words, "--style", "official").stdout)
    assert (other["header"]["style"], other["unread"]) == ("official", 2)
    mlvu = MAKERS["mlvu"](tmp_path / "other")
    words = ("--annotations", mlvu.annotations, "--predictions", answers)
    assert "holds answers of lvbench, not mlvu" in error_line(run("eval", "mlvu", *words))


def test_a_folder_without_the_subtitles_is_no_run_with_subtitles(tmp_path: Path) -> None:
    made, out = MAKERS["video-mme"](tmp_path), tmp_path / "out"
    words = words_for("video-mme", made, out)
    wrong = run(*words, "--subtitles", str(tmp_path))
    assert wrong.exit_code == 8
    told = "holds none of the 2 files of subtitles of Video-MME, such as aaa.srt; give the folder"
    assert told in error_line(wrong)
    assert not out.exists(), "refused before a model is loaded"
    style = ("--style", "lmms-eval")  # which says so to the model where there are none
    result = run(*words, "--subtitles", str(tmp_path / "subtitles"), *style)
    assert result.exit_code == 0
    assert result.stderr == (
        "longtake: warning: 1 files of subtitles are missing (bbb.srt); questions about their "
        "videos are asked without\n"
    )
    rows = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()[1:]]
    assert [row["subtitles"] for row in rows] == [True, True, False]
    report = json.loads((out / "result.json").read_text())
    assert (report["unsubtitled"], report["missing_subtitles"]) == (1, ["bbb.srt"])
    assert "1 files of subtitles are missing" in (out / "result.txt").read_text()
    recorded = ("--annotations", made.annotations, "--predictions", out / "answers.jsonl")
    again = json.loads(run("eval", "video-mme", *map(str, recorded), "--json").stdout)
    assert again["unsubtitled"] == 1


def test_a_run_goes_on_only_with_the_same_files_and_options(tmp_path: Path) -> None:
    made, out = MAKERS["video-mme"](tmp_path), tmp_path / "out"
    captions = tmp_path / "subtitles"
    words = [*words_for("video-mme", made, out), "--subtitles", str(captions)]
    assert run(*words, "--limit", "2").exit_code == 0
    before = (out / "answers.jsonl").read_bytes()
    kept = (captions / "aaa.srt").read_text()
    (captions / "bbb.srt").write_text(kept)
    (captions / "aaa.srt").write_text(kept.replace("Good day", "Good night"))
    other = run(*words, "--resume")
    assert other.exit_code == 7
    assert "001-1 was asked about another file than what is now aaa.mp4" in error_line(other)
    (captions / "aaa.srt").write_text(kept)
    film = made.videos / "data/aaa.mp4"
    whole = film.read_bytes()
    film.write_bytes((made.videos / "data/bbb.mp4").read_bytes())
    other = run(*words, "--resume")
    assert "001-1 was asked about another file" in error_line(other)
    film.write_bytes(whole)
    other = run(*words, "--resume", "--kv", "int8")
    assert "given was {}, now {'kv': 'int8'}" in error_line(other)
    assert (out / "answers.jsonl").read_bytes() == before
    assert run(*words, "--resume").exit_code == 0


def test_a_malformed_row_stops_before_any_work(tmp_path: Path) -> None:
    made = MAKERS["video-mme"](tmp_path)
    rows = json.loads(made.annotations.read_text())
    rows[1]["answer"] = "E"
    dump(made.annotations, rows)
    result = run(*words_for("video-mme", made, tmp_path / "out"))
    assert result.exit_code == 8
    assert "mme.json: row 2: 'answer' is 'E'" in error_line(result)
    assert not (tmp_path / "out").exists()
