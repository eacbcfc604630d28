"""PASCAL VOC: the facts of the real sample, the rows of the fault table, and writing what can be read again."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sptcore.data import FORMATS
from sptcore.data.format import ReadOptions, Source
from sptcore.data.records import DatasetIndex, ImageRecord, MaskFile
from sptcore.errors import DataError
from tests.support.samples import samples_root
from tests.support.voc import make_voc, voc_object, voc_xml, write_palette_mask

VOC = FORMATS["voc"]


def _read(root: Path, split: str = "train", **options) -> DatasetIndex:
    annotation = options.pop("annotation", None)
    return VOC.read(Source("voc", "voc", root, annotation, options=ReadOptions(**options)), split)


def _stem(record: ImageRecord) -> str:
    return Path(record.file_name).stem


@pytest.fixture(scope="module")
def real() -> dict[str, DatasetIndex]:
    root = samples_root("voc")
    assert VOC.detect(root)
    assert VOC.splits(root) == ["train", "val"]
    return {split: _read(root, split) for split in ("train", "val")}


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
    index = _read(samples_root("voc"), "val", annotation=path)
    assert [_stem(record) for record in index.records] == path.read_text().split()
    assert all(thing.segmentation for record in index.records for thing in record.instances)
    with pytest.raises(DataError, match=r"--ann is a list"):
        _read(samples_root("voc"), "val", annotation=path.with_suffix(".json"))


def test_a_subset_of_a_named_list_keeps_that_list(real, tmp_path):
    path = samples_root("voc") / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt"
    index = _read(samples_root("voc"), "val", annotation=path)
    VOC.write_subset(index, [record.image_id for record in index.records[:3]], tmp_path)
    written = tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt"
    assert written.read_text().split() == path.read_text().split()[:3]


# Row 34: floats, 1-based, part boxes, missing size, 0x0 size


def test_part_boxes_are_not_counted(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></part>"
    person = voc_object("person", (1, 1, 20.5, 30)).replace("</object>", part + "</object>")
    make_voc(tmp_path, {"a": voc_xml(person + voc_object("dog", (5, 6, 7, 8), difficult=1))})
    (record,) = _read(tmp_path).records
    assert [thing.box_xyxy for thing in record.instances] == [(0.0, 0.0, 20.5, 30.0), (4.0, 5.0, 7.0, 8.0)]
    assert [thing.is_difficult for thing in record.instances] == [False, True]


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_a_missing_size_is_read_from_the_image(tmp_path, size):
    year = make_voc(tmp_path, {"a": voc_xml(voc_object("dog", (1, 1, 5, 5)), size)})
    index = _read(tmp_path)
    assert (index.records[0].width, index.records[0].height) == (40, 30)
    assert index.counts == {"size read from the image": 1}
    (year / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(DataError, match="no image size"):
        _read(tmp_path)
    assert _read(tmp_path, size=(50, 60)).records[0].width == 50


@pytest.mark.parametrize(
    ("box", "cause"),
    [
        (("a", 1, 5, 5), "malformed box"),
        ((1, 1, "nan", 5), "out of range"),
        ((1, 1, 1e300, 5), "out of range"),
        ((9, 1, 5, 5), "empty box"),
        ((60, 1, 70, 5), "box outside the image"),
    ],
)
def test_a_faulty_box_is_dropped_counted_and_located(tmp_path, box, cause):
    make_voc(tmp_path, {"a": voc_xml(voc_object("dog", box) + "\n" + voc_object("cat", (1, 1, 5, 5)))})
    index = _read(tmp_path)
    assert [thing.category_id for thing in index.records[0].instances] == [8]
    (dropped,) = index.dropped
    assert (dropped.cause, dropped.where) == (cause, "Annotations/a.xml:1")
    with pytest.raises(DataError, match=cause):
        _read(tmp_path, strict=True)


def test_a_box_without_a_corner_is_dropped(tmp_path):
    make_voc(tmp_path, {"a": voc_xml(voc_object("dog", (1, 1, 5, 5)).replace("<xmin>1</xmin>", ""))})
    assert [dropped.detail for dropped in _read(tmp_path).dropped] == ["no <xmin>"]


def test_a_box_that_sticks_out_is_clipped_and_counted(tmp_path):
    make_voc(tmp_path, {"a": voc_xml(voc_object("dog", (-3, 1, 50, 5)))})
    index = _read(tmp_path)
    assert index.records[0].instances[0].box_xyxy == (0.0, 0.0, 40.0, 5.0)
    assert index.counts == {"box clipped": 1}


# Row 35: DOCTYPE in any form

BOMB = '<!DOCTYPE a [<!ENTITY a "lol">' + "".join(
    f'<!ENTITY {name} "{f"&{inner};" * 10}">' for inner, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    "head",
    [
        BOMB + "]>",
        '<!DOCTYPE x [<!ENTITY q "' + "a" * 100_000 + '">]>',
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE x SYSTEM "http://localhost:1/x.dtd">',
        "<!DOCTYPE annotation>",
    ],
    ids=["billion laughs", "quadratic", "outside entity", "outside dtd", "empty"],
)
def test_any_doctype_is_refused_quickly(tmp_path, head):
    body = voc_xml("<object><name>&j;&e;" + "&q;" * 1000 + "</name></object>")
    make_voc(tmp_path, {"a": head + body})
    start = time.process_time()
    with pytest.raises(DataError, match="DOCTYPE") as caught:
        _read(tmp_path)
    assert time.process_time() - start < 5
    assert "a.xml:1" in str(caught.value)


def test_an_entity_without_a_doctype_is_not_well_formed(tmp_path):
    make_voc(tmp_path, {"a": voc_xml("<object><name>&xxe;</name></object>")})
    with pytest.raises(DataError, match="undefined entity"):
        _read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no element found"),
        (b"<annotation><object>", "no element found"),
        (b"<html><body/></html>", "outermost element is <html>"),
        (b"\x1f\x8b\x08garbage", "not well-formed"),
        (b"<annotation>\xff</annotation>", "not well-formed"),
        (b'<?xml version="1.0" encoding="klingon"?><annotation/>', "not readable as XML|unknown encoding"),
        (b"<annotation>" + b"<a>" * 100 + b"</a>" * 100 + b"</annotation>", "nested more than"),
        (b"<annotation><size><width>1e9</width><height>4</height></size></annotation>", "impossible image size"),
        (b"<annotation><size><width>x</width><height>4</height></size></annotation>", "impossible image size"),
    ],
)
def test_a_faulty_file_is_named_with_its_line(tmp_path, content, message):
    year = make_voc(tmp_path, {"a": ""})
    (year / "Annotations" / "a.xml").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        _read(tmp_path)
    assert "a.xml" in str(caught.value)


def test_an_annotation_over_the_limit_is_refused(tmp_path):
    year = make_voc(tmp_path, {"a": ""})
    (year / "Annotations" / "a.xml").write_bytes(b"<annotation>" + b" " * (11 << 20) + b"</annotation>")
    with pytest.raises(DataError, match="10 MiB"):
        _read(tmp_path)


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "C:\\a", "sub/a", "..", ".hidden"])
def test_a_listed_name_that_is_a_path_is_refused(tmp_path, name):
    make_voc(tmp_path, {"a": voc_xml("")}, {"train": ["a", name]})
    with pytest.raises(DataError, match="plain image name") as caught:
        _read(tmp_path)
    assert "train.txt:2" in str(caught.value)


def test_a_doubled_name_and_a_missing_annotation_are_located(tmp_path):
    make_voc(tmp_path, {"a": voc_xml("")}, {"train": ["a", "a"], "val": ["gone"]})
    with pytest.raises(DataError, match="listed twice, first in line 1"):
        _read(tmp_path)
    with pytest.raises(DataError, match="missing") as caught:
        _read(tmp_path, "val")
    assert "gone.xml" in str(caught.value)


def test_an_annotation_that_links_out_of_the_set_is_refused(tmp_path):
    year = make_voc(tmp_path / "set", {"a": voc_xml("")})
    outside = tmp_path / "outside.xml"
    (year / "Annotations" / "a.xml").rename(outside)
    (year / "Annotations" / "a.xml").symlink_to(outside)
    with pytest.raises(DataError, match="leads out of"):
        _read(tmp_path / "set")
    assert len(_read(tmp_path / "set", follow_symlinks=True).records) == 1


def test_a_set_with_its_own_classes_numbers_them_alphabetically(tmp_path):
    things = {"a": voc_xml(voc_object("star", (1, 1, 5, 5))), "b": voc_xml(voc_object("ball", (1, 1, 5, 5)))}
    year = make_voc(tmp_path, things, {"train": ["a"], "val": ["b"]})
    assert [(c.category_id, c.name) for c in _read(tmp_path).categories] == [(1, "ball"), (2, "star")]
    (year / "ImageSets" / "Main" / "star_train.txt").write_text("a 1\n")
    index = _read(tmp_path, "val")
    assert [(c.category_id, c.name) for c in index.categories] == [(1, "star")]
    assert [dropped.cause for dropped in index.dropped] == ["unknown category"]


def test_masks_by_object_come_before_masks_by_class(tmp_path):
    year = make_voc(tmp_path, {"a": voc_xml(voc_object("dog", (1, 1, 5, 5)) + voc_object("cat", (9, 9, 20, 20)))})
    classes = np.zeros((30, 40))
    classes[:5, :5], classes[8:20, 8:20] = 12, 8
    write_palette_mask(year / "SegmentationClass" / "a.png", classes)
    by_class = _read(tmp_path)
    assert [t.segmentation.value for t in by_class.records[0].instances] == [12, 8]
    write_palette_mask(year / "SegmentationObject" / "a.png", np.where(classes == 12, 1, classes // 4))
    by_object = _read(tmp_path)
    assert [t.segmentation.value for t in by_object.records[0].instances] == [1, 2]
    assert by_class.source_sha256 != by_object.source_sha256


def test_the_fingerprint_follows_the_content(tmp_path):
    year = make_voc(tmp_path, {"a": voc_xml(voc_object("dog", (1, 1, 5, 5)))})
    first = _read(tmp_path).source_sha256
    assert _read(tmp_path).source_sha256 == first
    (year / "Annotations" / "a.xml").write_text(voc_xml(voc_object("dog", (1, 1, 5, 6))))
    assert _read(tmp_path).source_sha256 != first


def test_a_thousand_mutilated_files_are_read_or_refused_in_one_line(tmp_path):
    rng = np.random.default_rng(7)
    intact = voc_xml(voc_object("dog", (1, 2, 20.5, 30)) + voc_object("cat", (3, 3, 9, 9), difficult=1)).encode()
    year = make_voc(tmp_path, {"a": ""})
    refusals: list[DataError] = []
    for _ in range(1000):
        data = bytearray(intact)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(0, len(data)))
            data[place : place + int(rng.integers(0, 3))] = bytes(
                rng.integers(0, 256, int(rng.integers(0, 3))).tolist()
            )
        (year / "Annotations" / "a.xml").write_bytes(bytes(data))
        try:
            index = _read(tmp_path)
        except DataError as error:
            refusals.append(error)
        else:
            for thing in index.records[0].instances:
                x1, y1, x2, y2 = thing.box_xyxy
                assert 0 <= x1 < x2 <= index.records[0].width
                assert 0 <= y1 < y2 <= index.records[0].height
    assert 100 < len(refusals) < 1000
    assert all(error.where and "\n" not in str(error) for error in refusals)


def test_a_split_without_a_list_is_named(tmp_path):
    make_voc(tmp_path, {"a": voc_xml("")})
    with pytest.raises(DataError, match="no list of the val images"):
        _read(tmp_path, "val")
    assert not VOC.detect(tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages")
