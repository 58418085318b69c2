"""The plug-in of lmms-eval without lmms-eval: requests, settings, groups, what is kept."""

from __future__ import annotations

import gc
import logging
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from tests.tiny import tiny

from longtake.errors import CapacityError, OptionError, PromptError, VideoError


@dataclass
class Part:
    """A part of a message, as lmms-eval's protocol has it."""

    type: str
    text: str = ""
    url: Any = None
    start_time: float | None = None
    end_time: float | None = None


@dataclass
class Message:
    role: str
    content: list[Part]


@dataclass
class Messages:
    messages: list[Message]


@dataclass
class Counts:
    input_tokens: int
    output_tokens: int


@dataclass
class Result:
    text: str
    token_counts: Counts


class Base:
    """What the plug-in takes from lmms-eval's model: two caches."""

    def __init__(self) -> None:
        self.folder = getattr(self, "model_name", "")
        self.partial: list[tuple[str, str]] = []
        self.cache_hook = SimpleNamespace(
            add_partial=lambda kind, key, text: self.partial.append((key[0], text))
        )
        self.kept: dict[int, str] = {}
        self.loaded = 0

    rank = property(lambda self: self._rank)

    def load_cache(self) -> None:
        self.loaded += 1

    def get_response_from_cache(self, requests: list[Any]) -> tuple[list[str], list[Any]]:
        found = [self.kept[one.doc_id] for one in requests if one.doc_id in self.kept]
        return found, [one for one in requests if one.doc_id not in self.kept]

    def add_request_response_to_cache(self, request: Any, response: str) -> None:
        self.kept[request.doc_id] = response


STUBS = {
    "lmms_eval": {},
    "lmms_eval.api": {},
    "lmms_eval.api.instance": {
        "GenerationResult": Result,
        "Instance": SimpleNamespace,
        "TokenCounts": Counts,
    },
    "lmms_eval.api.model": {"lmms": Base},
    "lmms_eval.models": {},
    "lmms_eval.models.registry_v2": {"ModelManifest": SimpleNamespace},
    "lmms_eval.protocol": {"ChatMessages": Messages},
}


@pytest.fixture
def lmms(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The plug-in, beside stand-ins of what it imports."""
    for name, held in STUBS.items():
        module = ModuleType(name)
        vars(module).update(held)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "longtake.evaluate.lmms", raising=False)
    yield import_module("longtake.evaluate.lmms")
    sys.modules.pop("longtake.evaluate.lmms", None)


@dataclass
class System:
    """Counts what is watched; answers with what it was asked."""

    watched: list[tuple[Any, ...]] = field(default_factory=list)
    broken: tuple[str, ...] = ()

    def options(self, **given: Any) -> dict[str, Any]:
        return given

    def watch(self, *sources: Any, **how: Any) -> tuple[Any, ...]:
        self.watched.append(sources)
        if sources[0] in self.broken:
            raise VideoError(f"{sources[0]} is no video")
        return sources

    def ask(self, memory: Any, question: str, options: Any, history: Any) -> Any:
        if "too much" in question:
            raise CapacityError("too much")
        said = f"{question} of {'nothing' if memory is None else len(memory)}"
        return SimpleNamespace(text=said, ids=(1, 2), stats=SimpleNamespace(prompt_tokens=9))


SETTINGS = {"max_new_tokens": 8, "until": ["\n"]}
Doc = Callable[[], list[Message]]


def asking(question: str, *visuals: Part) -> list[Message]:
    return [Message("user", [*visuals, Part("text", question)])]


def model(lmms: ModuleType, docs: list[Doc], **system: Any) -> tuple[Any, list[Any]]:
    """A plug-in over a stand-in system, and a request for each document."""
    made = lmms.Longtake.__new__(lmms.Longtake)
    Base.__init__(made)
    made._rank, made.frames, made.system = 0, 4, System(**system)
    made.task_dict = {"cards": {"test": docs}}
    requests = [
        SimpleNamespace(
            doc_id=n, args=(f"context {n}", lambda doc: doc(), SETTINGS, n, "cards", "test")
        )
        for n in range(len(docs))
    ]
    return made, requests


def video(path: str, **times: float) -> Part:
    return Part("video", url=path, **times)


def test_a_request_is_read(lmms: ModuleType) -> None:
    told = [
        Message("system", [Part("text", "Be brief.")]),
        Message("user", [video("file:///a.mp4", start_time=1.0, end_time=2.0), Part("text", "A?")]),
        Message("assistant", [Part("text", "Yes.")]),
        Message("user", [Part("text", "B"), Part("text", "?")]),
    ]
    made, requests = model(lmms, [lambda: told])
    request = made.request(7, requests[0].args)
    assert (request.order, request.context) == (7, "context 0")
    assert request.sources == ("/a.mp4",)
    assert (request.start, request.end) == (1.0, 2.0)
    assert (request.system_prompt, request.history) == ("Be brief.", (("A?", "Yes."),))
    assert request.question == "B?"


@pytest.mark.parametrize(
    "told",
    [
        [],
        [Message("assistant", [Part("text", "Yes.")])],
        [*asking("A?"), Message("assistant", [Part("text", "Yes.")])],
        asking("A?", Part("audio", url="a.wav")),
        asking("A?", video("a.mp4", start_time=1.0), video("a.mp4", start_time=2.0)),
    ],
)
def test_a_task_that_cannot_be_asked_stops_before_anything_is_watched(
    lmms: ModuleType, told: list[Message]
) -> None:
    made, requests = model(lmms, [lambda: asking("A?", video("a.mp4")), lambda: told])
    with pytest.raises(PromptError, match="cards, document 1"):
        made.generate_until(requests)
    assert made.system.watched == []


def test_settings_of_tasks_are_options(lmms: ModuleType) -> None:
    def options(**settings: Any) -> Any:
        return lmms.options_of(tiny(), settings)

    plain = options(max_gen_toks=5, until="\n", temperature=0, top_p=0.9, use_cache=True)
    assert (plain.max_new_tokens, plain.stop, plain.temperature) == (5, ("\n",), 0.0)
    assert plain.top_p == tiny().options().top_p, "of no use where nothing is sampled"
    drawn = options(do_sample=True, temperature=0.5, top_p=0.9, until=["", "x"])
    assert (drawn.temperature, drawn.top_p, drawn.stop) == (0.5, 0.9, ("x",))
    assert options(do_sample=False, temperature=0.5).temperature == 0.0
    assert options(temperature=None, top_k=None, num_beams=1).temperature == 0.0
    with pytest.raises(OptionError, match="one beam"):
        options(num_beams=2)


def test_requests_about_a_video_share_its_memory_and_answers_keep_their_order(
    lmms: ModuleType,
) -> None:
    docs: list[Doc] = [
        lambda: asking("1", video("a.mp4")),
        lambda: asking("2", video("b.mp4")),
        lambda: asking("3", video("a.mp4")),
        lambda: asking("4", video("a.mp4", start_time=1.0, end_time=2.0)),
        lambda: asking("5"),
    ]
    made, requests = model(lmms, docs)
    answers = made.generate_until(requests)
    said = ["1 of 1", "2 of 1", "3 of 1", "4 of 1", "5 of nothing"]
    assert [answer.text for answer in answers] == said
    assert made.system.watched == [("a.mp4",), ("b.mp4",), ("a.mp4",)]
    assert made.kept == dict(enumerate(said))
    assert sorted(made.partial) == [(f"context {n}", text) for n, text in enumerate(said)]


def test_pictures_are_made_ready_group_by_group(lmms: ModuleType) -> None:
    """However many documents: no more than one's pictures are there at a time."""
    alive: list[weakref.ref[Image.Image]] = []
    most: list[int] = []

    def doc() -> list[Message]:
        picture = Image.new("RGB", (8, 8))
        alive.append(weakref.ref(picture))
        gc.collect()
        most.append(sum(one() is not None for one in alive))
        return asking("?", Part("image", url=picture))

    made, requests = model(lmms, [doc] * 6)
    made.system.watch = lambda *sources, **how: sources
    assert [answer.text for answer in made.generate_until(requests)] == ["? of 1"] * 6
    assert max(most) <= 3, Counter(most)


def test_what_fails_is_logged_and_empty_and_kept_nowhere(
    lmms: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    docs: list[Doc] = [
        lambda: asking("1", video("bad.mp4")),
        lambda: asking("too much", video("good.mp4")),
        lambda: asking("3", video("good.mp4")),
        lambda: asking("4", video("bad.mp4")),
    ]
    made, requests = model(lmms, docs, broken=("bad.mp4",))
    with caplog.at_level(logging.ERROR):
        answers = made.generate_until(requests)
    assert [answer.text for answer in answers] == ["", "", "3 of 1", ""]
    told = [record.getMessage() for record in caplog.records]
    assert sum("bad.mp4 is no video" in line for line in told) == 2
    assert sum("'too much': too much" in line for line in told) == 1
    assert made.kept == {2: "3 of 1"}
    assert made.partial == [("context 2", "3 of 1")]


def test_what_lmms_eval_has_kept_is_not_asked_again(lmms: ModuleType) -> None:
    docs: list[Doc] = [lambda n=n: asking(str(n), video(f"{n}.mp4")) for n in range(4)]
    made, requests = model(lmms, docs)
    made.kept = {1: "kept one", 3: "kept three"}
    answers = made.generate_until(requests)
    texts = [one if isinstance(one, str) else one.text for one in answers]
    assert texts == ["0 of 1", "kept one", "2 of 1", "kept three"]
    assert made.loaded == 1
    assert made.system.watched == [("0.mp4",), ("2.mp4",)]


def test_a_version_that_keeps_responses_itself_asks_for_all_that_is_missing(
    lmms: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As lmms-eval 0.7.3: the model has none of the methods."""
    for name in ("load_cache", "get_response_from_cache", "add_request_response_to_cache"):
        monkeypatch.delattr(Base, name)
    docs: list[Doc] = [lambda n=n: asking(str(n), video("a.mp4")) for n in range(2)]
    made, requests = model(lmms, docs)
    answers = made.generate_until(requests)
    assert [answer.text for answer in answers] == ["0 of 1", "1 of 1"]
    assert [text for _, text in made.partial] == ["0 of 1", "1 of 1"]
    assert made.kept == {}


def test_other_options_keep_their_responses_elsewhere(
    lmms: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmms, "load", lambda *words, **how: replace(tiny()))
    names = {
        lmms.Longtake(**options).folder
        for options in ({}, {"max_frames_num": "8"}, {"kv": "int8"}, {"dtype": "float16"})
    }
    assert len(names) == 4 and all(names)
    assert lmms.Longtake(max_frames_num=8).model_name in names
