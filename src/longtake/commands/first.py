"""What can be refused before torch comes, which takes seconds: names, places and numbers."""

from __future__ import annotations

from longtake.choices import (
    DTYPE_NAMES,
    FINE_PLACES,
    KV,
    PLACES,
    POOL_MODES,
    SYSTEMS,
    check_choice,
    check_count,
    check_mix,
    ratios_of,
)
from longtake.flags import Answering, Condensing, Loading, Part
from longtake.options import Options
from longtake.places import BUNDLED, config_of, local_model
from longtake.units import bytes_of
from longtake.video.sample import check_times


def check_model(model: str, loading: Loading, condensing: Condensing) -> None:
    """Raise CheckpointError for a model that is nowhere, OptionError for what it cannot be given.

    A hub id is not asked for here, and what depends on the system is the system's to say.
    """
    check_choice("dtype", loading.dtype, ("auto", *DTYPE_NAMES))
    if loading.system is not None:
        check_choice("system", loading.system, SYSTEMS)
    check_condensing(condensing)
    for name in (model, loading.vision_tower):
        folder = None if name in (None, BUNDLED) else local_model(str(name))
        if folder is not None:
            config_of(folder)


def check_condensing(wished: Condensing) -> None:
    """Raise OptionError for a value that means nothing to any system."""
    given = wished.given()
    known = {"kv": KV, "place": PLACES, "fine_on": FINE_PLACES, "pool_mode": POOL_MODES}
    for name, values in known.items():
        if name in given:
            check_choice(name.replace("pool_", "pool "), given[name], values)
    if "mix" in given:
        check_mix(given["mix"])
    if "budget" in given:
        bytes_of(given["budget"])
    for ratio in ratios_of(given.get("ratio", ())):
        check_count("ratio", ratio)
    for name in ("window", "shortest", "longest", "average_ratio", "fine"):
        check_count(name, given.get(name, 1))


def check_answering(answering: Answering) -> None:
    """Raise OptionError for numbers that no answer can be written by."""
    Options(**answering.given())


def check_part(part: Part) -> None:
    """Raise OptionError for a part of a video between no two times."""
    check_times(part.start, part.end)
