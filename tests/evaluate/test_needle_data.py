"""Lists of needles as they were published, and what is wrong with one in one line."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from longtake.errors import LongtakeError
from longtake.evaluate.multihop import Chains, drawn_chains
from longtake.evaluate.needle_data import drawn_needles, read_needles

SINGLE = {"image": "a.png", "question": "What?", "answer": "B", "id": 3}
CHAIN = {
    "images": ["a.png", "a.png"],
    "question1": "Which?",
    "answer1": "A",
    "question2": "What?",
    "answer2": "C",
}


def listed(folder: Path, items: object, name: str = "list.json") -> Path:
    """A list in a folder with one picture."""
    Image.new("RGB", (8, 6), (1, 2, 3)).save(folder / "a.png")
    path = folder / name
    path.write_text(items if isinstance(items, str) else json.dumps(items))
    return path


@pytest.mark.parametrize(
    "item",
    [
        SINGLE,
        {"path": "a.png", "prompt": "What?", "answer": "B"},
        {"image": "a.png", "question": "What?", "answer": 200},
    ],
)
def test_published_single_lists(tmp_path: Path, item: dict) -> None:
    listed(tmp_path, [item, item])
    first, second = read_needles(tmp_path, chains=False)
    assert (first.asks[0].question, first.asks[0].answer) == ("What?", str(item["answer"]))
    assert first.pictures[0].draw(100, 50).shape == (3, 6, 8)
    assert (first.name, second.name) == (("3", "3") if "id" in item else ("0", "1"))


def test_pictures_beside_a_list_in_a_folder_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "images").mkdir()
    path = listed(tmp_path / "data", [SINGLE])
    (tmp_path / "data" / "a.png").rename(tmp_path / "images" / "a.png")
    assert len(read_needles(path, chains=False)) == 1
    assert len(read_needles(tmp_path, chains=False)) == 1


def test_video_xls_columns_and_json_lines(tmp_path: Path) -> None:
    columns = {"retrieval_question": ["What?", "Who?"], "answer": ["D", "C"]}
    listed(tmp_path, columns | {"needle": ["a.png", "a.png"]})
    assert [n.asks[0].answer for n in read_needles(tmp_path, chains=False)] == ["D", "C"]
    (tmp_path / "list.json").unlink()
    listed(tmp_path, json.dumps(SINGLE) + "\n\n" + json.dumps(SINGLE), "list.jsonl")
    assert len(read_needles(tmp_path, chains=False)) == 2


def test_lines_with_unicode_line_breaks_in_them(tmp_path: Path) -> None:
    """A JSON string may hold U+2028 and U+0085; a file of another system may begin with a mark."""
    said = SINGLE | {"question": "What?\u2028Or\u0085who?"}
    text = json.dumps(said, ensure_ascii=False)
    listed(tmp_path, SINGLE, "list.jsonl").write_text(f"\ufeff{text}\n{text}\n", "utf-8")
    needles = read_needles(tmp_path, chains=False)
    assert [needle.asks[0].question for needle in needles] == [said["question"]] * 2


def test_a_data_set_that_holds_its_pictures(tmp_path: Path) -> None:
    """V-NIAH's own: parquet of image, question, answer."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (wanted,) = read_needles(listed(tmp_path, [SINGLE]), chains=False)
    data = (tmp_path / "a.png").read_bytes()
    image = {"bytes": data, "path": "ucsd.jpeg"}
    (tmp_path / "set/data").mkdir(parents=True)
    file = tmp_path / "set/data/test-00000-of-00001.parquet"
    for held in (image, image | {"path": None}):
        rows = [{"image": held, "question": "What?", "answer": "B"}] * 2
        parquet.write_table(arrow.Table.from_pylist(rows), file)
        first, second = read_needles(tmp_path / "set", chains=False)
        assert (first.name, second.name) == ("0", "1")
        assert first.identity() == wanted.identity()
        assert torch.equal(first.pictures[0].draw(4, 4), wanted.pictures[0].draw(4, 4))
    rows[1] = rows[1] | {"image": {"bytes": data[:20], "path": "b.png"}}
    parquet.write_table(arrow.Table.from_pylist(rows), file)
    with pytest.raises(LongtakeError, match=r"item 2, b.png cannot be read") as told:
        read_needles(file, chains=False)
    assert "\n" not in str(told.value)
    file.write_bytes(b"PAR1")
    with pytest.raises(LongtakeError, match="cannot be read as parquet"):
        read_needles(file, chains=False)


def test_published_chains(tmp_path: Path) -> None:
    (needle,) = read_needles(listed(tmp_path, [CHAIN]), chains=True)
    assert [(a.name, a.answer) for a in needle.asks] == [("caption", "A"), ("answer", "C")]
    assert len(needle.pictures) == 2


@pytest.mark.parametrize(
    ("items", "chains", "said"),
    [
        ("{", False, "is no JSON"),
        ("[]", False, "lists no needle"),
        ("[3]", False, "must be a list of objects"),
        ({"needle": ["a.png"], "answer": [], "retrieval_question": []}, False, "of one length"),
        ([SINGLE | {"question": ""}], False, "item 1: question must be a text"),
        ([SINGLE, SINGLE | {"answer": None}], False, "item 2: answer must be a text"),
        ([SINGLE | {"question": "<image> what?"}], False, "leave <image> out of question"),
        ([SINGLE | {"image": "b.png"}], False, "'b.png' is not there"),
        ([SINGLE | {"image": None}], False, "image must be a file's name"),
        ([SINGLE | {"image": "list.json"}], False, "cannot be read"),
        ([CHAIN], False, "use --kind multihop"),
        ([SINGLE], True, "has no images"),
        ([CHAIN | {"images": ["a.png"]}], True, "2 or more"),
        ([CHAIN | {"question2": 1.5}], True, "question2 must be a text"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, items: object, chains: bool, said: str
) -> None:
    path = listed(tmp_path, items)
    with pytest.raises(LongtakeError, match=said) as told:
        read_needles(path, chains)
    assert "\n" not in str(told.value)


def test_folders_without_one_list(tmp_path: Path) -> None:
    with pytest.raises(LongtakeError, match="holds no list of needles"):
        read_needles(tmp_path, chains=False)
    with pytest.raises(LongtakeError, match="does not exist"):
        read_needles(tmp_path / "none", chains=False)
    listed(tmp_path, [SINGLE])
    listed(tmp_path, [SINGLE], "other.json")
    with pytest.raises(LongtakeError, match="several lists"):
        read_needles(tmp_path, chains=False)


def test_a_picture_that_is_cut_short(tmp_path: Path) -> None:
    path = listed(tmp_path, [SINGLE])
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LongtakeError, match="cannot be read"):
        read_needles(path, chains=False)


def test_cards_depend_on_the_seed_alone() -> None:
    first, again, other = (drawn_needles(5, seed) for seed in (7, 7, 8))
    assert [n.identity() for n in first] == [n.identity() for n in again]
    assert [n.identity() for n in first] != [n.identity() for n in other]
    # asking for more does not change the first
    assert [n.identity() for n in drawn_needles(9, 7)[:5]] == [n.identity() for n in first]


@pytest.mark.parametrize("how", [Chains(count=4), Chains(count=3, cards=4, others=2)])
def test_a_chain_leads_from_the_named_card_to_the_asked_one(how: Chains) -> None:
    for needle in drawn_chains(how, 7):
        cards = {link.card.word: link for link in needle.pictures}
        assert len(cards) == len(needle.pictures) == how.cards * (1 + how.others)
        word = needle.asks[0].question.split("the word ")[1].split(".")[0]
        followed = [word]
        while cards[followed[-1]].following is not None:
            followed.append(cards[followed[-1]].following)
        assert len(followed) == how.cards
        end = cards[followed[-1]].card
        assert [ask.answer for ask in needle.asks] == [end.word, str(end.number)]
        ends = [link for link in cards.values() if link.following is None]
        assert len(ends) == 1 + how.others
        assert len({link.card.number for link in cards.values()}) == len(cards)


def test_chains_depend_on_the_seed_alone_and_are_shuffled() -> None:
    first, again, other = (drawn_chains(Chains(count=6), seed) for seed in (7, 7, 8))
    assert [n.identity() for n in first] == [n.identity() for n in again]
    assert [n.identity() for n in first] != [n.identity() for n in other]
    places = {[p.card.word for p in n.pictures].index(n.asks[0].answer) for n in first}
    assert len(places) > 1


def test_the_foot_of_a_card_is_drawn_in_any_frame() -> None:
    link = next(p for p in drawn_chains(Chains(count=1), 7)[0].pictures if p.following)
    for width, height in ((640, 360), (180, 320), (48, 48)):
        with_foot = link.draw(width, height)
        plain = super(type(link), link).draw(width, height)
        changed = (with_foot != plain).any(0)
        assert changed.any()
        rows = changed.any(1).nonzero().flatten()
        assert rows.min() > 0.7 * height, "the word above stays as it is"
        columns = changed.any(0).nonzero().flatten()
        assert columns.max() < width - 1, "nothing is cut off"
