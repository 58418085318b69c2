"""lmms-eval itself runs a task on the bundled model through the plug-in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from tests.evaluate.benchmarks import ASK, cards

from longtake.api import load

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed (docs/benchmarks.md)")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(entry.name == "longtake" for entry in entry_points(group="lmms_eval.models")),
        reason="longtake is not installed beside lmms-eval",
    ),
]
QUESTIONS = (("one.mp4", ASK), ("two.mp4", ASK), ("one.mp4", "What colour is the card?"))
TASK = """
dataset_path: json
dataset_kwargs:
  data_files: {{test: {rows}}}
task: cards
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 8, temperature: 0, do_sample: false, until: ["\\n"]}}
process_results: !function utils.score
metric_list:
  - {{metric: exact, aggregation: mean, higher_is_better: true}}
"""
UTILS = """
def visual(doc):
    return [doc["video"]]

def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]

def score(doc, results):
    return {"exact": float(results[0] == doc["answer"])}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task, its videos, and the answers the library itself gives."""
    folder = tmp_path_factory.mktemp("lmms")
    cards(folder / "videos", ("one.mp4", "two.mp4"))
    system, rows = load("default", device="cpu"), []
    options = system.options(max_new_tokens=8, stop=("\n",), evidence=False)
    for name, question in QUESTIONS:
        path = str(folder / "videos" / name)
        answer = system.ask(system.watch(path, max_frames=8), question, options)
        rows.append({"video": path, "question": question, "answer": answer.text})
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "task").mkdir()
    (folder / "task/cards.yaml").write_text(TASK.format(rows=folder / "rows.json"))
    (folder / "task/utils.py").write_text(UTILS)
    return folder


def lmms_eval(folder: Path, out: str, *words: str, launcher: tuple[str, ...] = ()) -> str:
    """Run lmms-eval; what it printed."""
    command = [
        *(sys.executable, "-m", *(launcher or ()), *(("-m",) if launcher else ()), "lmms_eval"),
        *("--model", "longtake"),
        *("--model_args", "pretrained=default,device=cpu,max_frames_num=8"),
        *("--tasks", "cards", "--include_path", str(folder / "task")),
        *("--output_path", str(folder / out), "--log_samples", *words),
    ]
    environment = {**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, env=environment, text=True, capture_output=True, timeout=900, check=False
    )
    # it leaves with 0 after an error too
    assert done.returncode == 0 and "Error during evaluation" not in done.stderr + done.stdout, (
        done.stderr[-3000:]
    )
    return done.stdout + done.stderr


def result(folder: Path, out: str) -> tuple[float, list[str]]:
    """The score, and the answers in the order of the documents."""
    (scores,) = (folder / out).rglob("*results.json")
    (samples,) = (folder / out).rglob("*samples_cards.jsonl")
    lines = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda one: one["doc_id"])
    texts = [one["filtered_resps"] for one in lines]
    return (
        json.loads(scores.read_text())["results"]["cards"]["exact,none"],
        [text[0] if isinstance(text, list) else text for text in texts],
    )


def test_a_task_gets_the_answers_of_the_library(folder: Path) -> None:
    lmms_eval(folder, "plain", "--batch_size", "2")
    score, answers = result(folder, "plain")
    expected = [row["answer"] for row in json.loads((folder / "rows.json").read_text())]
    assert answers == expected
    assert score == 1.0
    assert len(set(expected)) > 1, "alike answers would not show a mixed-up order"


def test_answers_come_from_its_cache_the_second_time(folder: Path) -> None:
    cache = ("--use_cache", str(folder / "cache"))
    first = lmms_eval(folder, "first", *cache)
    told = lmms_eval(folder, "second", *cache)
    assert result(folder, "first") == result(folder, "second")
    served = "ResponseCache: all 3 requests served from cache"
    assert served not in first
    assert served in told, told[-2000:]


def test_ranks_share_the_requests(folder: Path) -> None:
    launcher = ("torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29517")
    lmms_eval(folder, "ranks", launcher=launcher)
    expected = [row["answer"] for row in json.loads((folder / "rows.json").read_text())]
    assert result(folder, "ranks") == (1.0, expected)
