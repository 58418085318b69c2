"""Causal attention over a past of any length without a mask the size of the past.

A chunk of queries sees all of the past and the part of its own chunk before it. With an explicit
mask that is S x N numbers (and, on CPU, twice the time); here the past and the chunk are attended
apart and merged by their log-sum-exps, which is exact (FlashAttention, section 3.1: blocks combine
by rescaling).

Letters: B batch, H query heads, K key/value heads, G = H/K, S queries, N keys, P past keys, E head
width, M folded queries (G * S).
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right


def attend(q_BHSE: Tensor, k_BKNE: Tensor, v_BKNE: Tensor) -> Tensor:
    """Attend from the last S of N positions, causally: [B, H, S, E]; N - S keys are the past."""
    queries, past = q_BHSE.shape[2], k_BKNE.shape[2] - q_BHSE.shape[2]
    if queries == 1:
        return _every_key(q_BHSE, k_BKNE, v_BKNE)
    if past == 0:
        return F.scaled_dot_product_attention(
            q_BHSE, k_BKNE, v_BKNE, is_causal=True, enable_gqa=True
        )
    if q_BHSE.is_cuda:
        mask = causal_lower_right(queries, past + queries)
        if not _has_flash(q_BHSE):
            # only flash reads grouped keys; without it torch would write out mask and scores
            repeats = q_BHSE.shape[1] // k_BKNE.shape[1]
            k_BKNE, v_BKNE = (x.repeat_interleave(repeats, 1) for x in (k_BKNE, v_BKNE))
        return F.scaled_dot_product_attention(
            q_BHSE, k_BKNE, v_BKNE, attn_mask=mask, enable_gqa=True
        )
    if q_BHSE.device.type == "cpu" and not torch.is_grad_enabled():
        return _past_then_chunk(q_BHSE, k_BKNE, v_BKNE, past)
    return attend_masked(q_BHSE, k_BKNE, v_BKNE, None)


def attend_masked(
    q_BHSE: Tensor, k_BKNE: Tensor, v_BKNE: Tensor, mask_BSN: Tensor | None
) -> Tensor:
    """The obvious path: one mask over everything (true = may see); None is causal, lower right."""
    if mask_BSN is None:
        shape = (q_BHSE.shape[2], k_BKNE.shape[2])
        ones = torch.ones(shape, dtype=torch.bool, device=q_BHSE.device)
        mask_BSN = ones.tril(shape[1] - shape[0])[None]
    return F.scaled_dot_product_attention(
        q_BHSE, k_BKNE, v_BKNE, attn_mask=mask_BSN[:, None], enable_gqa=True
    )


def padded_causal(valid_BN: Tensor, queries: int) -> Tensor:
    """Mask [B, S, N] of the last S of N tokens where only `valid` ones may be seen, causally."""
    keys = valid_BN.shape[1]
    causal = torch.ones(queries, keys, dtype=torch.bool, device=valid_BN.device)
    seen = causal.tril(keys - queries) & valid_BN[:, None]
    # a padding query sees itself, or its softmax would be 0/0
    itself = torch.eye(keys, dtype=torch.bool, device=valid_BN.device)[keys - queries :]
    return seen | itself


def last_row_weights(q_BHSE: Tensor, k_BKNE: Tensor) -> Tensor:
    """Attention of the last query over all keys: [B, H, N], fp32; one row, never the matrix."""
    groups = k_BKNE.shape[1]
    q_BKGE = q_BHSE[:, :, -1].unflatten(1, (groups, -1)) * q_BHSE.shape[-1] ** -0.5
    scores = (q_BKGE @ k_BKNE.to(q_BHSE.dtype).transpose(2, 3)).float()
    if torch.is_grad_enabled():
        return scores.softmax(-1).flatten(1, 2)
    # in place: on CPU a second buffer of this size costs as much as the arithmetic
    return torch.softmax(scores, -1, out=scores).flatten(1, 2)


def attend_part(
    q_BKME: Tensor, k_BKNE: Tensor, v_BKNE: Tensor, mask_B1MN: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention over some of the keys, [B, K, M, E], and its log-sum-exps [B, K, M], fp32.

    Queries are folded: M = G * S. `mask` is added to the scores. Parts join by `merge`.
    """
    if q_BKME.device.type == "cpu":
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, lse = flash(q_BKME, k_BKNE, v_BKNE, attn_mask=mask_B1MN)
        return out, lse
    return attend_part_in_blocks(q_BKME, k_BKNE, v_BKNE, mask_B1MN)


def attend_part_in_blocks(
    q_BKME: Tensor,
    k_BKNE: Tensor,
    v_BKNE: Tensor,
    mask_B1MN: Tensor | None = None,
    block: int = 4096,
) -> tuple[Tensor, Tensor]:
    """The same written out, so many keys at a time: where no kernel returns log-sum-exps."""
    scaled = q_BKME * q_BKME.shape[-1] ** -0.5
    whole: tuple[Tensor, Tensor] | None = None
    for start in range(0, k_BKNE.shape[2], block):
        span = slice(start, start + block)
        scores = (scaled @ k_BKNE[:, :, span].transpose(2, 3)).float()
        if mask_B1MN is not None:
            scores = scores + mask_B1MN[..., span]
        # of a block that a query may not see there is no sum; infinities would not merge
        lse = scores.logsumexp(-1).clamp(min=-1e30)
        weights = (scores - lse[..., None]).exp().to(v_BKNE.dtype)
        part = (weights @ v_BKNE[:, :, span], lse)
        whole = part if whole is None else merge(*whole, *part)
    assert whole is not None
    return whole


def merge(one: Tensor, one_lse: Tensor, two: Tensor, two_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over two sets of keys as one: outputs [..., M, E] and log-sum-exps [..., M]."""
    share = torch.sigmoid(one_lse - two_lse)[..., None].to(one.dtype)
    return torch.lerp(two, one, share), torch.logaddexp(one_lse, two_lse)


def fold(q_BHSE: Tensor, groups: int) -> Tensor:
    """[B, H, S, E] -> [B, K, G*S, E]: heads that share keys become rows, so keys are read once."""
    return q_BHSE.unflatten(1, (groups, -1)).flatten(2, 3)


def weighted_values(weights_BHN: Tensor, v_BKNE: Tensor) -> Tensor:
    """What one query gets by weights that are there already: [B, H, 1, E], as `attend` gives."""
    rows_BKGN = weights_BHN.unflatten(1, (v_BKNE.shape[1], -1))
    return (rows_BKGN.to(v_BKNE.dtype) @ v_BKNE).flatten(1, 2)[:, :, None]


def _has_flash(q_BHSE: Tensor) -> bool:
    """Whether torch's flash kernel takes this on its device: half precision, Ampere or later."""
    half = q_BHSE.dtype in (torch.float16, torch.bfloat16)
    return half and torch.cuda.get_device_capability(q_BHSE.device)[0] >= 8


def _every_key(q_BHSE: Tensor, k_BKNE: Tensor, v_BKNE: Tensor) -> Tensor:
    """Attention without a mask, keys read once for all heads that share them."""
    rows = fold(q_BHSE, k_BKNE.shape[1])
    # some kernels return a transposed layout, which view() refuses
    return F.scaled_dot_product_attention(rows, k_BKNE, v_BKNE).reshape(q_BHSE.shape)


def _past_then_chunk(q_BHSE: Tensor, k_BKNE: Tensor, v_BKNE: Tensor, past: int) -> Tensor:
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    shape, groups = q_BHSE.shape, k_BKNE.shape[1]
    rows = fold(q_BHSE, groups)
    old, old_lse = flash(rows, k_BKNE[:, :, :past], v_BKNE[:, :, :past])
    old, old_lse = old.reshape(shape), old_lse.reshape(shape[:3])
    repeats = shape[1] // groups
    k_new, v_new = (x[:, :, past:].repeat_interleave(repeats, 1) for x in (k_BKNE, v_BKNE))
    new, new_lse = flash(q_BHSE, k_new, v_new, is_causal=True)
    return merge(old, old_lse, new, new_lse)[0]
