"""The real sample of PASCAL VOC: every figure of its facts, and subsets that read back the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sptcore.data import FORMATS
from sptcore.data.format import Source
from sptcore.data.records import DatasetIndex, ImageRecord, MaskFile
from sptcore.errors import DataError
from tests.support.samples import samples_root
from tests.support.voc import read_voc

VOC = FORMATS["voc"]


def _stem(record: ImageRecord) -> str:
    return Path(record.file_name).stem


@pytest.fixture(scope="module")
def real() -> dict[str, DatasetIndex]:
    root = samples_root("voc")
    assert VOC.detect(root)
    assert VOC.splits(root) == ["train", "val"]
    return {split: read_voc(root, split) for split in ("train", "val")}


@pytest.fixture(scope="module")
def facts() -> dict:
    return json.loads((samples_root("voc") / "facts.json").read_text())


def _box_ratio(record: ImageRecord, difficult: bool = True) -> float:
    """The exact area of the union of the boxes over the image area: a grid of the boxes' own edges."""
    boxes = np.array([t.box_xyxy for t in record.instances if difficult or not t.is_difficult]).reshape(-1, 4)
    xs, ys = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
    covered = np.zeros((max(len(ys) - 1, 0), max(len(xs) - 1, 0)), bool)
    for x1, y1, x2, y2 in boxes:
        covered[
            np.searchsorted(ys, y1) : np.searchsorted(ys, y2), np.searchsorted(xs, x1) : np.searchsorted(xs, x2)
        ] = True
    area = (np.diff(ys)[:, None] * np.diff(xs)[None, :] * covered).sum()
    return float(area / (record.width * record.height))


def _mask_ratio(record: ImageRecord, void: bool = False) -> float | None:
    masks = [t.segmentation for t in record.instances if isinstance(t.segmentation, MaskFile)]
    if not masks:
        return None
    pixels = np.array(Image.open(masks[0].path))
    union = np.isin(pixels, [mask.value for mask in masks] + [255] * void)
    return float(union.mean())


def test_every_ratio_of_the_real_sample_is_that_of_its_facts(real, facts):
    records = real["train"].records + real["val"].records
    assert len(records) == facts["images"] == len(facts["per_image"])
    for record in records:
        known = facts["per_image"][_stem(record)]
        assert len(record.instances) == known["objects"]
        assert sum(thing.is_difficult for thing in record.instances) == known["difficult"]
        assert _box_ratio(record) == pytest.approx(known["box_ratio"], abs=1e-6)
        assert _box_ratio(record, difficult=False) == pytest.approx(known["box_ratio_nodifficult"], abs=1e-6)
        for void, name in ((False, "mask_ratio"), (True, "mask_ratio_with_void")):
            ratio = _mask_ratio(record, void)
            assert (ratio is None) == (known[name] is None)
            assert ratio is None or ratio == pytest.approx(known[name], abs=1e-6)


@pytest.mark.parametrize("measure", ["box_ratio", "box_ratio_nodifficult", "mask_ratio", "mask_ratio_with_void"])
def test_the_counts_under_the_papers_thresholds_are_those_of_the_facts(real, facts, measure):
    ratio = {
        "box_ratio": _box_ratio,
        "box_ratio_nodifficult": lambda record: _box_ratio(record, difficult=False),
        "mask_ratio": _mask_ratio,
        "mask_ratio_with_void": lambda record: _mask_ratio(record, void=True),
    }[measure]
    ratios = [ratio(record) for record in real["train"].records + real["val"].records]
    known = [value for value in ratios if value is not None]
    expected = facts["counts"][measure]
    assert len(known) == expected["images"]
    assert sum(value < 0.20 for value in known) == expected["under_0.20"]
    assert sum(value < 0.25 for value in known) == expected["under_0.25"]


def test_objects_classes_and_kinds_of_mask_of_the_real_sample(real, facts):
    names = {category.category_id: category.name for category in real["train"].categories}
    assert next(iter(names.items())) == (1, "aeroplane")
    assert names[20] == "tvmonitor"
    counted: dict[str, int] = {}
    kinds: dict[str, str | None] = {}
    for record in real["train"].records + real["val"].records:
        for thing in record.instances:
            counted[names[thing.category_id]] = counted.get(names[thing.category_id], 0) + 1
            kinds[_stem(record)] = thing.segmentation.kind if isinstance(thing.segmentation, MaskFile) else None
    assert counted == facts["objects_by_class"]
    for name, known in facts["per_image"].items():
        expected = "voc-object" if known.get("has_object_mask") else "voc-class" if known["has_mask"] else None
        assert kinds[name] == expected
    assert len(real["train"].records) == facts["main_lists"]["train"]
    assert not real["train"].dropped + real["val"].dropped


def test_an_object_mask_lies_in_its_box(real):
    """Control for the numbering of SegmentationObject: value n is the n-th object of the XML."""
    checked = 0
    for record in real["train"].records + real["val"].records:
        for thing in record.instances:
            if isinstance(thing.segmentation, MaskFile) and thing.segmentation.kind == "voc-object":
                rows, columns = np.nonzero(np.array(Image.open(thing.segmentation.path)) == thing.segmentation.value)
                x1, y1, x2, y2 = thing.box_xyxy
                inside = (columns >= x1 - 5) & (columns < x2 + 5) & (rows >= y1 - 5) & (rows < y2 + 5)
                assert inside.mean() > 0.9  # one real object reaches 5 % out of its box
                checked += 1
    assert checked > 29


def test_official_names_become_image_ids(real):
    record = real["val"].records[0]
    assert (record.file_name, record.image_id) == ("2007_000027.jpg", 2007000027)
    assert record.instances[0].box_xyxy == (173.0, 100.0, 349.0, 351.0)


def test_fractions_are_kept(real):
    (record,) = (r for r in real["train"].records + real["val"].records if r.file_name == "2011_003353.jpg")
    assert record.instances[0].box_xyxy == (129.0, 44.70000076293945, 375.0, 470.0)


@pytest.mark.parametrize("order", [("train", "val"), ("val", "train")])
def test_a_subset_reads_back_as_the_same_records_and_bytes(real, tmp_path, order):
    source = samples_root("voc") / "VOCdevkit" / "VOC2012"
    keep = {split: {r.image_id for r in real[split].records if _box_ratio(r) < 0.25} for split in order}
    for split in order:
        for path in VOC.write_subset(real[split], keep[split], tmp_path):
            assert path.is_file()
    home = tmp_path / "VOCdevkit" / "VOC2012"
    for split in order:
        index = VOC.read(Source("x", "voc", tmp_path, image_roots={split: real[split].image_root}), split)
        kept = tuple(r for r in real[split].records if r.image_id in keep[split])
        assert _without_paths(index.records) == _without_paths(kept)
        assert index.categories == real[split].categories
        for record in kept:
            name = f"Annotations/{_stem(record)}.xml"
            assert (home / name).read_bytes() == (source / name).read_bytes()
    for path in home.rglob("*.png"):
        assert path.read_bytes() == (source / path.relative_to(home)).read_bytes()
    trainval = (home / "ImageSets" / "Main" / "trainval.txt").read_text().split()
    assert len(trainval) == 19
    assert trainval == [
        name for name in (source / "ImageSets/Main/trainval.txt").read_text().split() if name in trainval
    ]
    assert len((home / "ImageSets" / "Main" / "person_trainval.txt").read_text().splitlines()) == 19


def _without_paths(records) -> list:
    rows = []
    for record in records:
        things = []
        for number, t in enumerate(record.instances):
            mask = (t.segmentation.value, t.segmentation.kind) if isinstance(t.segmentation, MaskFile) else None
            things.append((number, t.category_id, t.box_xyxy, mask, t.is_difficult))
        rows.append((record.image_id, record.file_name, record.width, record.height, things))
    return rows


def test_torchvision_reads_what_is_written(real, tmp_path):
    datasets = pytest.importorskip("torchvision.datasets")
    keep = [r.image_id for r in real["train"].records][:6]
    VOC.write_subset(real["train"], keep, tmp_path)
    folder = tmp_path / VOC.image_folder(real["train"])
    folder.mkdir()
    for record in real["train"].records[:6]:
        (folder / record.file_name).write_bytes(real["train"].image_path(record).read_bytes())
    detection = datasets.VOCDetection(str(tmp_path), year="2012", image_set="train")
    assert len(detection) == 6
    for (image, target), record in zip(detection, real["train"].records[:6], strict=True):
        assert image.size == (record.width, record.height)
        assert len(target["annotation"]["object"]) == len(record.instances)
    segmentation = datasets.VOCSegmentation(str(tmp_path), year="2012", image_set="train")
    image, mask = segmentation[0]
    assert image.size == mask.size


def test_segmentation_lists_can_be_named(real):
    path = samples_root("voc") / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt"
    index = read_voc(samples_root("voc"), "val", annotation=path)
    assert [_stem(record) for record in index.records] == path.read_text().split()
    assert all(thing.segmentation for record in index.records for thing in record.instances)
    with pytest.raises(DataError, match=r"--ann is a list"):
        read_voc(samples_root("voc"), "val", annotation=path.with_suffix(".json"))


def test_a_subset_of_a_named_list_keeps_that_list(real, tmp_path):
    path = samples_root("voc") / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt"
    index = read_voc(samples_root("voc"), "val", annotation=path)
    VOC.write_subset(index, [record.image_id for record in index.records[:3]], tmp_path)
    written = tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt"
    assert written.read_text().split() == path.read_text().split()[:3]
