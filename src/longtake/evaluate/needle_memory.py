"""Memories of haystacks with needles in them, and the two ways to ask one.

Where reading goes on token by token, what two haystacks begin with in common is read once: a grid
goes through its depths from the front, so that the frames before a needle are there already.

Letters: N visual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.answering import answer
from longtake.bilevel import TwoLevelCache
from longtake.engine import block_size, memory_errors, prefill
from longtake.errors import OptionError
from longtake.evaluate.needle_hay import Hay, take
from longtake.evaluate.needle_rules import Rule, bare
from longtake.parts.cache import GrowingCache
from longtake.parts.quantise import quantised
from longtake.parts.splice import entries_of
from longtake.reader import Known
from longtake.system import System
from longtake.systems.video_xl import VideoXL
from longtake.types import Answer, Memory, Reading, VisualTokens
from longtake.video.sample import Shown

ANSWER_TOKENS = 32
"""Most tokens of a generated answer unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A haystack with its needles."""

    tokens: VisualTokens
    """As the language model reads them."""
    seconds: tuple[float, ...]
    """When each needle is shown."""
    slack: float
    """Longest time from one unit to the next."""


def fill(
    system: System, hay: Hay, groups: Sequence[Sequence[int]], needles: Sequence[VisualTokens]
) -> Filled:
    """Rows of the haystack with a needle between each group and the next."""
    parts, moments = [take(hay.tokens, groups[0])], []
    for needle, group in zip(needles, groups[1:], strict=True):
        following = take(hay.tokens, group)
        before = [time for part in parts for time in part.seconds]
        moment = following.seconds[0] if following.seconds else (before[-1] if before else 0.0)
        moments.append(moment)
        parts += [replace(needle, seconds=(moment,) * len(needle.counts)), following]
    whole = joined(parts)
    stream = iter([whole]) if hay.settled else system.compress(iter([whole]))
    times = whole.seconds
    gaps = [later - earlier for earlier, later in pairwise(times)]
    arranged = VisualTokens.join(list(system.arrange(stream)))
    return Filled(tokens=arranged, seconds=tuple(moments), slack=max(gaps, default=hay.duration))


def joined(parts: Sequence[VisualTokens]) -> VisualTokens:
    """All parts that hold something."""
    return VisualTokens.join([part for part in parts if part.counts])


def reads_on(system: System) -> bool:
    """Whether later tokens change nothing of what earlier ones left in a memory."""
    plain = type(system.new_cache()) is GrowingCache and not isinstance(system, VideoXL)
    return plain and system.kv == "full" and system.extend is None


@dataclass(kw_only=True)
class Bench:
    """A system at work on one memory after another; only the newest may be asked."""

    system: System
    rule: Rule
    tokens_read: int = 0
    """Visual tokens the language model has read so far, for the account."""
    _cache: GrowingCache | None = field(default=None, init=False)
    _read: Tensor | None = field(default=None, init=False)

    def memory(self, filled: Filled, hay: Hay, frames: int) -> Memory:
        """A memory of a filled haystack. Raises CapacityError."""
        system, visual = self.system, filled.tokens
        with memory_errors():
            on = reads_on(system)
            reading, cache, target = self._continued(visual) if on else self._anew(visual, frames)
            cache = cache if system.kv == "full" else quantised(cache, system.kv)
        shown = Shown(frames=frames, seconds=hay.duration, times=tuple(visual.seconds))
        return Memory(
            cache=cache,
            length=cache.get_seq_length(),
            entries=reading.entries,
            durations=(hay.duration,),
            system=system.name,
            fingerprint=system.fingerprint,
            ids=reading.ids,
            windows=reading.windows,
            lead=system.follow(shown, last=True) if self.rule.own_words else "",
            target=target,
            depth="tokens" if cache.unread else "kv",
        )

    def _anew(self, visual: VisualTokens, frames: int) -> tuple[Reading, GrowingCache, int]:
        system, head = self.system, self.system.tokens(self.system.template.head())
        self._cache = self._read = None  # two at a time might not fit
        count = len(visual.features_ND)
        target = system.target_for(count - visual.newlines, system.nominal(frames))
        cache, system = system.new_cache(), system.scaled(target)
        system.make_room(cache, len(head) + count, count)
        reading = system.remember(iter([head, visual]), cache, Known(len(head) + count))
        self.tokens_read += count
        return reading, cache, target

    def _continued(self, visual: VisualTokens) -> tuple[Reading, GrowingCache, int]:
        """Go on behind what the memory before had in common with this one."""
        system, head = self.system, self.system.tokens(self.system.template.head())
        features_ND = visual.features_ND
        cache, shared = self._cache, common_rows(self._read, features_ND)
        self._cache = self._read = None
        if cache is None:
            cache = system.new_cache()
        total = len(head) + len(features_ND)
        if cache.get_seq_length() == 0:
            system.make_room(cache, total, len(features_ND))
            embedded_SD = system.embed_text(system.template.head())
            prefill(system.model, iter([embedded_SD]), cache)
        cache.rewind(len(head) + shared)
        system.make_room(cache, total, len(features_ND))
        left_ND = features_ND[shared:]
        if len(left_ND):
            prefill(system.model, iter(left_ND.split(block_size(system.model))), cache)
        self.tokens_read += len(left_ND)
        self._cache, self._read = cache, features_ND
        entries = tuple(entries_of(visual, len(head)))
        return Reading(features_D=None, entries=entries, ids=head), cache, 0


def common_rows(before_ND: Tensor | None, now_ND: Tensor) -> int:
    """How many rows two tensors begin with in common."""
    if before_ND is None:
        return 0
    count = min(len(before_ND), len(now_ND))
    differs_N = (before_ND[:count] != now_ND[:count]).any(1)
    return int(differs_N.int().argmax()) if bool(differs_N.any()) else count


def forced(
    bench: Bench, memory: Memory, question: str, wanted: str
) -> tuple[bool, tuple[int, ...]]:
    """Teacher-forced: whether each token of the wanted answer is the likeliest behind the others.

    Also the likeliest ids. Raises OptionError for a memory of two copies, which only writing reads.
    """
    system, cache = bench.system.scaled(memory.target), memory.cache
    assert isinstance(cache, GrowingCache)
    if isinstance(cache, TwoLevelCache):
        raise OptionError("two copies are read by writing alone; use --score generated")
    answer_ids, ids = system.tokens(wanted), asked_ids(bench, memory, question)
    try:
        cache.reserve(memory.length + len(ids) + len(answer_ids))
        with memory_errors():
            found = likeliest(bench, cache, system.read(cache, ids), answer_ids)
    finally:
        cache.rewind(memory.length)
    if bench.rule.match == "letters":
        said, meant = (
            system.tokenizer.decode(list(ids), skip_special_tokens=False)
            for ids in (found, answer_ids)
        )
        return bare(said) == meant.lower(), found
    return found == answer_ids, found


@torch.no_grad()
def likeliest(
    bench: Bench, cache: GrowingCache, features_D: Tensor, answer_ids: Sequence[int]
) -> tuple[int, ...]:
    """The likeliest token at each place of an answer that is given. `features_D`: before it."""
    model = bench.system.model
    rows = len(model.lm_head.weight) if bench.rule.whole_head else model.usable_vocab
    head_VD, found = model.lm_head.weight[:rows], []
    for token in answer_ids:
        found.append(int(F.linear(features_D, head_VD.to(features_D.dtype)).argmax()))
        if len(found) < len(answer_ids):
            one = model.embed(torch.tensor([token], device=features_D.device))
            features_D = prefill(model, iter([one]), cache)
    return tuple(found)


def asked_ids(bench: Bench, memory: Memory, question: str) -> tuple[int, ...]:
    """Ids from the video's end to where the answer is to begin."""
    system, rule = bench.system, bench.rule
    tail = system.template.tail(rule.asked(question))
    return system.tokens(memory.lead + tail + rule.opening)


def generated(bench: Bench, memory: Memory, question: str, tokens: int = ANSWER_TOKENS) -> Answer:
    """A greedy answer, with the checkpoint's repetition penalty."""
    system, rule, cache = bench.system, bench.rule, memory.cache
    options = system.options(max_new_tokens=tokens)
    if not rule.opening:
        return system.ask(memory, rule.asked(question), options)
    assert isinstance(cache, GrowingCache)
    ids = asked_ids(bench, memory, question)
    try:
        cache.reserve(memory.length + len(ids) + tokens)
        return answer(system.scaled(memory.target), memory, ids, replace(options, stop=(")",)))
    finally:
        cache.rewind(memory.length)
