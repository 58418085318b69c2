"""Window extension and progressive pooling against the golden tables and answers."""

from pathlib import Path

import pytest

from tests.parity.cases import case_paths, load_case
from tests.parity.run import check

GOLDEN = Path(__file__).parent / "golden" / "visual_context_window"
NOT_COMPARED = "relative-positions"
"""Of methods that are not here."""


@pytest.mark.parametrize(
    "path",
    [path for path in case_paths(GOLDEN) if path.stem != NOT_COMPARED],
    ids=lambda path: path.stem,
)
def test_case(path: Path) -> None:
    results = check(load_case(path))
    assert results, "nothing was compared"
    assert [str(result) for result in results if not result.ok] == []


def test_every_file_is_listed() -> None:
    assert {path.name for path in case_paths(GOLDEN)} == {p.name for p in GOLDEN.glob("*.json")}
