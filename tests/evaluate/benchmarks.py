"""Tiny benchmarks in the published layouts: a card in a clip of a second or two, asked about.

Each maker writes annotations and videos below a folder and returns both paths.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clips import write_clip

from longtake.video.cards import Card
from longtake.video.insert import Place, insert_card

CARDS = (
    Card(word="RIVER", number=48, colour="red"),
    Card(word="CANDLE", number=91, colour="blue"),
)
ASK = "What word is on the card?"


@dataclass(frozen=True, kw_only=True)
class Made:
    """A benchmark on disk."""

    annotations: Path
    videos: Path


def cards(folder: Path, names: tuple[str, str]) -> None:
    """Two short clips with a card each."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = write_clip(folder / "plain.mp4", 4)
    for name, card in zip(names, CARDS, strict=True):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        insert_card(plain, target, card, Place(at_seconds=0.4, seconds=1.0))
    plain.unlink()


def lettered(options: list[str], form: str = "{}. {}") -> list[str]:
    """Options with their letters."""
    pairs = zip(string.ascii_uppercase, options, strict=False)
    return [form.format(letter, text) for letter, text in pairs]


def dump(path: Path, rows: list[Any]) -> Path:
    """Write json, or a line for each row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(map(json.dumps, rows)) + "\n"
    path.write_text(lines if path.suffix == ".jsonl" else json.dumps(rows))
    return path


def video_mme(folder: Path) -> Made:
    """Two questions about one video, one about another."""
    cards(folder / "videos/data", ("aaa.mp4", "bbb.mp4"))
    rows = [
        {
            "video_id": number,
            "videoID": name,
            "duration": duration,
            "domain": "Knowledge",
            "sub_category": "Geography",
            "url": "",
            "question_id": f"{number}-{n}",
            "task_type": task,
            "question": ASK,
            "options": lettered(["river.", "candle.", "stone.", "cloud."]),
            "answer": answer,
        }
        for number, name, duration, n, task, answer in (
            ("001", "aaa", "short", 1, "OCR Problems", "A"),
            ("001", "aaa", "short", 2, "Counting Problem", "D"),
            ("301", "bbb", "medium", 1, "OCR Problems", "B"),
        )
    ]
    (folder / "subtitles").mkdir()
    (folder / "subtitles/aaa.srt").write_text(
        '1\n00:00:00,000 --> 00:00:00,500\n<font color="white" size=".72c">Good day.</font>\n\n'
        '2\n00:01:00,000 --> 00:01:01,000\n<font color="white" size=".72c">Too late.</font>\n'
    )
    return Made(annotations=dump(folder / "mme.json", rows), videos=folder / "videos")


def mlvu(folder: Path) -> Made:
    """Two of the seven files."""
    cards(folder / "videos/video", ("1_plotQA/movie_1.mp4", "4_count/count_1.mp4"))
    row = {"duration": 1.8, "question": ASK, "candidates": ["river", "candle"], "answer": "river"}
    for stem, kind, video in (("1_plotQA", "plotQA", "movie_1"), ("4_count", "count", "count_1")):
        dump(folder / f"json/{stem}.json", [row | {"video": f"{video}.mp4", "question_type": kind}])
    return Made(annotations=folder / "json", videos=folder / "videos")


def longvideobench(folder: Path) -> Made:
    """Two questions, subtitles beside them."""
    cards(folder / "lvb/videos", ("one.mp4", "two.mp4"))
    rows = [
        {
            "id": f"{name}_0",
            "video_id": name,
            "video_path": f"{name}.mp4",
            "question": ASK,
            "candidates": ["stone", "river", "candle"],
            "correct_choice": choice,
            "duration": 1.8,
            "duration_group": group,
            "question_category": "T2O",
            "subtitle_path": f"{name}_en.json",
            "starting_timestamp_for_subtitles": 1,
        }
        for name, choice, group in (("one", 1, 15), ("two", 2, 600))
    ]
    dump(folder / "subtitles/one_en.json", [{"timestamp": [0.5, 1.5], "text": "Hello."}])
    dump(
        folder / "subtitles/two_en.json",
        [{"start": "00:00:00.900", "end": "00:00:01.200", "line": "Hello there."}],
    )
    return Made(annotations=dump(folder / "lvb_val.json", rows), videos=folder / "lvb")


def lvbench(folder: Path) -> Made:
    """Two videos, a line each."""
    cards(folder / "videos", ("yt1.mp4", "yt2.mp4"))
    rows = [
        {
            "key": key,
            "type": "cartoon",
            "qa": [
                {
                    "uid": uid,
                    "question": f"{ASK}\n(A) candle\n(B) river\n(C) stone\n(D) cloud",
                    "answer": answer,
                    "question_type": ["entity recognition", "reasoning"],
                    "time_reference": "00:00-00:01",
                }
            ],
        }
        for key, uid, answer in (("yt1", "0", "B"), ("yt2", "1", "A"))
    ]
    return Made(annotations=dump(folder / "video_info.meta.jsonl", rows), videos=folder / "videos")


def vnbench(folder: Path) -> Made:
    """Two questions, each four times."""
    cards(folder / "videos", ("1_ret_insert1.mp4", "2_cnt_edit1.mp4"))
    words = ["river", "candle", "stone", "cloud"]
    rows = [
        {
            "video": f"./VNBench/{name}.mp4",
            "question": ASK,
            "options": words[turn:] + words[:turn],
            "gt": gt,
            "type": name[2:],
            "try": turn,
        }
        for name, gt in (("1_ret_insert1", "river"), ("2_cnt_edit1", "candle"))
        for turn in range(4)
    ]
    annotations = dump(folder / "VNBench-main-4try.json", rows)
    return Made(annotations=annotations, videos=folder / "videos")


def mvbench(folder: Path) -> Made:
    """Two kinds whose clips share a name."""
    cards(
        folder / "videos", ("perception/videos/video_1.mp4", "clevrer/video_validation/video_1.mp4")
    )
    row = {"video": "video_1.mp4", "question": ASK, "candidates": ["candle", "river"]}
    dump(folder / "json/action_count.json", [row | {"answer": "river"}])
    dump(folder / "json/moving_count.json", [row | {"answer": "candle", "start": 0.0, "end": 1.5}])
    return Made(annotations=folder / "json", videos=folder / "videos")


def charades(folder: Path) -> Made:
    """Two sentences about one video, one about another."""
    cards(folder / "videos/Charades_v1_480", ("3MSZA.mp4", "AO8RW.mp4"))
    lines = [
        "3MSZA 0.4 1.4##a card is shown.",
        "3MSZA 0.0 0.4##a colour fills the screen.",
        "AO8RW 0.4 1.4##a card is shown.",
    ]
    annotations = folder / "charades_sta_test.txt"
    annotations.write_text("\n".join(lines) + "\n")
    return Made(annotations=annotations, videos=folder / "videos")


MAKERS: Mapping[str, Callable[[Path], Made]] = {
    "video-mme": video_mme,
    "mlvu": mlvu,
    "longvideobench": longvideobench,
    "lvbench": lvbench,
    "vnbench": vnbench,
    "mvbench": mvbench,
    "charades-sta": charades,
}
