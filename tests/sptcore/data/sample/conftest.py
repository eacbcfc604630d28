from __future__ import annotations

import pytest

from sptcore.data import sample


@pytest.fixture(scope="session")
def scenes() -> dict[str, list]:
    """The sample's pictures with their objects, drawn once."""
    return {split: sample.sample_scenes(split) for split in sample.SPLITS}
