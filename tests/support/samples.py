"""The way to the real data samples, which are not part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def samples_root(name: str) -> Path:
    """The folder of a real sample (`coco`, `voc`, `bdd100k`, `tiny-imagenet-200`, `pv-thermal`); skips without it.

    Looks in `$SPT_TEST_DATA`, then in `../shared/data` beside the checkout.
    """
    checkout = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("SPT_TEST_DATA") or checkout.parent / "shared" / "data") / name
    if not folder.is_dir():
        pytest.skip(f"the real sample {name!r} is not at {folder} (set SPT_TEST_DATA)")
    return folder
