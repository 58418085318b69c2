"""What holds for every test."""

import pytest


@pytest.fixture(autouse=True)
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands find and keep nothing in the user's own library."""
    monkeypatch.setenv("LONGTAKE_LIBRARY", "off")
