"""The real sample of BDD100K, read once."""

from __future__ import annotations

import json

import pytest

from sptcore.data.records import DatasetIndex
from tests.support.bdd import read_bdd
from tests.support.samples import samples_root

OLD = "labels/bdd100k_labels_images_val.json"


@pytest.fixture(scope="module")
def real() -> dict[str, DatasetIndex]:
    """Label file -> its index."""
    root = samples_root("bdd100k")
    return {
        "labels/det_20/det_train.json": read_bdd(root, "train"),
        "labels/det_20/det_val.json": read_bdd(root, "val"),
        OLD: read_bdd(root, "val", root / OLD),
    }


@pytest.fixture(scope="module")
def facts() -> dict:
    """facts.json of the sample."""
    return json.loads((samples_root("bdd100k") / "facts.json").read_text())
