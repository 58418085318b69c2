"""Answers that were recorded elsewhere, to be scored again: the published logs' layouts.

Read are answers of `longtake eval`, logs of samples of lmms-eval (old and new), Video-MME's
template of results, MLVU's and VNBench's result lists, LVBench's answers by number and
VideoChat-Flash's answers of Charades-STA.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longtake.errors import AnnotationError
from longtake.evaluate.annotations import annotation_files, json_lines, parsed
from longtake.evaluate.tasks import Example, stem_of

IDS = ("key", "question_id", "uid", "id")
"""Fields that name a question."""
TEXTS = ("filtered_resps", "resps", "response", "pred", "text", "option")
"""Fields that hold an answer, the most particular first."""
VIDEOS = ("video", "video_path", "video_name", "videoID", "video_id")


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Answers by what names their questions."""

    by_id: Mapping[str, str]
    by_words: Mapping[tuple[str, str], str]
    """By the video's name without ending, and the question's own words or its try."""
    by_row: Mapping[int, tuple[str, str]]
    """Words asked and answer, by the row's number, where a log holds nothing else."""
    header: Mapping[str, Any]
    """What `longtake eval` says of how the answers were made; empty for those of others."""
    unsubtitled: int
    """Of its answers, in a run with subtitles, those to questions asked without."""

    def text_of(self, example: Example, row: int) -> str | None:
        """The answer to a question, which is that of a row; None if there is none."""
        if example.key in self.by_id:
            return self.by_id[example.key]
        tries = [example.question.strip()]
        if example.circle:
            tries = [f"try {example.key.rpartition('_')[2]}"]
        words = ((example.stem, one) for one in tries)
        found = next((self.by_words[pair] for pair in words if pair in self.by_words), None)
        asked, text = self.by_row.get(row, ("", None))
        return text if found is None and example.question.strip() in asked else found


def read_predictions(path: Path) -> Recorded:
    """All answers of a file, or of the files of a folder. Raises AnnotationError."""
    by_id: dict[str, str] = {}
    by_words: dict[tuple[str, str], str] = {}
    by_row: dict[int, tuple[str, str]] = {}
    header: Mapping[str, Any] = {}
    unsubtitled = 0
    for file in annotation_files(path):
        for record in records_of(file):
            if isinstance(record.get("header"), dict):
                header = record["header"]
            text = text_in(record)
            if text is None:
                continue
            unsubtitled += record.get("subtitles") is False
            if "doc_id" in record and isinstance(record.get("input"), str):
                by_row[int(record["doc_id"])] = (record["input"], text)
            for name in IDS:
                if name in record:
                    by_id[str(record[name])] = text
            for name in VIDEOS:
                if name in record:
                    by_words.update({(stem_of(str(record[name])), w): text for w in words(record)})
    if not by_id and not by_words and not by_row:
        raise AnnotationError(f"{path} holds no recorded answers of a layout known here")
    return Recorded(
        by_id=by_id, by_words=by_words, by_row=by_row, header=header, unsubtitled=unsubtitled
    )


def words(record: Mapping[str, Any]) -> Iterator[str]:
    """What names a record's question beside its video."""
    if "try" in record:
        yield f"try {record['try']}"
    for name in ("question", "caption"):
        if name in record:
            yield str(record[name]).strip()


def text_in(record: Mapping[str, Any]) -> str | None:
    """The answer a record holds; the first of several."""
    for name in TEXTS:
        value = record.get(name)
        while isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, str):
            return value
    return None


def records_of(file: Path) -> Iterator[Mapping[str, Any]]:
    """The records of a file, nested ones laid open."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise AnnotationError(f"{file} cannot be read ({error})") from error
    if file.suffix == ".jsonl":
        entries: Any = json_lines(file, text)
    else:
        entries = parsed(text, file.name)
    yield from opened(entries)


def opened(entries: Any) -> Iterator[Mapping[str, Any]]:
    """Records of a list, or of an object that holds such a list, or answers by name."""
    if isinstance(entries, dict):
        for name in ("logs", "res_list"):
            if isinstance(entries.get(name), list):
                yield from opened(entries[name])
                return
        yield from by_name(entries)
        return
    for entry in entries if isinstance(entries, Iterable) and not isinstance(entries, str) else ():
        if isinstance(entry, dict):
            yield from flat(entry)


def flat(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A record with what its `doc` says of the question; one per question of a video's record."""
    if isinstance(entry.get("questions"), list):
        for question in entry["questions"]:
            if isinstance(question, dict):
                yield question
        return
    doc = entry.get("doc")
    yield {**doc, **entry} if isinstance(doc, dict) else entry


def by_name(answers: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Records of {"12": "A"}, and of {"video>>>sentence>>>moment": "..."}."""
    for name, text in answers.items():
        if not isinstance(text, str):
            continue
        parts = name.split(">>>")
        if len(parts) == 3:
            yield {"video": parts[0], "caption": parts[1], "text": text}
        else:
            yield {"uid": name, "text": text}
