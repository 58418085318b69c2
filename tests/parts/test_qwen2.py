"""The decoder, its attention and its cache against transformers' Qwen2 and the obvious path."""

import pytest
import torch
from transformers import Qwen2Config, Qwen2Model

from longtake.parts.attention import attend, attend_masked, last_row_weights
from longtake.parts.cache import SLACK, GrowingCache, kv_bytes_per_token
from longtake.parts.qwen2 import Decoder, Step, decoder_config
from longtake.parts.rope import Rope

THETA = 1e6


@pytest.fixture(scope="module")
def pair() -> tuple[Qwen2Model, Decoder]:
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=100,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        attn_implementation="sdpa",
    )
    reference = Qwen2Model(config).eval()
    decoder = Decoder(decoder_config(config.to_dict(), Rope(theta=THETA))).eval()
    decoder.load_state_dict(reference.state_dict())
    return reference, decoder


def positions(start: int, stop: int, batch: int = 1) -> torch.Tensor:
    return torch.arange(start, stop).expand(batch, -1)


def test_equals_transformers(pair: tuple[Qwen2Model, Decoder]) -> None:
    reference, decoder = pair
    ids = torch.randint(0, 100, (2, 50))
    with torch.no_grad():
        ours = decoder(decoder.embed_tokens(ids), Step(positions_BS=positions(0, 50, 2)))
        theirs = reference(ids).last_hidden_state
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("chunk", [1, 3, 8, 49, 50])
def test_chunks_equal_whole(pair: tuple[Qwen2Model, Decoder], chunk: int) -> None:
    _, decoder = pair
    x = torch.randn(1, 50, 64)
    cache = GrowingCache()
    with torch.no_grad():
        whole = decoder(x, Step(positions_BS=positions(0, 50)))
        pieces = [
            decoder(piece, Step(positions_BS=positions(at, at + piece.shape[1]), cache=cache))
            for at, piece in zip(range(0, 50, chunk), x.split(chunk, 1), strict=True)
        ]
    # fp32 sums in another order; the features are of size 1
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-5)
    assert cache.get_seq_length() == 50
    assert cache.nbytes == 50 * kv_bytes_per_token(3, 2, 16, torch.float32)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "queries", "keys"),
    [(8, 2, 5, 13), (4, 4, 64, 300), (6, 2, 1, 77), (8, 2, 33, 33), (7, 1, 2, 3)],
)
def test_attention_equals_masked(heads: int, kv_heads: int, queries: int, keys: int) -> None:
    torch.manual_seed(queries)
    q = torch.randn(2, heads, queries, 16)
    k, v = torch.randn(2, 2, kv_heads, keys, 16)
    with torch.no_grad():
        torch.testing.assert_close(attend(q, k, v), attend_masked(q, k, v, None), rtol=0, atol=2e-6)
    with_gradients = attend(q.requires_grad_(), k, v)
    torch.testing.assert_close(with_gradients, attend_masked(q, k, v, None), rtol=0, atol=2e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_the_last_position_alone_equals_the_last_of_all(
    pair: tuple[Qwen2Model, Decoder], masked: bool
) -> None:
    """Features, keys and values of every layer, and what the last query looks at; in blocks."""
    _, decoder = pair
    x, runs = torch.randn(1, 50, 64), []
    for last_only in (True, False):
        cache, seen = GrowingCache(), []
        for start, stop in ((0, 31), (31, 32), (32, 50)):
            step = Step(
                positions_BS=positions(start, stop),
                cache=cache,
                mask_BSN=torch.ones(stop, stop).tril().bool()[None, start:] if masked else None,
                observe=lambda layer, row_BHN, seen=seen: seen.append((layer, row_BHN)),
                last_only=last_only,
            )
            with torch.no_grad():
                features = decoder(x[:, start:stop], step)
        assert features.shape[1] == (1 if last_only else 18)
        held = [(layer.keys, layer.values) for layer in cache.layers]
        runs.append((features[:, -1:], held, seen))
    assert [layer for layer, _ in runs[0][2]] == [0, 1, 2] * 3
    torch.testing.assert_close(*runs, rtol=0, atol=1e-5)


def test_last_row_weights() -> None:
    torch.manual_seed(3)
    q, k = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 9, 8)
    scores = q[:, :, -1:] @ k.repeat_interleave(2, 1).transpose(2, 3) / 8**0.5
    torch.testing.assert_close(last_row_weights(q, k), scores.softmax(-1)[:, :, 0])


def test_between_drops_and_moves(pair: tuple[Qwen2Model, Decoder]) -> None:
    """The seam equals running the layers by hand with the dropped input."""
    _, decoder = pair
    x, keep = torch.randn(1, 10, 64), torch.tensor([0, 3, 4, 9])

    def drop(layer: int, x_BSD: torch.Tensor, step: Step) -> tuple[torch.Tensor, Step]:
        if layer != 0:
            return x_BSD, step
        return x_BSD[:, keep], Step(positions_BS=positions(0, 4))

    with torch.no_grad():
        ours = decoder(x, Step(positions_BS=positions(0, 10)), drop)
        long, short = Step(positions_BS=positions(0, 10)), Step(positions_BS=positions(0, 4))
        y = decoder.layers[0](x, long, decoder.table(long, x.dtype))[:, keep]
        for layer in decoder.layers[1:]:
            y = layer(y, short, decoder.table(short, x.dtype))
        torch.testing.assert_close(ours, decoder.norm(y), rtol=0, atol=0)


def test_cache_moves_only_when_full_and_rewinds() -> None:
    cache = GrowingCache()
    cache.reserve(100)
    token = torch.randn(1, 2, 1, 4)
    cache.update(token, token, 0)
    home = cache.layers[0].key_buffer
    assert home is not None and home.shape[2] == 100 + SLACK
    block = torch.randn(1, 2, 99 + SLACK, 4)
    cache.update(block, -block, 0)
    assert cache.layers[0].key_buffer is home
    keys, values = cache.update(token, token, 0)
    assert cache.layers[0].key_buffer is not home
    torch.testing.assert_close(keys, torch.cat([token, block, token], 2), rtol=0, atol=0)
    torch.testing.assert_close(values, torch.cat([token, -block, token], 2), rtol=0, atol=0)
    cache.rewind(5)
    keys, _ = cache.update(token * 2, token, 0)
    torch.testing.assert_close(keys, torch.cat([token, block[:, :, :4], token * 2], 2))


def test_cache_survives_batch_selection() -> None:
    cache = GrowingCache()
    rows = torch.randn(2, 1, 3, 4)
    cache.update(rows, rows, 0)
    cache.layers[0].reorder_cache(torch.tensor([1, 1]))
    keys, _ = cache.update(rows, rows, 0)
    torch.testing.assert_close(keys, torch.cat([rows[[1, 1]], rows], 2), rtol=0, atol=0)
