from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.running import Running, card_clip, running


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short clip with a card."""
    return card_clip(tmp_path_factory.mktemp("serve-clips"))


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server for all tests that change none of its settings."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "root").mkdir()
    with running(folder, roots=(folder / "root",)) as server:
        yield server


@pytest.fixture(scope="session")
def video(live: Running, clip: Path) -> str:
    """The clip, watched."""
    return live.watched(clip, max_frames=16)
