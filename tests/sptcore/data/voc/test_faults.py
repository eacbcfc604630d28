"""PASCAL VOC: the rows of the fault table, classes, masks and mutilated files."""

from __future__ import annotations

import time

import numpy as np
import pytest

from sptcore.data import FORMATS
from sptcore.errors import DataError
from tests.support.voc import make_voc, read_voc, voc_object, voc_xml, write_palette_mask

VOC = FORMATS["voc"]


# Row 34: floats, 1-based, part boxes, missing size, 0x0 size


def test_part_boxes_are_not_counted(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></part>"
    person = voc_object("person", (1, 1, 20.5, 30)).replace("</object>", part + "</object>")
    make_voc(tmp_path, {"a": voc_xml(person + voc_object("dog", (5, 6, 7, 8), difficult=1))})
    (record,) = read_voc(tmp_path).records
    assert [thing.box_xyxy for thing in record.instances] == [(0.0, 0.0, 20.5, 30.0), (4.0, 5.0, 7.0, 8.0)]
    assert [thing.is_difficult for thing in record.instances] == [False, True]


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_a_missing_size_is_read_from_the_image(tmp_path, size):
    year = make_voc(tmp_path, {"a": voc_xml(voc_object("dog", (1, 1, 5, 5)), size)})
    index = read_voc(tmp_path)
    assert (index.records[0].width, index.records[0].height) == (40, 30)
    assert index.counts == {"size read from the image": 1}
    (year / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(DataError, match="no image size"):
        read_voc(tmp_path)
    assert read_voc(tmp_path, size=(50, 60)).records[0].width == 50


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
    index = read_voc(tmp_path)
    assert [thing.category_id for thing in index.records[0].instances] == [8]
    (dropped,) = index.dropped
    assert (dropped.cause, dropped.where) == (cause, "Annotations/a.xml:1")
    with pytest.raises(DataError, match=cause):
        read_voc(tmp_path, strict=True)


def test_a_box_without_a_corner_is_dropped(tmp_path):
    make_voc(tmp_path, {"a": voc_xml(voc_object("dog", (1, 1, 5, 5)).replace("<xmin>1</xmin>", ""))})
    assert [dropped.detail for dropped in read_voc(tmp_path).dropped] == ["no <xmin>"]


def test_a_box_that_sticks_out_is_clipped_and_counted(tmp_path):
    make_voc(tmp_path, {"a": voc_xml(voc_object("dog", (-3, 1, 50, 5)))})
    index = read_voc(tmp_path)
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
        read_voc(tmp_path)
    assert time.process_time() - start < 5
    assert "a.xml:1" in str(caught.value)


def test_an_entity_without_a_doctype_is_not_well_formed(tmp_path):
    make_voc(tmp_path, {"a": voc_xml("<object><name>&xxe;</name></object>")})
    with pytest.raises(DataError, match="undefined entity"):
        read_voc(tmp_path)


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
        read_voc(tmp_path)
    assert "a.xml" in str(caught.value)


def test_an_annotation_over_the_limit_is_refused(tmp_path):
    year = make_voc(tmp_path, {"a": ""})
    (year / "Annotations" / "a.xml").write_bytes(b"<annotation>" + b" " * (11 << 20) + b"</annotation>")
    with pytest.raises(DataError, match="10 MiB"):
        read_voc(tmp_path)


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "C:\\a", "sub/a", "..", ".hidden"])
def test_a_listed_name_that_is_a_path_is_refused(tmp_path, name):
    make_voc(tmp_path, {"a": voc_xml("")}, {"train": ["a", name]})
    with pytest.raises(DataError, match="plain image name") as caught:
        read_voc(tmp_path)
    assert "train.txt:2" in str(caught.value)


def test_a_doubled_name_and_a_missing_annotation_are_located(tmp_path):
    make_voc(tmp_path, {"a": voc_xml("")}, {"train": ["a", "a"], "val": ["gone"]})
    with pytest.raises(DataError, match="listed twice, first in line 1"):
        read_voc(tmp_path)
    with pytest.raises(DataError, match="missing") as caught:
        read_voc(tmp_path, "val")
    assert "gone.xml" in str(caught.value)


def test_odd_names_work_and_names_that_differ_in_case_are_noted(tmp_path):
    odd = ["with space", "[red]é😀", "-x", "a.b"]
    make_voc(tmp_path, {name: voc_xml("") for name in [*odd, "A.b"]}, {"train": odd, "val": ["a.b", "A.b"]})
    index = read_voc(tmp_path)
    assert [record.file_name for record in index.records] == [f"{name}.jpg" for name in odd]
    assert len(index.notes) == 1
    assert "upper and lower case" in read_voc(tmp_path, "val").notes[1]
    FORMATS["voc"].write_subset(index, [1, 2], tmp_path / "out")
    assert [record.file_name for record in read_voc(tmp_path / "out").records] == ["with space.jpg", "[red]é😀.jpg"]


def test_an_annotation_that_links_out_of_the_set_is_refused(tmp_path):
    year = make_voc(tmp_path / "set", {"a": voc_xml("")})
    outside = tmp_path / "outside.xml"
    (year / "Annotations" / "a.xml").rename(outside)
    (year / "Annotations" / "a.xml").symlink_to(outside)
    with pytest.raises(DataError, match="leads out of"):
        read_voc(tmp_path / "set")
    assert len(read_voc(tmp_path / "set", follow_symlinks=True).records) == 1


def test_a_set_with_its_own_classes_numbers_them_alphabetically(tmp_path):
    things = {"a": voc_xml(voc_object("star", (1, 1, 5, 5))), "b": voc_xml(voc_object("ball", (1, 1, 5, 5)))}
    year = make_voc(tmp_path, things, {"train": ["a"], "val": ["b"]})
    assert [(c.category_id, c.name) for c in read_voc(tmp_path).categories] == [(1, "ball"), (2, "star")]
    (year / "ImageSets" / "Main" / "star_train.txt").write_text("a 1\n")
    index = read_voc(tmp_path, "val")
    assert [(c.category_id, c.name) for c in index.categories] == [(1, "star")]
    assert [dropped.cause for dropped in index.dropped] == ["unknown category"]


def test_masks_by_object_come_before_masks_by_class(tmp_path):
    year = make_voc(tmp_path, {"a": voc_xml(voc_object("dog", (1, 1, 5, 5)) + voc_object("cat", (9, 9, 20, 20)))})
    classes = np.zeros((30, 40))
    classes[:5, :5], classes[8:20, 8:20] = 12, 8
    write_palette_mask(year / "SegmentationClass" / "a.png", classes)
    by_class = read_voc(tmp_path)
    assert [t.segmentation.value for t in by_class.records[0].instances] == [12, 8]
    write_palette_mask(year / "SegmentationObject" / "a.png", np.where(classes == 12, 1, classes // 4))
    by_object = read_voc(tmp_path)
    assert [t.segmentation.value for t in by_object.records[0].instances] == [1, 2]
    assert by_class.source_sha256 != by_object.source_sha256


def test_the_fingerprint_follows_the_content(tmp_path):
    year = make_voc(tmp_path, {"a": voc_xml(voc_object("dog", (1, 1, 5, 5)))})
    first = read_voc(tmp_path).source_sha256
    assert read_voc(tmp_path).source_sha256 == first
    (year / "Annotations" / "a.xml").write_text(voc_xml(voc_object("dog", (1, 1, 5, 6))))
    assert read_voc(tmp_path).source_sha256 != first


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
            index = read_voc(tmp_path)
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
        read_voc(tmp_path, "val")
    assert not VOC.detect(tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages")
