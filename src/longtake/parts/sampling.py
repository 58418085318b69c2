"""Choose the next token as the published generation configs define it. V vocabulary.

Order as in transformers: repetition penalty, temperature, top-k, top-p, then draw. The penalty
looks at the tokens *written* only, never at the prompt: the originals call generate() with
embeddings, so the prompt has no ids - and it acts on greedy decoding too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from longtake.errors import OptionError
from longtake.types import Options


def penalise(logits_V: Tensor, written: Sequence[int], penalty: float) -> Tensor:
    """Push down logits of written tokens (CTRL, section 4.1): positive / penalty, negative *."""
    if penalty == 1.0 or not written:
        return logits_V
    ids = torch.tensor(sorted(set(written)), device=logits_V.device)
    chosen = logits_V[ids]
    logits_V = logits_V.clone()
    logits_V[ids] = torch.where(chosen < 0, chosen * penalty, chosen / penalty)
    return logits_V


def keep_top_k(logits_V: Tensor, k: int) -> Tensor:
    """All but the k largest to -inf; ties with the k-th stay. 0 keeps all."""
    if k == 0 or k >= len(logits_V):
        return logits_V
    return logits_V.masked_fill(logits_V < logits_V.topk(k).values[-1], -torch.inf)


def keep_top_p(logits_V: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most probable tokens whose mass reaches p; at least one."""
    if p >= 1.0:
        return logits_V
    ascending, order = logits_V.sort()
    drop = ascending.softmax(-1).cumsum(-1) <= 1.0 - p
    drop[-1] = False
    return logits_V.masked_fill(torch.zeros_like(drop).scatter(0, order, drop), -torch.inf)


def choose(
    logits_V: Tensor, written: Sequence[int], options: Options, generator: torch.Generator
) -> int:
    """The next token id. Raises OptionError if the logits are not finite."""
    if not bool(torch.isfinite(logits_V).all()):
        raise OptionError("the model's logits are not finite; use dtype bfloat16 or float32")
    scores_V = penalise(logits_V, written, options.repetition_penalty)
    if options.temperature == 0.0:
        return int(scores_V.argmax())
    scores_V = keep_top_p(keep_top_k(scores_V / options.temperature, options.top_k), options.top_p)
    return int(torch.multinomial(scores_V.softmax(-1).cpu(), 1, generator=generator))
