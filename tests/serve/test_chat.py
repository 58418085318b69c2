"""Questions over HTTP: OpenAI's client, streams, histories, what other tools send."""

import base64
import json
from pathlib import Path

import openai
import pytest
from PIL import Image

from tests.serve.running import CARD, Running, bundled, question_about

QUESTIONS = {"word": "What word is on the card?", "number": "What number is on the card?"}


@pytest.fixture
def client(live: Running) -> openai.OpenAI:
    made = openai.OpenAI(base_url=f"{live.base}/v1", api_key="none", max_retries=0)
    yield made
    made.close()


def messages(url: str, question: str) -> list:
    return question_about(url, question)["messages"]


def test_the_openai_client_gets_the_answer_of_the_library(
    client: openai.OpenAI, video: str, clip: Path
) -> None:
    system = bundled()
    memory = system.watch(clip, max_frames=16)
    for field, question in QUESTIONS.items():
        expected = system.ask(memory, question)
        got = client.chat.completions.create(
            model="default", messages=messages(f"longtake:{video}", question)
        )
        assert got.choices[0].message.content == expected.text == str(getattr(CARD, field))
        assert got.choices[0].finish_reason == "stop"
        assert got.usage.completion_tokens == len(expected.ids)
        assert got.usage.prompt_tokens == expected.stats.prompt_tokens
        extra = got.model_extra["longtake"]
        assert extra["video"] == video
        assert [span["start"] for span in extra["evidence"]] == [
            span.start for span in expected.evidence
        ]
        assert extra["stats"]["frames"] == 16


def test_words_alone_are_answered_as_the_library_does(client: openai.OpenAI) -> None:
    talk = [
        {"role": "user", "content": "What word is on the card?"},
        {"role": "assistant", "content": "RIVER"},
        {"role": "user", "content": [{"type": "text", "text": "What colour is the card?"}]},
    ]
    said = {"model": "default", "messages": talk, "max_tokens": 8}
    system = bundled()
    earlier = [("What word is on the card?", "RIVER")]
    options = system.options(max_new_tokens=8)
    expected = system.ask(None, "What colour is the card?", options, earlier)
    whole = client.chat.completions.create(**said)
    assert whole.choices[0].message.content == expected.text
    assert whole.usage.prompt_tokens == expected.stats.prompt_tokens
    extra = whole.model_extra["longtake"]
    assert (extra["video"], extra["evidence"], extra["timeline"]) == (None, [], [])
    chunks = list(client.chat.completions.create(**said, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.strip() == expected.text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    other = client.chat.completions.create(model="default", messages=talk[:1], max_tokens=8)
    alone = system.ask(None, "What word is on the card?", options)
    assert other.choices[0].message.content == alone.text


def test_a_stream_adds_up_to_the_answer(client: openai.OpenAI, video: str) -> None:
    question = messages(f"longtake:{video}", QUESTIONS["word"])
    whole = client.chat.completions.create(model="default", messages=question)
    chunks = list(
        client.chat.completions.create(
            model="default",
            messages=question,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces).strip() == whole.choices[0].message.content
    assert sum(map(bool, pieces)) > 1
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage == whole.usage
    assert (
        chunks[-2].model_extra["longtake"]["evidence"] == whole.model_extra["longtake"]["evidence"]
    )
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_without_usage_ends_with_done(live: Running, video: str) -> None:
    got = live.chat(video, QUESTIONS["number"], stream=True)
    assert got.headers["content-type"].startswith("text/event-stream")
    events = got.body.decode().strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert all("usage" not in json.loads(event[6:]) for event in events[:-1] if event[0] == "d")


def test_history_is_what_the_library_makes_of_it(live: Running, video: str, clip: Path) -> None:
    system = bundled()
    memory = system.watch(clip, max_frames=16)
    history = [(QUESTIONS["word"], "RIVER"), ("Sure?", "Yes.")]
    expected = system.ask(memory, QUESTIONS["number"], history=history)
    body = question_about(f"longtake:{video}", QUESTIONS["word"])
    body["messages"] += [
        {"role": "assistant", "content": "RIVER"},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes.", "refusal": None},
        {"role": "user", "content": QUESTIONS["number"]},
    ]
    got = live.ask("POST", "/v1/chat/completions", body)
    assert got.json["usage"]["prompt_tokens"] == expected.stats.prompt_tokens
    assert got.json["choices"][0]["message"]["content"] == expected.text


def test_instructions_stand_before_the_first_question(
    live: Running, video: str, clip: Path
) -> None:
    body = question_about(f"longtake:{video}", QUESTIONS["word"])
    plain = live.ask("POST", "/v1/chat/completions", body).json["usage"]["prompt_tokens"]
    body["messages"].insert(0, {"role": "system", "content": "Be short."})
    system = bundled()
    more = len(system.tokens("Be short.\n\n" + QUESTIONS["word"])) - len(
        system.tokens(QUESTIONS["word"])
    )
    assert (
        live.ask("POST", "/v1/chat/completions", body).json["usage"]["prompt_tokens"]
        == plain + more
    )


def test_a_data_url_is_watched_and_watched_once(live: Running, clip: Path) -> None:
    url = "data:video/mp4;base64," + base64.b64encode(clip.read_bytes()).decode()
    before = live.service.metrics.watches.labels("ready")._value.get()
    for question, answer in ((QUESTIONS["word"], "RIVER"), (QUESTIONS["number"], "47")):
        body = question_about(url, question, mm_processor_kwargs={"num_frames": 12})
        got = live.ask("POST", "/v1/chat/completions", body)
        assert got.json["choices"][0]["message"]["content"] == answer
        assert got.json["longtake"]["stats"]["frames"] == 12
    assert live.service.metrics.watches.labels("ready")._value.get() == before + 1


def test_fps_and_parts_of_a_video(live: Running, video: str) -> None:
    part = {"url": f"longtake:{video}", "fps": 2, "video_start": 2.0, "video_end": 5.0}
    body = question_about("", QUESTIONS["word"])
    body["messages"][0]["content"][0]["video_url"] = part
    got = live.ask("POST", "/v1/chat/completions", body)
    assert got.json["longtake"]["stats"]["frames"] == 6
    assert all(2.0 <= span["start"] <= 5.0 for span in got.json["longtake"]["evidence"])


def test_local_files_only_below_the_roots(live: Running, clip: Path) -> None:
    root = live.service.files.roots[0]
    (root / "inside.mp4").write_bytes(clip.read_bytes())
    (root / "link.mp4").symlink_to(clip)
    body = question_about(
        f"file://{root}/inside.mp4", QUESTIONS["word"], longtake={"max_frames": 8}
    )
    assert live.ask("POST", "/v1/chat/completions", body).status == 200
    refused = [
        f"file://{clip}",
        f"file://{root}/../x",
        f"file://{root}/link.mp4",
        f"file://{root}/%2e%2e/x",
    ]
    for url in refused:
        got = live.ask("POST", "/v1/chat/completions", question_about(url, "What?"))
        assert (got.status, got.error["code"]) == (403, "media_forbidden"), url
    missing = live.ask(
        "POST", "/v1/chat/completions", question_about(f"file://{root}/none.mp4", "What?")
    )
    assert (missing.status, missing.error["code"]) == (400, "video_unusable")


def test_a_picture_is_what_the_library_makes_of_it(live: Running, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "red.png")
    url = "data:image/png;base64," + base64.b64encode((tmp_path / "red.png").read_bytes()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": url, "detail": "auto"}},
        {"type": "text", "text": "What?"},
    ]
    system = bundled()
    with Image.open(tmp_path / "red.png") as image:
        expected = system.ask(system.watch(image), "What?")
    body = {"messages": [{"role": "user", "content": content}]}
    got = live.ask("POST", "/v1/chat/completions", body)
    assert got.status == 200
    assert got.json["choices"][0]["message"]["content"] == expected.text
    assert got.json["usage"]["prompt_tokens"] == expected.stats.prompt_tokens


def test_sampling_options_reach_the_model(live: Running, video: str) -> None:
    def text(**options: object) -> str:
        return live.chat(video, QUESTIONS["word"], **options).json["choices"][0]["message"][
            "content"
        ]

    drawn = [text(temperature=5, seed=seed, max_tokens=6) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert text(stop="V") == "RI"
    cut = live.chat(video, QUESTIONS["word"], max_completion_tokens=2).json
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 2


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["default"]
    assert client.models.retrieve("default").owned_by == "longtake"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_errors_come_as_the_clients_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature must be 0 or more, got -1"):
        client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": "Hi"}], temperature=-1
        )
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(
            model="default", messages=messages("longtake:nothing", "What?")
        )
