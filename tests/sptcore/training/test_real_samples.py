"""From real annotations of every format through labels and augmentation into a step that learns."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from sptcore.data.locate import open_index
from sptcore.labels.build import ensure_labels, verify_labels
from sptcore.runs import new_run
from sptcore.training.loop import fit
from tests.support.samples import samples_root
from tests.support.training import tiny_config

SETS = {"coco": True, "voc": True, "bdd100k": False, "tiny-imagenet-200": False, "pv-thermal": False}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "masks"), SETS.items())
def test_trains_from_verified_labels_with_augmentation(
    name: str, masks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPT_CACHE", str(tmp_path / "cache"))
    root = samples_root(name)
    for split in ("train", "val"):
        index = open_index(root, split)
        assert index.has_masks == masks
        assert verify_labels(ensure_labels(index, jobs=1), index) == len(index.records)
    config = tiny_config(
        root,
        max_steps=2,
        scales=[0.8, 1.0, 1.25],
        crop_prob=0.5,
        flip_prob=0.5,
        batch=4,
        save_every="1ep",
        eval_every=0,
    )
    fitted = fit(config, new_run("train", name, folder=tmp_path / "run"))
    rows = [row for row in fitted.run.metrics() if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(math.isfinite(row["loss"]) and row["loss_select"] > 0 for row in rows)
    assert ("loss_mask" in rows[0]) == masks
    assert fitted.evaluation is not None
    assert 0 < fitted.evaluation.counts[0].label_ratio < 1
