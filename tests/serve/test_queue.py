"""The waiting line: order, bounds, who left."""

import pytest

from longtake.serve.faults import Refusal
from longtake.serve.queue import Line, Question


def question(video: str, text: str = "?") -> Question:
    return Question(video=video, text=text, tell=lambda told: None)


def texts(questions: list[Question]) -> list[str]:
    return [one.text for one in questions]


def test_questions_of_one_memory_are_taken_together_in_order() -> None:
    line = Line(questions=9, videos=1)
    for video, text in (("a", "1"), ("b", "2"), ("a", "3"), ("a", "4")):
        line.join(question(video, text))
    assert line.memories() == ("a", "b")
    assert texts(line.take("a", 2)) == ["1", "3"]
    assert line.memories() == ("b", "a"), "who was served goes behind the others"
    assert texts(line.take("b", 2)) == ["2"]
    assert texts(line.take("a", 2)) == ["4"]
    assert line.memories() == ()
    assert (line.waiting, line.answering) == (0, 4)


def test_it_is_full_until_answers_are_done() -> None:
    line = Line(questions=2, videos=1)
    line.join(question("a"))
    line.join(question("a"))
    for join in (lambda: line.join(question("b")), line.check):
        with pytest.raises(Refusal) as told:
            join()
        assert (told.value.status, told.value.code) == (429, "queue_full")
        assert 1 <= int(told.value.headers["Retry-After"]) <= 60
    line.take("a", 1)
    with pytest.raises(Refusal):
        line.check()
    line.answered()
    line.join(question("b"))


def test_who_left_takes_no_place() -> None:
    line = Line(questions=2, videos=1)
    here, gone = question("a", "here"), question("a", "gone")
    line.join(gone)
    line.join(here)
    gone.left.set()
    line.join(question("a", "more"))
    assert texts(line.take("a", 9)) == ["here", "more"]


def test_no_room_takes_nobody() -> None:
    line = Line(questions=2, videos=1)
    line.join(question("a"))
    assert line.take("a", 0) == []
    assert line.waiting == 1


def test_videos_wait_in_order() -> None:
    line = Line(questions=1, videos=2)
    line.enlist("a")
    line.enlist("b")
    with pytest.raises(Refusal, match="waiting to be watched"):
        line.enlist("c")
    assert line.place("b") == 1
    assert line.next_video() == "a"
    assert (line.place("a"), line.place("b"), line.videos) == (0, 1, 2)
    line.watched()
    assert line.drop_video("b") and not line.drop_video("b")
    assert line.next_video() is None


def test_a_closed_line_takes_nobody() -> None:
    line = Line(questions=2, videos=2)
    line.close()
    for join in (lambda: line.join(question("a")), lambda: line.enlist("a"), line.check):
        with pytest.raises(Refusal, match="being stopped"):
            join()
