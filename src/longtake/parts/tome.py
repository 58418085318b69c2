"""Token merging (ToMe, arXiv 2210.09461), the connector "tome16_mlp_hd64" of VideoChat-Flash.

All tokens of a clip are merged down to a fixed number in rounds that at most halve them: every even
token looks for the most similar odd one, and the most similar pairs become one token, the mean of
all patches in it. The tokens come out in the order of the last round, not of the picture; the
language model was trained on that order.

Similarities and sums are fp32 whatever the features are (the original works in the model's
precision, where bf16 leaves ties and sizes above 256 are rounded). On a GPU this relies on torch's
default of no TF32.

Letters: B clips, N tokens of a clip, M tokens wanted, S even tokens (sources), E odd ones
(destinations), R pairs merged, K sources kept, D width, W = D + 1, H width of a head.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.errors import PromptError


@dataclass(frozen=True, kw_only=True)
class Merged:
    """Tokens after merging."""

    features_BMD: Tensor
    """Mean of the patches of each token, in the dtype of the features merged."""
    sizes_BM: Tensor
    """Patches in each token, fp32; a clip's sum to its patches."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """Who merges into whom in one round."""

    merged_BR: Tensor
    """Sources that merge, the most similar first; index into S."""
    into_BR: Tensor
    """The destination of each; index into E."""
    kept_BK: Tensor
    """The sources that do not merge, the most similar first."""


def merge_rounds(tokens: int, target: int) -> tuple[int, ...]:
    """Tokens that each round merges away. Raises PromptError if there are fewer than `target`."""
    if not 1 <= target <= tokens:
        raise PromptError(f"{tokens} tokens of a clip cannot be merged to {target}")
    rounds = []
    while tokens > target:
        rounds.append(min(tokens // 2, tokens - target))
        tokens -= rounds[-1]
    return tuple(rounds)


def merge_tokens(x_BND: Tensor, target: int, heads: int) -> Merged:
    """Merge each clip's tokens to `target`: [B, N, D] -> [B, M, D]; `heads` of the tower.

    As many tokens as wanted stay as they are. Raises PromptError for fewer.
    """
    rounds = merge_rounds(x_BND.shape[1], target)
    if not rounds:
        return Merged(features_BMD=x_BND, sizes_BM=x_BND.new_ones(x_BND.shape[:2]).float())
    wide_BND = x_BND.float()
    # the last column counts the patches that the others are the sum of
    sums_BNW = torch.cat([wide_BND, torch.ones_like(wide_BND[..., :1])], dim=-1)
    with full_precision(x_BND.device):
        for merges in rounds:
            sums_BNW = merge(sums_BNW, match(sums_BNW, merges, heads))
    return Merged(features_BMD=means(sums_BNW).to(x_BND.dtype), sizes_BM=sums_BNW[..., -1])


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off: training in half precision must not round what is matched."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def means(sums_BNW: Tensor) -> Tensor:
    """Sums and their counts [B, N, D + 1] -> means [B, N, D]."""
    return sums_BNW[..., :-1] / sums_BNW[..., -1:]


def similarity_features(x_BND: Tensor, heads: int) -> Tensor:
    """The mean of the heads' channels, scaled to length 1: [B, N, H]."""
    return F.normalize(x_BND.unflatten(-1, (heads, -1)).mean(-2), dim=-1)


@torch.no_grad()
def match(sums_BNW: Tensor, merges: int, heads: int) -> Match:
    """The `merges` most similar pairs of an even and an odd token; ties go to the earlier one."""
    features_BNH = similarity_features(means(sums_BNW), heads)
    similarity_BSE = features_BNH[:, ::2] @ features_BNH[:, 1::2].mT
    best_BS, into_BS = similarity_BSE.max(dim=-1)
    order_BS = best_BS.argsort(dim=-1, descending=True, stable=True)
    merged_BR, kept_BK = order_BS[:, :merges], order_BS[:, merges:]
    return Match(merged_BR=merged_BR, into_BR=into_BS.gather(1, merged_BR), kept_BK=kept_BK)


def merge(sums_BNW: Tensor, pairs: Match) -> Tensor:
    """Add the merged sources to their destinations; kept sources come first, in their new order."""
    sources_BSW, destinations_BEW = sums_BNW[:, ::2], sums_BNW[:, 1::2]
    # a matrix of ones and zeros: adding by index is not deterministic on a GPU
    odd = torch.arange(destinations_BEW.shape[1], device=sums_BNW.device)
    adds_BER = (pairs.into_BR[:, None, :] == odd[:, None]).to(sums_BNW.dtype)
    added_BEW = destinations_BEW + adds_BER @ rows(sources_BSW, pairs.merged_BR)
    return torch.cat([rows(sources_BSW, pairs.kept_BK), added_BEW], dim=1)


def rows(x_BNW: Tensor, index_BK: Tensor) -> Tensor:
    """The rows of each clip at its indices: [B, K, W]."""
    return x_BNW.gather(1, index_BK[..., None].expand(-1, -1, x_BNW.shape[-1]))
