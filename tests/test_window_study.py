"""Reading beyond the trained visual window, a sample of benchmarks/results/window_study.md."""

import numpy as np
from benchmarks import window_task as task
from benchmarks.window_study import methods, total


def test_stretching_by_the_visual_window_reads_four_windows_and_the_language_window_does_not() -> (
    None
):
    """48 questions of order for each method, the same."""
    model, tokens = task.trained(task.SEEDS[0]), 4 * task.WINDOW
    rng = np.random.default_rng(4)
    videos = [task.draw(rng, 8, tokens) for _ in range(2)]
    share = {}
    for name in ("none", "YaRN, language window", "visual window"):
        read = model.positioned(methods(tokens)[name])
        tally = total([task.marked(read, part) for part in videos])
        share[name] = tally.order / tally.order_asked
    assert share["visual window"] > 0.7 > 0.4 > share["none"]
    # the whole of the video is within the language window: nothing is stretched
    assert share["YaRN, language window"] == share["none"]
