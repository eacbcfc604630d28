from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sptcore.data.rasterize import PixelRule
from sptcore.data.records import Category
from sptcore.data.sparse import SparseRule
from sptcore.data.sparse.measure import ImageMeasure
from sptcore.data.sparse.rule import percent
from sptcore.errors import UsageError
from tests.support.samples import samples_root
from tests.support.sparse_sets import make, rows

FIFTH = Fraction("0.2")


def image(pixels: int, objects: int = 1, *, crowd: bool = False) -> ImageMeasure:
    return ImageMeasure(1, "a", 40, 30, pixels, objects, crowd)


def test_a_tie_is_left_out() -> None:
    rule = SparseRule(FIFTH)
    assert rule.verdict(image(239)) == "kept"
    assert rule.verdict(image(240)) == "ratio"
    assert rule.verdict(image(1200)) == "ratio"
    assert SparseRule(Fraction(1)).verdict(image(1200)) == "ratio"


def test_the_minimum_is_kept() -> None:
    rule = SparseRule(FIFTH, Fraction("0.1"))
    assert [rule.verdict(image(pixels)) for pixels in (119, 120, 239, 240)] == [
        "below minimum",
        "kept",
        "kept",
        "ratio",
    ]
    assert SparseRule(None, Fraction("0.5")).verdict(image(1200)) == "kept"


def test_images_without_objects() -> None:
    assert SparseRule(FIFTH).verdict(image(0, 0)) == "kept"
    assert SparseRule(FIFTH, drop_empty=True).verdict(image(0, 0)) == "no objects"
    assert SparseRule(FIFTH, drop_empty=True).verdict(image(0, 1)) == "kept"


def test_crowds_may_drop_an_image() -> None:
    rule = SparseRule(FIFTH, pixels=PixelRule(crowd="drop-image"))
    assert rule.verdict(image(10, crowd=True)) == "crowd"
    assert rule.verdict(image(10)) == "kept"
    assert SparseRule(FIFTH).verdict(image(10, crowd=True)) == "kept"


def test_objects_without_any_mask_are_not_measured_by_masks(tmp_path: Path) -> None:
    facts = json.loads((samples_root("voc") / "facts.json").read_bytes())["counts"]["mask_ratio"]
    rule = SparseRule(Fraction("0.25"), pixels=PixelRule(ratio_from="masks"))
    report = make(samples_root("voc"), tmp_path / "out", rule)
    verdicts = Counter(row["verdict"] for row in rows(tmp_path / "out"))
    assert report.kept == verdicts["kept"] == facts["under_0.25"]
    assert sum(verdicts.values()) - verdicts["no masks"] == facts["images"]


@pytest.mark.parametrize("ratio", [Fraction(0), Fraction(-1), Fraction("1.5")])
def test_thresholds_out_of_range_are_usage_errors(ratio: Fraction) -> None:  # fault table, row 46
    with pytest.raises(UsageError):
        SparseRule(ratio)


def test_other_senseless_rules() -> None:
    for arguments in [{"min_ratio": FIFTH}, {"min_ratio": Fraction(-1)}, {"min_ratio": Fraction(1)}, {"limit": 0}]:
        with pytest.raises(UsageError):
            SparseRule(FIFTH, **arguments)


def test_classes_by_name() -> None:
    categories = [Category(0, "cup"), Category(3, "café")]
    assert SparseRule(FIFTH).pixel_rule(categories).classes is None
    assert SparseRule(FIFTH, classes=("café",)).pixel_rule(categories).classes == {3}
    with pytest.raises(UsageError, match="no class 'cups'") as caught:
        SparseRule(FIFTH, classes=("cups",)).pixel_rule(categories)
    assert "'cup'" in (caught.value.hint or "")


def test_names_of_sets() -> None:
    texts = {"0.2": "20", "0.125": "12.5", "1/3": "33.3333", "1": "100", "0.07": "7"}
    assert {text: percent(Fraction(text)) for text in texts} == texts


@given(st.fractions(0, 1, max_denominator=10**6).filter(bool))
def test_the_document_keeps_the_threshold_exactly(ratio: Fraction) -> None:
    assert Fraction(SparseRule(ratio).as_document()["max_ratio"]) == ratio
