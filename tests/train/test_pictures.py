"""Generated frames and the reading loss: determinism, ranges, what counts as right."""

import numpy as np
import pytest
import torch
from PIL import Image

from longtake.api import DEFAULT
from longtake.folder import read_tower
from longtake.train.haystack import PAINTERS, haystack_frame, wear
from longtake.train.initial import new_model
from longtake.train.joint import lay_out
from longtake.train.pictures import background_picture, card_picture, squash, to_pixels
from longtake.train.read import reading_loss, score, see
from longtake.train.text import symbol_frames
from longtake.train.tokenizer import FRAME_TOKENS, Symbols, build_tokenizer
from longtake.train.words import TEST_WORDS, random_word
from longtake.video.cards import Card
from longtake.video.pixels import ClipProcessor

CARDS = [Card(number=42, word="RIVER", colour="red"), Card(number=17, word="ZOO", colour="cyan")]


def test_frames_depend_on_the_seed_alone() -> None:
    def draw(seed: int) -> bytes:
        rng = np.random.default_rng(seed)
        pictures = [haystack_frame(rng), background_picture(rng)]
        pictures.append(card_picture(CARDS[0], rng, [None], 1.0))
        return b"".join(picture.tobytes() for picture in pictures)

    assert draw(5) == draw(5)
    assert draw(5) != draw(6)


def test_every_painter_varies() -> None:
    rng = np.random.default_rng(0)
    for painter in PAINTERS:
        assert len({painter(rng).tobytes() for _ in range(4)}) == 4


def test_no_wear_changes_nothing_and_full_wear_something() -> None:
    picture = haystack_frame(np.random.default_rng(1))
    rng = np.random.default_rng(2)
    assert wear(picture, rng, 0.0).tobytes() == picture.tobytes()
    assert len({wear(picture, rng, 1.0).tobytes() for _ in range(8)}) > 1


def test_training_sees_what_the_shipped_processor_makes() -> None:
    picture = card_picture(CARDS[0], np.random.default_rng(0), [None], 1.0)
    large = Image.effect_noise((320, 180), 60).convert("RGB")
    processor = ClipProcessor.from_config(read_tower(DEFAULT / "vision_tower").pixels)
    for one in (picture, large):
        frame = torch.from_numpy(np.array(one)).permute(2, 0, 1)[None]
        torch.testing.assert_close(to_pixels([squash(one)]), processor(frame), atol=1e-6, rtol=0)


def test_test_words_are_never_drawn() -> None:
    rng = np.random.default_rng(0)
    words = [random_word(rng) for _ in range(20_000)]
    assert not set(words) & set(TEST_WORDS)
    assert {len(word) for word in words} == {3, 4, 5, 6}
    assert {letter for word in words for letter in word} == set("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


@pytest.fixture(scope="module")
def symbols() -> Symbols:
    return Symbols.of(build_tokenizer())


def test_tokens_that_equal_the_embeddings_read_perfectly(symbols: Symbols) -> None:
    model = new_model(430, 0)
    wanted = torch.tensor([symbols.frame(card) for card in CARDS])
    tokens = model.embed(wanted).detach()
    assert set(score(model, symbols, CARDS, tokens).values()) == {1.0}
    outcome = reading_loss(model, symbols, CARDS, tokens, pull=0.3)
    assert float(outcome.loss.detach()) < 0.05
    spoiled = tokens.clone()
    spoiled[0, 4] = model.embed(torch.tensor(symbols.letters[0]))
    found = score(model, symbols, CARDS, spoiled)
    assert found["word"] == 0.5
    assert found["letter"] == 7 / 8
    assert found["number"] == found["colour"] == 1.0
    spoilt = reading_loss(model, symbols, CARDS, spoiled, pull=0.3)
    assert float(spoilt.loss.detach()) > 0.3


def test_a_frame_becomes_sixteen_tokens() -> None:
    model = new_model(430, 0)
    pictures = [card_picture(card, np.random.default_rng(0), [None], 0.0) for card in CARDS]
    assert see(model, to_pixels(pictures)).shape == (2, FRAME_TOKENS, 192)


def test_symbol_frames_hold_their_card_once(symbols: Symbols) -> None:
    model = new_model(430, 0)
    rng = np.random.default_rng(0)
    frames = symbol_frames(model, symbols, [CARDS[0], None], 6, 0.0, rng)
    table = model.decoder.embed_tokens.weight
    said = (frames @ table.T).argmax(-1).unflatten(1, (6, FRAME_TOKENS))
    wanted = torch.tensor(symbols.frame(CARDS[0]))
    assert int((said[0] == wanted).all(1).sum()) == 1
    assert int((said == symbols.card).sum()) == 1


def test_rows_hold_their_own_card_in_one_run_of_frames() -> None:
    cards = torch.arange(2.0).reshape(2, 1, 1).expand(2, FRAME_TOKENS, 4) + 10
    pool = torch.zeros(5, FRAME_TOKENS, 4, requires_grad=True)
    lengths = set()
    for seed in range(40):
        rows = lay_out(cards, pool, [CARDS[0], None], 12, np.random.default_rng(seed))
        first, second = rows.unflatten(1, (12, FRAME_TOKENS))[:, :, 0, 0].tolist()
        lengths.add(first.count(10))
        assert "".join(str(int(value > 0)) for value in first).strip("0") == "1" * first.count(10)
        assert second == [0] * 12
    assert {1, 2, 3, 8} <= lengths
