"""LLaVA-OneVision against what the originals computed, one test per golden case."""

from pathlib import Path

import pytest

from tests.parity.cases import case_paths, load_case
from tests.parity.run import check

GOLDEN = Path(__file__).parent / "golden" / "llava_onevision"


@pytest.mark.parametrize("path", case_paths(GOLDEN), ids=lambda path: path.stem)
def test_case(path: Path) -> None:
    results = check(load_case(path))
    assert results, "nothing was compared"
    assert [str(result) for result in results if not result.ok] == []


def test_every_case_is_compared() -> None:
    assert len(case_paths(GOLDEN)) == 11
