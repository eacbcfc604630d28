from __future__ import annotations

from pathlib import Path

import pytest

from sptcore.data.sparse import measure as measuring
from tests.support.label_stores import coco_set
from tests.support.miniatures import mini_coco


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return mini_coco(tmp_path / "mini")


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 288 images, in six blocks where these have 50 images."""
    return coco_set(tmp_path_factory.mktemp("many"), 288)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "BLOCK", 50)
