"""longtake as a model of lmms-eval, registered through its entry points (`lmms_eval.models`).

    lmms-eval --model longtake --model_args pretrained=lmms-lab/LongVA-7B,max_frames_num=128 \\
        --tasks videomme

Only lmms-eval imports this module. Requests about the same video share its memory; each rank of a
distributed run has its own device and its own requests, which lmms-eval hands out.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from lmms_eval.protocol import ChatMessages
from tqdm import tqdm

from longtake.api import load
from longtake.errors import LongtakeError, OptionError, PromptError
from longtake.parts.chat import QWEN_1_5, Turn
from longtake.system import System
from longtake.types import Memory, Options
from longtake.video.inputs import Source

LOG = logging.getLogger(__name__)
IGNORED = ("do_sample", "num_beams", "use_cache", "image_aspect_ratio", "modalities")
"""Generation settings of tasks that ask for nothing here: greedy, one beam, cached."""


def manifest() -> ModelManifest:
    """What lmms-eval asks for: the name and where the class is."""
    return ModelManifest(model_id="longtake", chat_class_path="longtake.evaluate.lmms.Longtake")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request, in our terms."""

    order: int
    """Its place among the requests."""
    context: str
    """As lmms-eval words it; names the request in its cache."""
    settings: Mapping[str, Any]
    system_prompt: str
    sources: tuple[Source, ...]
    start: float | None
    end: float | None
    history: tuple[Turn, ...]
    question: str

    @property
    def shown(self) -> tuple[object, ...]:
        """What a memory is made of: requests alike in this share one; empty if no path says so."""
        if not all(isinstance(one, str) for one in self.sources):
            return ()
        return (self.system_prompt, self.start, self.end, *self.sources)


class Longtake(lmms):  # type: ignore[misc]
    """A system of longtake that answers lmms-eval's requests."""

    is_simple = False

    def __init__(
        self,
        pretrained: str = "default",
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        **options: Any,
    ) -> None:
        """Load a model. `options`: max_frames_num, system, vision_tower, and options of the system.

        `batch_size` is accepted: questions about one video share its memory at any size, and each
        answer is the same at all.
        """
        frames = options.pop("max_frames_num", options.pop("max_frames", None))
        self.frames = None if frames is None else int(frames)
        loading = {name: options.pop(name, None) for name in ("system", "vision_tower")}
        chosen = device_of_rank(device, int(os.environ.get("LOCAL_RANK", 0)))
        self.system: System = load(pretrained, device=chosen, dtype=dtype, **loading)
        self.system = self.system.variant(**{name: worded(v) for name, v in options.items()})
        made = [self.system.fingerprint, dtype, self.frames, loading, sorted(options.items())]
        # lmms-eval names its folder of responses by this, some versions of it in the next line
        self.model_name = f"longtake-{hashlib.sha256(repr(made).encode()).hexdigest()[:16]}"
        super().__init__()
        self._rank = int(os.environ.get("RANK", 0))
        self._world_size = int(os.environ.get("WORLD_SIZE", 1))
        self.batch_size = batch_size

    @property
    def device(self) -> torch.device:
        """Where this rank computes; lmms-eval gathers counts there."""
        return self.system.model.device

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult | str]:
        """Answer requests; each video is watched once for all that are about it.

        Visuals are made ready group by group. What cannot be watched or answered is logged and gets
        an empty text, which no cache keeps. Raises PromptError and OptionError for what no task may
        ask of longtake, before anything is watched.
        """
        answers = self.remembered(requests)
        groups: dict[tuple[object, ...], list[int]] = {}
        for order, one in enumerate(requests):
            if order not in answers:
                groups.setdefault(self.group_of(one.args), []).append(order)
        left = len(requests) - len(answers)
        with tqdm(total=left, disable=self.rank != 0, desc="longtake") as bar:
            for orders in groups.values():
                group = [self.request(order, requests[order].args) for order in orders]
                for request, answer in self.answers(group):
                    answers[request.order] = answer
                    if answer.text:
                        self.remember(requests[request.order], request, answer.text)
                    bar.update(1)
        return [answers[order] for order in range(len(requests))]

    def remembered(self, requests: list[Instance]) -> dict[int, GenerationResult | str]:
        """Answers of lmms-eval's own cache of responses (LMMS_EVAL_USE_CACHE), by place.

        From 0.7.3 on lmms-eval keeps them itself and asks only for what is missing.
        """
        if not hasattr(self, "load_cache"):
            return {}
        self.load_cache()
        texts, left = self.get_response_from_cache(requests)
        new = {id(one) for one in left}
        orders = (order for order, one in enumerate(requests) if id(one) not in new)
        return dict(zip(orders, texts, strict=True))

    def remember(self, instance: Instance, request: Request, text: str) -> None:
        """Give an answer to lmms-eval's caches, of which there are one or two."""
        self.cache_hook.add_partial("generate_until", (request.context, request.settings), text)
        if hasattr(self, "add_request_response_to_cache"):
            self.add_request_response_to_cache(instance, text)

    def group_of(self, args: Sequence[Any]) -> tuple[object, ...]:
        """What requests have in common that share a memory.

        Paths and parts of videos; pictures and the like are told by their document, so that they
        need not be kept. Raises PromptError, OptionError.
        """
        request = self.request(0, args)
        options_of(self.system, request.settings)
        return request.shown or tuple(args[3:])

    def answers(self, group: Sequence[Request]) -> Iterator[tuple[Request, GenerationResult]]:
        """Watch once and ask each of a group of requests about the same."""
        first = group[0]
        system, memory = self.system, None
        if first.system_prompt:
            words = QWEN_1_5.system.replace("You are a helpful assistant.", first.system_prompt)
            system = replace(system, template=replace(system.template, system=words))
        try:
            if first.sources:
                memory = system.watch(
                    *first.sources, max_frames=self.frames, start=first.start, end=first.end
                )
        except LongtakeError as error:
            for one in group:
                yield one, unanswered(one, error)
            return
        for one in group:
            try:
                yield one, self.answer(system, memory, one)
            except LongtakeError as error:
                yield one, unanswered(one, error)

    def answer(self, system: System, memory: Memory | None, request: Request) -> GenerationResult:
        """Ask one."""
        options = options_of(system, request.settings)
        answer = system.ask(memory, request.question, options, request.history)
        counts = TokenCounts(input_tokens=answer.stats.prompt_tokens, output_tokens=len(answer.ids))
        return GenerationResult(text=answer.text, token_counts=counts)

    def request(self, order: int, args: Sequence[Any]) -> Request:
        """A request of lmms-eval: (context, messages of a document, settings, its place)."""
        context, messages_of, settings, doc, task, split = args
        told = ChatMessages(messages=messages_of(self.task_dict[task][split][doc]))
        roles = [
            (one.role, "".join(p.text for p in one.content if p.type == "text"))
            for one in told.messages
        ]
        prompts = [text for role, text in roles if role == "system"]
        turns = [(role, text) for role, text in roles if role != "system"]
        if not turns or turns[-1][0] != "user" or len(turns) % 2 == 0:
            raise PromptError(f"{task}, document {doc}: expected turns of user and assistant")
        parts = [part for one in told.messages for part in one.content if part.type != "text"]
        times = {(getattr(p, "start_time", None), getattr(p, "end_time", None)) for p in parts}
        if len(times) > 1 or any(part.type == "audio" for part in parts):
            raise PromptError(
                f"{task}, document {doc}: sound, or several videos with parts of their own, "
                "cannot be watched"
            )
        start, end = times.pop() if times else (None, None)
        texts = [text for _, text in turns]
        return Request(
            order=order,
            context=context,
            settings=dict(settings),
            system_prompt="\n".join(prompts),
            sources=tuple(source_of(part.url) for part in parts),
            start=start,
            end=end,
            history=tuple(zip(texts[0:-1:2], texts[1:-1:2], strict=True)),
            question=texts[-1],
        )

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refuse: answers are written here, not weighed."""
        raise OptionError("longtake writes answers; choose a task of kind generate_until")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse."""
        raise OptionError("longtake takes no tasks in rounds yet; choose one of generate_until")


def unanswered(request: Request, error: LongtakeError) -> GenerationResult:
    """Say in the log why there is no answer."""
    LOG.error("no answer to %r: %s", request.question[:80], error)
    return GenerationResult(text="", token_counts=TokenCounts(input_tokens=0, output_tokens=0))


def device_of_rank(device: str | None, local_rank: int) -> str:
    """The device a rank computes on: the one named, else a GPU of its own, else the CPU."""
    named = device or "auto"
    if named in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{local_rank % torch.cuda.device_count()}"
    return named


def source_of(url: Any) -> Source:
    """A path, an address or a PIL image."""
    if isinstance(url, str):
        return url.removeprefix("file://")
    source: Source = url
    return source


def worded(value: Any) -> Any:
    """An option as the command line has it: lists, as in ratio=2+4+8, with commas."""
    return value.replace("+", ",") if isinstance(value, str) else value


def options_of(system: System, settings: Mapping[str, Any]) -> Options:
    """A task's generation settings as options. Raises OptionError for what cannot be honoured."""
    given = {name: value for name, value in settings.items() if value is not None}
    if given.get("num_beams", 1) != 1:
        raise OptionError(f"num_beams is {given['num_beams']}; longtake has one beam")
    sampled = given.get("do_sample", bool(given.get("temperature", 0)))
    until = given.pop("until", ())
    kept = {name: value for name, value in given.items() if name not in IGNORED}
    kept["temperature"] = float(kept.get("temperature", 1.0)) if sampled else 0.0
    if not sampled:
        kept.pop("top_p", None)
        kept.pop("top_k", None)
    if "max_gen_toks" in kept:
        kept["max_new_tokens"] = kept.pop("max_gen_toks")
    stop = tuple(one for one in ([until] if isinstance(until, str) else until) if one)
    return system.options(**kept, stop=stop, evidence=False)
