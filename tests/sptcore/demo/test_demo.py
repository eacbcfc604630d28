"""The whole road on the sample, cut short to one epoch: every part must leave what the report names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sptcore.data.locate import open_index, read_manifest
from sptcore.demo.training import MODELS
from sptcore.labels.store import LabelStore
from tests.support.cli import spt_process


@pytest.mark.slow
def test_demo_leaves_everything_it_names(tmp_path: Path) -> None:
    home = tmp_path / "demo"
    ran = spt_process("demo", "--epochs", "1", "--run-dir", str(home), "--json", cwd=tmp_path)
    assert ran.code == 0, ran.err
    swin, selecting = ran.document["entrants"]
    assert [swin["model"], selecting["model"]] == list(MODELS)
    assert swin["select_ratio"] is None
    assert 0 < selecting["label_ratio"] < selecting["select_ratio"] <= 1
    assert selecting["recall"] > 0.9  # an untrained gate keeps nearly everything
    assert min(swin["first_ap50"], selecting["ap50"]) >= 0
    _check_macs(swin, selecting)
    assert min(swin["ms_image"], selecting["ms_image"]) > 0
    _check_subset(home / "sample-s20", ran.document["images"])
    for picture in (home / "heatmaps").iterdir():
        with Image.open(picture) as image:
            assert image.width > 500
    page = (home / "report.html").read_text()
    assert page.count("data:image/webp;base64") == len(list((home / "heatmaps").iterdir())) > 0
    assert len(page) < 2_000_000
    assert "http://" not in page
    assert "https://" not in page
    assert json.loads((home / "result.json").read_text()) == ran.document["entrants"]
    for model in MODELS:
        assert (home / model / "weights" / "last.safetensors").is_file()


def _check_macs(swin: dict[str, Any], selecting: dict[str, Any]) -> None:
    """The selecting backbone costs no more than the dense one and its gates, the more below it the less it selects."""
    spent = selecting["backbone_macs"] / swin["backbone_macs"]
    assert 0.7 < spent < 1.002
    assert selecting["detector_macs"] - swin["detector_macs"] == selecting["backbone_macs"] - swin["backbone_macs"]


def _check_subset(subset: Path, images: dict[str, int]) -> None:
    manifest = read_manifest(subset)
    assert manifest is not None
    kept = {split: len(open_index(subset, split).records) for split in ("train", "val")}
    assert kept == {split: part["kept"] for split, part in manifest["splits"].items()}
    assert sum(kept.values()) == images["kept"] < images["seen"]
    with LabelStore(subset / "labels-val.h5") as store:
        assert len(store.image_ids) == kept["val"]
