"""Prompt templates as data. The published prompts are strings, so these are too."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from longtake.errors import PromptError

PLACEHOLDER = "<image>"
"""Where a visual goes in a prompt, as all four originals write it."""

Turn = tuple[str, str]
"""A question and its answer."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """A chat format: what stands before and after each role's words."""

    system: str
    user: str
    end: str
    assistant: str

    def head(self) -> str:
        """Everything before the first user's words."""
        return self.system + self.user

    def tail(self, question: str, history: Sequence[Turn] = ()) -> str:
        """Everything from the first user's words to the place where the answer starts."""
        earlier = "".join(
            f"{asked}{self.end}{self.assistant}{answered}{self.end}{self.user}"
            for asked, answered in history
        )
        return f"{earlier}{question}{self.end}{self.assistant}"

    def prompt(self, question: str, history: Sequence[Turn] = ()) -> str:
        """The whole prompt."""
        return self.head() + self.tail(question, history)


QWEN_1_5 = Template(
    system="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
    user="<|im_start|>user\n",
    end="<|im_end|>\n",
    assistant="<|im_start|>assistant\n",
)
"""ChatML with Qwen's system prompt: `qwen_1_5` of the LLaVA family."""


def visuals_prefix(count: int) -> str:
    """Placeholders in front of a question: joined by a space, then a newline; empty for none."""
    return " ".join([PLACEHOLDER] * count) + "\n" if count else ""


def check_words(question: str, history: Sequence[Turn]) -> None:
    """Raise PromptError unless these are words that can be asked."""
    if not question.strip():
        raise PromptError("the question is empty; ask something")
    turns: Sequence[Any] = history  # callers may come with chat messages
    for turn in turns:
        pair = not isinstance(turn, dict) and len(turn) == 2
        if not pair or not all(isinstance(words, str) for words in turn):
            raise PromptError("history must be pairs of texts, (question, answer), in order")
    said = (question, *(words for turn in history for words in turn))
    if broken := next((words for words in said if half_characters(words)), None):
        raise PromptError(f"half a character is in {broken!r:.60}; take it out")
    if any(PLACEHOLDER in words for words in said):
        raise PromptError(f"leave {PLACEHOLDER} out: the visuals stand before the question already")


def half_characters(words: str) -> bool:
    """Whether there are surrogates, which are no text: tokenizers refuse them."""
    return any("\ud800" <= letter <= "\udfff" for letter in words)
