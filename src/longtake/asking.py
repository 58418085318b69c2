"""What a system does with questions: their ids, how they are read, one or several at a time.

S sequence, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

from torch import Tensor

from longtake.answering import answer, published_options
from longtake.engine import prefill
from longtake.errors import PromptError
from longtake.folder import Folder, digest
from longtake.many import ROWS, answer_together, lined_up
from longtake.parts.cache import GrowingCache
from longtake.parts.chat import Template, Turn, check_words
from longtake.parts.splice import embed_pieces
from longtake.seeing import Seeing
from longtake.types import Answer, Memory, Options


@dataclass(frozen=True, kw_only=True, eq=False)
class Asking(Seeing):
    """The voice of a system."""

    penalises_prompt: ClassVar[bool] = False
    """The repetition penalty counts the prompt's text, because the original's generate() gets ids.
    Where it gets embeddings it knows of none."""

    folder: Folder
    """Where it came from."""
    template: Template
    """How a prompt looks."""
    end_ids: frozenset[int]
    """Token ids that end an answer."""

    def options(self, **overrides: Any) -> Options:
        """Greedy decoding with the checkpoint's repetition penalty, changed by `overrides`.

        With a temperature above 0, top_p and top_k come from generation_config.json as well.
        """
        return published_options(self.folder.generation, overrides)

    def ask_many(
        self,
        memory: Memory | None,
        questions: Sequence[str],
        options: Options | Sequence[Options] | None = None,
        histories: Sequence[Sequence[Turn]] | None = None,
        most: int = ROWS,
    ) -> list[Answer]:
        """Answer several questions about a memory together, each as `ask` would alone.

        `options`: the same for all, or one for each, as are `histories`. `most`: so many at a time.
        Raises what `ask` raises, and OptionError. For questions that come and go: `longtake.Batch`.
        """
        asked = lined_up(questions, options or self.options(), histories)
        if memory is None:
            raise PromptError("without a memory there is nothing to share; ask one by one")
        return answer_together(self, memory, asked, most)

    def asked(self, memory: Memory, question: str, history: Sequence[Turn]) -> tuple[int, ...]:
        """Ids of a question about a memory. Raises PromptError if it cannot be asked."""
        check_words(question, history)
        if memory.fingerprint != self.fingerprint:
            raise PromptError(
                f"this memory was made by {memory.system} with another checkpoint or other "
                "options; watch the video again"
            )
        # the visuals end the memory; what follows them starts with the memory's own words
        return self.tokens(memory.lead + self.template.tail(question, history))

    def ready(self, memory: Memory, ids: Sequence[int], room: int) -> Memory:
        """The memory that these ids are read behind, with `room` for an answer: the same."""
        return memory

    def read(
        self,
        cache: GrowingCache,
        ids: Sequence[int],
        observe: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Read text behind a memory; features [D] of its last token."""
        stream = embed_pieces([tuple(ids)] if ids else [], self.model.embed, self.model.device)
        return prefill(self.model, stream, cache, observe=observe)

    def _answer(
        self, memory: Memory, ids: Sequence[int], options: Options, features_D: Tensor | None = None
    ) -> Answer:
        """Read the ids that follow the memory and write.

        `features_D`: of the memory's last position, for an answer that follows without a word.
        """
        ready = self.ready(memory, ids, options.max_new_tokens)
        return answer(self, ready, ids, options, features_D)

    def scaled(self, target: int) -> Self:
        """With positions stretched for so many visual tokens, in a system that stretches them."""
        return self

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the checkpoint and of what shapes a memory."""
        return digest(self.folder, repr(self.shape()))

    def shape(self) -> tuple[object, ...]:
        """What shapes a memory, besides the checkpoint."""
        return (self.name, self.processor, self.compress, self.template)
