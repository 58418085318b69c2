"""Compare with any folder of golden cases: `python -m tests.parity.run FOLDER [NAME ...]`.

Prints a line per case and the count; exits with 1 if a case failed, or none was compared.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError

from tests.parity import (
    llava_onevision,
    text_needles,
    video_xl,
    videochat_flash,
    videochat_flash_tables,
    videochat_flash_train,
    visual_context_window,
)
from tests.parity.cases import Case, StageResult, case_paths, load_case
from tests.parity.longva import check_answer, check_haystack, check_language, check_vision
from tests.parity.pixels import (
    check_anyres_table,
    check_haystack_pixels,
    check_pixels,
    check_preprocess,
    check_sampling_table,
)

WATCHED = (
    video_xl.check_pixels,
    video_xl.check_vision,
    video_xl.check_intervals,
    video_xl.check_language,
    video_xl.check_answer,
)
"""Video-XL's cases call themselves "video" or "image"."""

Stage = Callable[[Case], list[StageResult]]

STAGES: dict[str, tuple[Stage, ...]] = {
    "text-niah": (text_needles.check_text,),
    "generate": (check_pixels, check_vision, check_language, check_answer),
    "preprocess": (check_preprocess,),
    "sampling-table": (check_sampling_table,),
    "anyres-table": (check_anyres_table,),
    "vniah": (check_haystack_pixels, check_haystack),
    "video": WATCHED,
    "image": WATCHED,
    "train": (video_xl.check_training,),
    "frame_sampling": (videochat_flash_tables.check_sampling_table,),
    "anyres": (videochat_flash_tables.check_anyres_table,),
    "text": (videochat_flash_tables.check_text_table,),
    "rope-tables": (visual_context_window.check_rope,),
    "pool": (visual_context_window.check_pool,),
    "token-counts": (visual_context_window.check_counts,),
    "e2e": (
        visual_context_window.check_seen,
        visual_context_window.check_extended,
        visual_context_window.check_extended_answer,
    ),
}

HICO: tuple[Stage, ...] = (
    videochat_flash.check_sampling,
    videochat_flash.check_pixels,
    videochat_flash.check_vision,
    videochat_flash.check_language,
    videochat_flash.check_answer,
    videochat_flash.check_watched,
)
HICO_STAGES: dict[str, tuple[Stage, ...]] = {
    "video": HICO,
    "image": HICO,
    "image+video": HICO,
    "chat": HICO,
    "train": (videochat_flash_train.check_training,),
}
"""VideoChat-Flash's cases share names of kinds with Video-XL's; they state `llm_compress`."""

ONEVISION: tuple[Stage, ...] = (
    llava_onevision.check_pixels,
    llava_onevision.check_vision,
    llava_onevision.check_language,
    llava_onevision.check_answer,
    llava_onevision.check_watched,
    llava_onevision.check_transformers,
)
"""LLaVA-OneVision's cases, whatever their kind, state `prompt_lmms`."""

# What a broken case, checkpoint or implementation raises: that case fails, the others still run.
BROKEN = (OSError, SafetensorError, ValueError, MemoryError, RuntimeError, LookupError, TypeError)


def stages_of(case: Case) -> tuple[Stage, ...]:
    """What to compare; nothing for a kind that is compared elsewhere."""
    if "prompt_lmms" in case.spec:
        return ONEVISION
    return (HICO_STAGES if "llm_compress" in case.spec else STAGES).get(case.kind, ())


def check(case: Case) -> list[StageResult]:
    """Run every stage of a case."""
    return [result for stage in stages_of(case) for result in stage(case)]


def report(path: Path) -> tuple[bool | None, str]:
    """Compare one case: whether it passed (None: not compared here), and a line that says so."""
    began = time.perf_counter()
    try:
        case = load_case(path)
        if not stages_of(case):
            return None, f"skipped  {case.name}: nothing here compares kind {case.kind!r}"
        results = check(case)
    except BROKEN as error:
        reason = (str(error).splitlines() or [""])[0]
        return False, f"FAILED   {path.stem}: {type(error).__name__}: {reason}"
    passed = bool(results) and all(result.ok for result in results)
    words = "; ".join(map(str, results)) or "nothing was compared"
    took = time.perf_counter() - began
    return passed, f"{'passed ' if passed else 'FAILED '}  {case.name} ({took:.1f} s): {words}"


def main(arguments: Sequence[str]) -> int:
    """Run the cases of a folder, or those named; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity.run", description=__doc__)
    parser.add_argument(
        "folder", type=Path, help="holds case-*.json (or tables) and the checkpoints they name"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these cases")
    chosen = parser.parse_args(arguments)
    paths = case_paths(chosen.folder, chosen.names)
    outcomes = []
    for path in paths:
        passed, line = report(path)
        outcomes.append(passed)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    if not paths:
        sys.stdout.write(f"{chosen.folder} holds no such case\n")
    sys.stdout.write(f"{outcomes.count(True)} passed, {outcomes.count(False)} failed\n")
    return 0 if True in outcomes and False not in outcomes else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
