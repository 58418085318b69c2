"""The words each original asks with, and how it reads the answer: data, selectable by name.

`ask` and `with_subtitles` are filled with {question}, {options}, {subtitles} and {listed}, which is
the options as a Python list: an early release of lmms-eval printed them so, and results of LongVA
and Video-XL were made with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from longtake.errors import OptionError


def letter_of(index: int) -> str:
    """A, B, C ... of an option's place."""
    return chr(ord("A") + index)


@dataclass(frozen=True, kw_only=True)
class Style:
    """One way to ask a benchmark's questions."""

    ask: str
    """The words behind the video."""
    read: str
    """Name of the way answers are read (`reading.READERS`)."""
    with_subtitles: str = ""
    """The words where subtitles stand behind the video; empty: they cannot."""
    option: str = "{letter}. {text}"
    """How one option is written; each ends its line."""
    subtitles: Literal["all", "sampled"] = "all"
    """Which subtitles are shown: all, or those of the sampled frames."""
    place: Literal["behind", "between"] = "behind"
    """Where subtitles stand: all behind the video, or each between the frames it was shown with."""
    no_subtitles: str = ""
    """What is shown instead of subtitles of a video that has none, in a run with subtitles."""
    system: str = ""
    """Instead of the model's own system prompt, where the original changed it."""
    begin: str = ""
    """Words the answer begins with, written for the model."""
    max_new_tokens: int = 16
    frames: int | None = None
    """Frames of the published run; None: the model's own number."""
    every_second: bool = False
    """Sample a frame each second, `frames` at most."""

    def prompt(self, question: str, options: Sequence[str], subtitles: str) -> str:
        """The whole question."""
        lines = [
            self.option.format(letter=letter_of(place), text=text)
            for place, text in enumerate(options)
        ]
        form = self.with_subtitles if subtitles else self.ask
        return form.format(
            question=question,
            options="\n".join(lines),
            listed=str(list(options)),
            subtitles=subtitles,
        )


LETTER_ONLY = "Answer with the option's letter from the given choices directly."
MME = "Respond with only the letter (A, B, C, or D) of the correct option."
MME_SELECT = "Select the best answer to the following multiple-choice question based on the video"
BOTH = f"{MME_SELECT} and the subtitles. {MME}"
NO_SUBTITLES = "No subtitles available"
LISTED_BELOW = "This video's subtitles are listed below:"
ATTENTIVE = (
    "<|im_start|>system\nCarefully watch this video and pay attention to every detail. Based on "
    "your observations, select the best option that accurately addresses the question.<|im_end|>\n"
)
GROUND = (
    "Please find the visual event described by a sentence in the video, determining its starting "
    "and ending times. The format should be: 'The event happens in the start time - end time'. "
    "For example, The event 'person turn a light on' happens in the 24.3 - 30.4 seonds. Now I will "
    "give you the textual sentence: {question}. Please return its start time and end time."
)
"""With the original's spelling of "seonds", which is part of what models were measured with."""

VIDEO_MME = {
    "official": Style(
        ask=f"{MME_SELECT}. {MME}\n{{question}}\n{{options}}\nThe best answer is:",
        with_subtitles=f"{LISTED_BELOW}\n{{subtitles}}\n{MME_SELECT}. {MME}\n{{question}}\n"
        "{options}\nThe best answer is:",
        option="{text}",
        read="first-letter",
        subtitles="sampled",
    ),
    "lmms-eval": Style(
        ask=f"{BOTH}\n{{question}}\n{{options}}\n\n{LETTER_ONLY}",
        with_subtitles=f"{LISTED_BELOW} \n{{subtitles}}\n{BOTH}\n{{question}}\n{{options}}\n"
        "The best answer is:",
        option="{text}",
        read="first-letter",
        subtitles="sampled",
        no_subtitles=NO_SUBTITLES,
    ),
    "longva": Style(
        ask=f"{BOTH}\n{{question}}\n{{listed}}\n\n{LETTER_ONLY}",
        with_subtitles=f"{LISTED_BELOW} \n{{subtitles}}\n{BOTH}\n{{question}}\n{{listed}}\n"
        "The best answer is:",
        read="first-letter",
        subtitles="sampled",
        no_subtitles=NO_SUBTITLES,
        frames=128,
    ),
    "videochat-flash": Style(
        ask=f"These are the frames of a video. {MME_SELECT}. {MME}\nQuestion: {{question}}\n"
        f"Option:\n{{options}}\n{LETTER_ONLY}",
        with_subtitles=f"{LISTED_BELOW} \n{{subtitles}}\nThese are the frames and subtitles of a "
        f"video. {BOTH}\nQuestion: {{question}}\nOption:\n{{options}}\nThe best answer is:",
        option="{text}",
        read="first-letter",
        frames=512,
    ),
}
MLVU = {
    "official": Style(
        ask="Question: {question}\nOptions:\n{options}\nOnly give the best option.",
        option="({letter}) {text}",
        read="before-bracket",
        system=ATTENTIVE,
        begin="Best Option: (",
    ),
    "lmms-eval": Style(
        ask="{question}\n{options}\nOnly give the best option.\nBest option: (",
        option="({letter}) {text}",
        read="before-bracket",
    ),
    "video-xl": Style(
        ask="\n{question}\n{options}\nOnly give the best option.\n\nBest option: (",
        option="({letter}) {text}",
        read="before-bracket",
        frames=256,
    ),
    "videochat-flash": Style(
        ask=f"Question:{{question}}\nOption:\n{{options}}\n{LETTER_ONLY}",
        option="({letter}) {text}",
        read="any-letter",
        frames=512,
    ),
}
SUBTITLES_BETWEEN = {
    "official": Style(
        ask=f"Question: {{question}}\n{{options}}\n{LETTER_ONLY}",
        with_subtitles=f"{{subtitles}}\nQuestion: {{question}}\n{{options}}\n{LETTER_ONLY}",
        read="last-letter",
        subtitles="sampled",
        place="between",
        max_new_tokens=32,
    ),
    "lmms-eval": Style(
        ask=f"{{question}}\n{{options}}\n{LETTER_ONLY}\n",
        with_subtitles=f"{{subtitles}}\n{{question}}\n{{options}}\n{LETTER_ONLY}\n",
        read="last-letter",
        subtitles="sampled",
        place="between",
        max_new_tokens=32,
    ),
}
LONGVIDEOBENCH = {
    **SUBTITLES_BETWEEN,
    "videochat-flash": Style(
        ask=f"{{question}}\n{{options}}\n{LETTER_ONLY}\n",
        with_subtitles=f" {LISTED_BELOW} \n{{subtitles}}.\n Select the best answer to the "
        "following multiple-choice question based on the video and the subtitles. Respond with "
        "only the letter of the correct option.\n"
        f"Question: {{question}}\n{{options}}\n{LETTER_ONLY}\n",
        option="({letter}). {text}",
        read="last-letter",
        subtitles="sampled",
        max_new_tokens=32,
        frames=512,
    ),
    **{
        f"{name}-together": replace(style, place="behind")
        for name, style in SUBTITLES_BETWEEN.items()
    },
}
LVBENCH = {
    "official": Style(
        ask=f"{{question}}\n{{options}}\n{LETTER_ONLY}", option="{text}", read="in-brackets"
    ),
    "lmms-eval": Style(
        ask="{question}\n{options}\nAnswer the question with the option letter",
        option="{text}",
        read="any-letter",
    ),
    "videochat-flash": Style(
        ask=f"{{question}}\n{{options}}\n{LETTER_ONLY}", read="any-letter", frames=640
    ),
}
VNBENCH = {
    "official": Style(
        ask=f"{{question}}\n{{options}}\n{LETTER_ONLY}", read="before-dot", max_new_tokens=5
    ),
    "video-xl": Style(
        ask="Question: {question}\nOptions:\n{options}\n",
        option="({letter}) {text}",
        read="brackets-then-dot",
        system=ATTENTIVE,
        max_new_tokens=1024,
        frames=1024,
        every_second=True,
    ),
}
MVBENCH = {
    "lmms-eval": Style(
        ask="Question: {question}\nOption:\n{options}\nOnly give the best option.\n",
        option="({letter}) {text}",
        read="any-letter",
    ),
    "videochat-flash": Style(
        ask="Question: {question}\nOption:\n{options}\n\nOnly give the best option.",
        option="({letter}) {text}",
        read="any-letter",
        frames=512,
    ),
}
CHARADES = {"videochat-flash": Style(ask=GROUND, read="span", max_new_tokens=50, frames=512)}

STYLES: Mapping[str, Mapping[str, Style]] = {
    "video-mme": VIDEO_MME,
    "mlvu": MLVU,
    "longvideobench": LONGVIDEOBENCH,
    "lvbench": LVBENCH,
    "vnbench": VNBENCH,
    "mvbench": MVBENCH,
    "charades-sta": CHARADES,
}
"""Every style of every task, the task's own first."""
PREFERRED = {
    "longva": ("longva", "lmms-eval"),
    "video_xl": ("video-xl", "longva", "lmms-eval"),
    "videochat_flash": ("videochat-flash",),
    "llava_onevision": ("lmms-eval",),
}
"""Styles that each system's published results were made with, the closest first."""


def check_style(task: str, wanted: str | None) -> None:
    """Raise OptionError unless the task has the style, if one is wanted."""
    if wanted is not None and wanted not in STYLES[task]:
        styles = ", ".join(STYLES[task])
        raise OptionError(f"{task} has no style {wanted!r}; choose {styles}")


def style_for(task: str, system: str, wanted: str | None) -> tuple[str, Style]:
    """A style and its name: the one wanted, or that of the system's published results.

    Where none of those exists for the task, its first. Raises OptionError for an unknown one.
    """
    check_style(task, wanted)
    styles = STYLES[task]
    names = (wanted,) if wanted is not None else (*PREFERRED.get(system, ()), *styles)
    name = next(name for name in names if name in styles)
    return name, styles[name]
