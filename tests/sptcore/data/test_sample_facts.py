"""The real samples against figures that independent scripts worked out (their facts.json)."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest

from sptcore.data.locate import open_index
from sptcore.data.rasterize import is_below, object_mask, object_ratio
from tests.support.samples import samples_root

MEASURES = {
    "mask_ratio": {"ratio_from": "masks"},
    "mask_ratio_nocrowd": {"ratio_from": "masks", "crowd": "exclude"},
    "box_ratio": {"ratio_from": "boxes"},
    "box_ratio_nocrowd": {"ratio_from": "boxes", "crowd": "exclude"},
}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", ["coco", "pv-thermal"])
def test_ratios_and_counts(name: str, split: str, measure: str) -> None:
    facts = json.loads((samples_root(name) / "facts.json").read_bytes())[f"{split}2017"]
    if not facts["counts"][measure]["images"]:
        pytest.skip("the sample has no masks")
    index = open_index(samples_root(name), split)
    assert len(index.records) == facts["images"]
    assert sum(len(record.instances) for record in index.records) == facts["annotations"]
    ratios = {record.file_name: object_ratio(record, **MEASURES[measure]) for record in index.records}
    by_boxes = measure.startswith("box")
    for file_name, (pixels, total) in ratios.items():
        expected = facts["per_image"][file_name][measure]
        # masks to the six decimals given; box figures are those of real-valued edges
        assert pixels / total == pytest.approx(expected, abs=0.003 if by_boxes else 5.1e-7)
    for limit in ("0.20", "0.25"):
        near = set(facts["counts"][measure][f"near_{limit}"]) if by_boxes else set()
        below = {name for name, pair in ratios.items() if is_below(*pair, Fraction(limit))}
        expected = {name for name, one in facts["per_image"].items() if one[measure] < float(limit)}
        assert below - near == expected - near
        assert len(expected) == facts["counts"][measure][f"under_{limit}"]


def test_the_figures_of_the_paper_threshold() -> None:
    index = open_index(samples_root("coco"), "train")
    below = [is_below(*object_ratio(record), Fraction("0.2")) for record in index.records]
    assert (len(below), sum(below)) == (129, 66)


def test_painted_unions_have_the_counted_pixels() -> None:
    for record in open_index(samples_root("coco"), "val").records:
        assert object_mask(record).sum() == object_ratio(record)[0]
