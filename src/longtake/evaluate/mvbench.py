"""MVBench: twenty kinds of question about short clips, 200 each (arXiv 2311.17005).

The annotations are a json file per kind, which is named after it. Many ask about a part of a clip,
from `start` to `end`; the clips of episodic_reasoning are folders of frames, three a second.
"""

from __future__ import annotations

from collections.abc import Sequence

from longtake.evaluate.annotations import Row
from longtake.evaluate.tasks import Choices, Example, letter_among, stem_of

CHARADES = ("star/Charades_v1_480", "star/Charades_segment")
CLEVRER = ("clevrer/video_validation",)
PERCEPTION = ("perception/videos",)
PLACES = {
    "action_sequence": CHARADES,
    "action_prediction": CHARADES,
    "object_interaction": CHARADES,
    "action_antonym": ("ssv2_video", "ssv2_video_mp4"),
    "fine_grained_action": ("Moments_in_Time_Raw/videos",),
    "unexpected_action": ("FunQA_test/test",),
    "object_existence": CLEVRER,
    "moving_direction": CLEVRER,
    "moving_count": CLEVRER,
    "moving_attribute": CLEVRER,
    "counterfactual_inference": CLEVRER,
    "object_shuffle": PERCEPTION,
    "action_count": PERCEPTION,
    "state_change": PERCEPTION,
    "character_order": PERCEPTION,
    "action_localization": ("sta/sta_video", "sta/sta_video_segment"),
    "scene_transition": ("scene_qa/video",),
    "fine_grained_pose": ("nturgbd", "nturgbd_convert"),
    "egocentric_navigation": ("vlnqa",),
    "episodic_reasoning": ("tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment"),
}
"""Folders of each kind's clips in the published archive; clips of two of them share names."""

RATES = {"episodic_reasoning": 3}
"""Frames a second of the kinds whose clips are folders of frames."""


def open_task(rows: Sequence[Row]) -> Choices:
    """The task of the folder of json files, or of some of them."""
    examples = tuple(example(row, number) for number, row in enumerate(rows))
    return Choices(name="mvbench", title="MVBench", examples=examples, average="task")


def example(row: Row, number: int) -> Example:
    """One question. Raises AnnotationError."""
    kind = row.text("task") if row.has("task") else row.file
    video, options = row.text("video"), row.texts("candidates")
    places = PLACES.get(kind, ())
    return Example(
        key=f"{kind}-{stem_of(video)}-{number}",
        video=video,
        question=row.text("question"),
        options=options,
        answer=letter_among(options, row.text("answer")),
        groups=(("task", kind),),
        places=(*places, *(f"video/{place}" for place in places)),
        start=row.number("start") if row.has("start") else None,
        end=row.number("end") if row.has("end") else None,
        rate=RATES.get(kind, 1),
    )
