"""Prompts come out to the letter as the originals' code makes them."""

from __future__ import annotations

import pytest

from longtake.errors import OptionError
from longtake.evaluate.prompts import STYLES, style_for
from longtake.evaluate.reading import READERS

SELECT = "Select the best answer to the following multiple-choice question based on the video"
ONLY = "Respond with only the letter (A, B, C, or D) of the correct option."
DIRECTLY = "Answer with the option's letter from the given choices directly."
MADE = [
    (
        ("video-mme", "videochat-flash", ("A. x", "B. y"), ""),
        (
            f"These are the frames of a video. {SELECT}. {ONLY}\nQuestion: What?\nOption:\n"
            f"A. x\nB. y\n{DIRECTLY}"
        ),
    ),
    (
        ("video-mme", "videochat-flash", ("A. x",), "Hello."),
        (
            "This video's subtitles are listed below: \nHello.\nThese are the frames and subtitles "
            f"of a video. {SELECT} and the subtitles. {ONLY}\nQuestion: What?\nOption:\nA. x\n"
            "The best answer is:"
        ),
    ),
    (
        ("video-mme", "longva", ("A. x", "B. y"), ""),
        f"{SELECT} and the subtitles. {ONLY}\nWhat?\n['A. x', 'B. y']\n\n{DIRECTLY}",
    ),
    (
        ("video-mme", "official", ("A. x",), ""),
        f"{SELECT}. {ONLY}\nWhat?\nA. x\nThe best answer is:",
    ),
    (
        ("mlvu", "videochat-flash", ("x", "y"), ""),
        f"Question:What?\nOption:\n(A) x\n(B) y\n{DIRECTLY}",
    ),
    (
        ("mlvu", "video-xl", ("x", "y"), ""),
        "\nWhat?\n(A) x\n(B) y\nOnly give the best option.\n\nBest option: (",
    ),
    (
        ("longvideobench", "videochat-flash", ("x", "y"), "Hi."),
        (
            " This video's subtitles are listed below: \nHi..\n Select the best answer to the "
            "following multiple-choice question based on the video and the subtitles. Respond with "
            "only the letter of the correct option.\nQuestion: What?\n(A). x\n(B). y\n"
            f"{DIRECTLY}\n"
        ),
    ),
    (
        ("lvbench", "videochat-flash", ("(A) x", "(B) y"), ""),
        f"What?\nA. (A) x\nB. (B) y\n{DIRECTLY}",
    ),
    (("vnbench", "official", ("x", "y"), ""), f"What?\nA. x\nB. y\n{DIRECTLY}"),
    (("vnbench", "video-xl", ("x", "y"), ""), "Question: What?\nOptions:\n(A) x\n(B) y\n"),
    (
        ("mvbench", "videochat-flash", ("x", "{y}"), ""),
        "Question: What?\nOption:\n(A) x\n(B) {y}\n\nOnly give the best option.",
    ),
]


@pytest.mark.parametrize(("asked", "prompt"), MADE)
def test_prompts(asked: tuple[str, str, tuple[str, ...], str], prompt: str) -> None:
    task, style, options, subtitles = asked
    assert STYLES[task][style].prompt("What?", options, subtitles) == prompt


def test_every_style_can_be_filled_and_read() -> None:
    for task, styles in STYLES.items():
        for name, style in styles.items():
            assert "What?" in style.prompt("What?", ("x",), ""), (task, name)
            assert style.read in READERS or style.read == "span"
            if style.with_subtitles:
                assert "Hi." in style.prompt("What?", ("x",), "Hi.")


def test_tasks_with_subtitles_show_them_in_every_style() -> None:
    shown = {name: {bool(one.with_subtitles) for one in STYLES[name].values()} for name in STYLES}
    assert shown.pop("video-mme") == shown.pop("longvideobench") == {True}
    assert all(styles == {False} for styles in shown.values())


def test_a_system_is_asked_as_its_published_results_were() -> None:
    assert style_for("video-mme", "longva", None)[0] == "longva"
    assert style_for("mlvu", "video_xl", None)[0] == "video-xl"
    assert style_for("lvbench", "videochat_flash", None)[0] == "videochat-flash"
    assert style_for("vnbench", "llava_onevision", None)[0] == "official"
    assert style_for("mlvu", "longva", "official")[0] == "official"
    with pytest.raises(OptionError, match="mlvu has no style 'x'; choose official, lmms-eval"):
        style_for("mlvu", "longva", "x")
