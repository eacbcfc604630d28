"""BDD100K: the rows of the fault table, sizes, classes and mutilated files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from sptcore.data import FORMATS
from sptcore.data.format import Source
from sptcore.data.rasterize import object_mask, object_ratio
from sptcore.data.rle import compressed
from sptcore.errors import DataError
from tests.support.bdd import box_label, make_bdd, poly_label, read_bdd, read_frames

BDD = FORMATS["bdd"]
OLD = "labels/bdd100k_labels_images_val.json"


# Row 32: absent and null labels, lanes


def test_frames_without_labels_are_empty_images_and_lanes_are_counted(tmp_path):
    lane = poly_label("lane", [[0, 0], [50, 50]], closed=False)
    ground = poly_label("drivable area", [[0, 0], [50, 50], [0, 50]])
    frames = [{"name": "a.jpg"}, {"name": "b.jpg", "labels": None}, {"name": "c.jpg", "labels": []}]
    frames += [{"name": "d.jpg", "labels": [lane, ground, box_label("car", 0, 0, 9, 4)]}]
    index = read_frames(tmp_path, frames)
    assert [len(record.instances) for record in index.records] == [0, 0, 0, 1]
    assert object_ratio(index.records[3])[0] == 50
    assert index.counts["lane or drivable area labels left out"] == 2
    assert not index.dropped


def test_an_object_with_an_open_line_only_is_dropped(tmp_path):
    labels = [poly_label("car", [[0, 0], [50, 50], [9, 9]], closed=False)]
    index = read_frames(tmp_path, [{"name": "a.jpg", "labels": labels}])
    causes = [dropped.cause for dropped in index.dropped]
    assert causes == ["malformed polygon", "label without a box or a closed outline"]
    assert index.dropped[1].where == "[0].labels[0]"


# Row 33: swapped corners, other sizes


@pytest.mark.parametrize(
    ("box", "cause"),
    [
        ((50, 1, 40, 9), "box with its corners swapped"),
        ((5, 9, 40, 1), "box with its corners swapped"),
        ((1, 1, 1e9, 9), "out of range"),
        ((2000, 1, 2010, 9), "box outside the image"),
    ],
)
def test_a_faulty_box_is_dropped_counted_and_located(tmp_path, box, cause):
    frames = [{"name": "a.jpg"}, {"name": "b.jpg", "labels": [box_label("car", *box), box_label("bus", 1, 1, 9, 9)]}]
    index = read_frames(tmp_path, frames)
    assert [thing.category_id for thing in index.records[1].instances] == [5]
    (dropped,) = index.dropped
    assert (dropped.cause, dropped.where) == (cause, "[1].labels[0].box2d")
    with pytest.raises(DataError, match=cause):
        read_bdd(tmp_path, strict=True)


def test_a_plain_box_is_read_as_one_with_empty_outlines_is(tmp_path):
    draw = np.random.default_rng(3)
    corners = [0, 0.5, 7, -0.0, -0.5, -3, 1279, 1279.5, 1280, 719, 719.25, 4000, 1e9]
    kinds = [{}, {"attributes": {"crowd": True}}, {"attributes": {"ignored": 1}}, {"attributes": {"occluded": True}}]
    names = ["car", "other vehicle", "person", "lane", "zebra"]
    labels = [
        box_label(str(draw.choice(names)), *draw.choice(corners, 4).tolist(), **kinds[draw.integers(len(kinds))])
        for _ in range(2000)
    ]
    plain = read_frames(tmp_path / "plain", [{"name": "a.jpg", "labels": labels}])
    closer = read_frames(tmp_path / "closer", [{"name": "a.jpg", "labels": [one | {"poly2d": []} for one in labels]}])
    assert plain.records == closer.records
    assert (plain.dropped, plain.counts) == (closer.dropped, closer.counts)
    assert {thing.is_crowd for thing in plain.records[0].instances} == {True, False}
    assert len({dropped.cause for dropped in plain.dropped}) == 4


def test_a_box_of_one_pixel_and_one_that_sticks_out(tmp_path):
    labels = [box_label("car", 7, 7, 7, 7), box_label("car", 1270.5, 700, 1279.9, 719.5), box_label("car", -9, 0, 9, 9)]
    index = read_frames(tmp_path, [{"name": "a.jpg", "labels": labels}])
    assert [thing.box_xyxy for thing in index.records[0].instances] == [
        (7.0, 7.0, 8.0, 8.0),
        (1270.5, 700.0, 1280.0, 720.0),
        (0.0, 0.0, 10.0, 10.0),
    ]
    assert index.counts["box clipped"] == 1


def test_the_size_is_the_frames_then_the_files_then_the_given_then_the_images(tmp_path):
    frames = [{"name": "a.jpg", "size": {"width": 64, "height": 32}}, {"name": "b.jpg"}, {"name": "c.jpg"}]
    make_bdd(tmp_path, frames, images={"b.jpg": (200, 100)})
    index = read_bdd(tmp_path)
    assert [(r.width, r.height) for r in index.records] == [(64, 32), (200, 100), (1280, 720)]
    assert index.counts == {"images not there, 1280x720 assumed": 1}
    assert [r.width for r in read_bdd(tmp_path, size=(300, 150)).records] == [64, 300, 300]
    make_bdd(tmp_path, {"frames": frames, "config": {"imageSize": {"width": 500, "height": 400}}})
    assert [r.width for r in read_bdd(tmp_path, size=(300, 150)).records] == [64, 500, 500]


def test_sizes_are_read_from_headers_of_other_kinds(tmp_path):
    names = {"a.png": (31, 17), "b.jpg": (1000, 9)}
    make_bdd(tmp_path, [{"name": name} for name in names], images=names)
    progressive = tmp_path / "images" / "100k" / "train" / "b.jpg"
    Image.new("RGB", (1000, 9)).save(progressive, progressive=True, exif=b"Exif\0\0" + b"x" * 3000)
    assert [(r.width, r.height) for r in read_bdd(tmp_path).records] == list(names.values())


def test_an_image_that_links_out_of_the_set_is_not_opened(tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "outside.jpg")
    make_bdd(tmp_path / "set", [{"name": "a.jpg"}])
    (tmp_path / "set" / "images" / "100k" / "train" / "a.jpg").symlink_to(tmp_path / "outside.jpg")
    with pytest.raises(DataError, match="leads out of"):
        read_bdd(tmp_path / "set")
    assert read_bdd(tmp_path / "set", follow_symlinks=True).records[0].width == 50


def test_names_that_collide_are_noted_and_odd_names_work(tmp_path):
    odd = ["with space.jpg", "[red]é😀.jpg", "-x.jpg", "a\nb.jpg", "x" * 250 + ".jpg"]
    index = read_frames(tmp_path, [{"name": name} for name in odd])
    assert [record.file_name for record in index.records] == odd
    assert index.notes == ("labels read: det_20",)
    for names, note in ((["a.jpg", "A.jpg"], "upper and lower case"), (["a.jpg", "a.jpg"], "share their file name")):
        assert note in read_frames(tmp_path, [{"name": name} for name in names]).notes[1]


# Categories


def test_unknown_categories_are_counted_and_named_never_fatal(tmp_path):
    labels = [box_label("unicorn", 1, 1, 5, 5), box_label("car", 1, 1, 5, 5), {"box2d": None}]
    index = read_frames(tmp_path, [{"name": "a.jpg", "labels": labels}])
    assert len(index.records[0].instances) == 1
    assert [(d.cause, d.detail) for d in index.dropped] == [
        ("unknown category", "'unicorn'"),
        ("label without a category", ""),
    ]


def test_ignored_classes_and_crowds_become_crowds(tmp_path):
    labels = [box_label("trailer", 1, 1, 5, 5), box_label("car", 1, 1, 5, 5, attributes={"crowd": True, "x": [1]})]
    labels += [box_label("car", 1, 1, 5, 5, attributes={"occluded": True})]
    (record,) = read_frames(tmp_path, [{"name": "a.jpg", "labels": labels}]).records
    assert [(thing.category_id, thing.is_crowd) for thing in record.instances] == [(4, True), (3, True), (3, False)]


def test_a_file_may_define_its_own_nested_classes(tmp_path):
    config = {"categories": [{"name": "plant", "subcategories": [{"name": "oak"}, {"name": "elm"}]}, {"name": "car"}]}
    frames = [{"name": "a.jpg", "labels": [box_label("car", 1, 1, 5, 5), box_label("pedestrian", 1, 1, 5, 5)]}]
    index = read_frames(tmp_path, {"frames": frames, "config": config})
    assert [(c.category_id, c.name) for c in index.categories] == [(1, "oak"), (2, "elm"), (3, "car")]
    assert [thing.category_id for thing in index.records[0].instances] == [3]
    assert index.dropped[0].detail == "'pedestrian'"


# The rows on JSON files, row 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty, at byte 0"),
        ('[{"name": "a', "ends too early, at byte 12"),
        ('[{"name": NaN}]', "at byte 10"),
        ("[" * 100_000, "nested too deeply|ends too early"),
        ("<html></html>", "HTML"),
        ('"frames"', "neither a list of frames"),
        ("{}", "no `frames`"),
        ('{"frames": {}}', "`frames` is no list"),
        ('{"frames": [], "frames": []}', "occurs twice"),
        ('{"images": [], "annotations": [], "categories": []}', "looks like COCO"),
        ('{"frames": [], "config": {"categories": 3}}', "Expected `array"),
        ('[{"labels": []}]', "missing required field `name`"),
        ('[{"name": "a.jpg"}, {"name": 7}]', "Expected `str`"),
        ('[{"name": "a.jpg", "size": {"width": 0, "height": 5}}]', ">= 1"),
        ('[{"name": "a.jpg", "size": {"width": 10, "height": 5.5}}]', "Expected `int`"),
        ('[{"name": "a.jpg", "labels": {}}]', "Expected `array"),
        ('[{"image_id": 5, "bbox": [1, 2, 3, 4]}]', "missing required field `name`"),
    ],
)
def test_a_faulty_file_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read_frames(tmp_path, text)
    assert "det_train.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_faulty_frame_is_named(tmp_path):
    with pytest.raises(DataError) as caught:
        read_frames(tmp_path, {"frames": [{"name": "a.jpg"}, {"name": "b.jpg", "size": 4}]})
    assert "frames[1]" in str(caught.value)


def test_a_coco_file_says_so_and_a_coco_reader_says_the_reverse(tmp_path):
    path = make_bdd(tmp_path, [{"name": "a.jpg", "labels": []}])
    with pytest.raises(DataError, match="looks like Scalabel"):
        FORMATS["coco"].read(Source("x", "coco", tmp_path, path), "train")


def test_gzip_invalid_utf8_and_a_byte_order_mark(tmp_path):
    path = make_bdd(tmp_path, [{"name": "a.jpg"}])
    text = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + text)
    index = read_bdd(tmp_path)
    assert "byte order mark" in index.notes
    (written,) = BDD.write_subset(index, [1], tmp_path / "out")
    assert written.read_bytes() == text
    path.write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(DataError, match="gzip"):
        read_bdd(tmp_path)
    path.write_bytes(b'[{"name": "\xff"}]')
    with pytest.raises(DataError, match="UTF-8 at byte 11"):
        read_bdd(tmp_path)


@pytest.mark.parametrize("name", ["../../x.jpg", "/etc/x", "C:\\x", "a\0b", "..\\x", ""])
def test_a_name_that_leads_out_of_the_set_is_refused(tmp_path, name):
    with pytest.raises(DataError) as caught:
        read_frames(tmp_path, [{"name": "a.jpg"}, {"name": name}])
    assert "[1].name" in str(caught.value)


# Rows 20 to 29 where they apply to labels


@pytest.mark.parametrize(
    ("label", "causes"),
    [
        ({"category": "car", "box2d": [1, 2, 3, 4]}, ["malformed label"]),
        ({"category": "car", "box2d": {"x1": "1", "y1": 1, "x2": 3, "y2": 4}}, ["malformed label"]),
        ({"category": "car", "box2d": {"x1": 1, "y1": 1, "x2": 3}}, ["malformed label"]),
        (17, ["malformed label"]),
        ({"category": "car"}, ["label without a box or a closed outline"]),
        (poly_label("car", [[1, 1], [2, 2]]), ["malformed polygon", "label without a box or a closed outline"]),
        (
            poly_label("car", [[1, 1], [2, 2, 3], [4, 4]]),
            ["malformed polygon", "label without a box or a closed outline"],
        ),
        (
            poly_label("car", [[1, 1], [2, 1e300], [4, 4]]),
            ["malformed polygon", "label without a box or a closed outline"],
        ),
        (
            poly_label("car", [[1, 1], [9, 2], [4, 4], [5, 7]], types="LCLL"),
            ["malformed polygon", "label without a box or a closed outline"],
        ),
        (
            poly_label("car", [[1, 1], [9, 2], [4, 4]], types="LX"),
            ["malformed polygon", "label without a box or a closed outline"],
        ),
        (box_label("car", 1, 1, 5, 5, rle={"counts": "04L4", "size": [5, 5]}), ["malformed run lengths"]),
        (box_label("car", 1, 1, 5, 5, rle={"counts": "zz~", "size": [720, 1280]}), ["malformed run lengths"]),
        (box_label("car", 1, 1, 5, 5, rle={"counts": [5, 5], "size": [720, 1280]}), ["malformed run lengths"]),
        (box_label("car", 1, 1, 5, 5, rle={"counts": [], "size": [200000, 200000]}), ["malformed run lengths"]),
    ],
)
def test_a_faulty_label_is_dropped_and_its_neighbours_stay(tmp_path, label, causes):
    frames = [{"name": "a.jpg", "labels": [box_label("bus", 1, 1, 9, 9), label, box_label("car", 1, 1, 9, 9)]}]
    index = read_frames(tmp_path, frames)
    assert [dropped.cause for dropped in index.dropped] == causes
    assert all(".labels[1]" in dropped.where for dropped in index.dropped)
    categories = [thing.category_id for thing in index.records[0].instances]
    assert categories == ([5, 3, 3] if "run lengths" in causes[0] else [5, 3])
    with pytest.raises(DataError, match=causes[0]):
        read_bdd(tmp_path, strict=True)


def test_run_lengths_as_counts_are_taken_when_they_fill_the_image(tmp_path):
    frames = [{"name": "a.jpg", "size": {"width": 4, "height": 3}, "labels": [{"category": "car"}]}]
    frames[0]["labels"][0]["rle"] = {"counts": [1, 2, 9], "size": [3, 4]}
    (record,) = read_frames(tmp_path, frames).records
    assert record.instances[0].box_xyxy == (0.0, 1.0, 1.0, 3.0)
    assert object_mask(record).sum() == 2


def test_a_closed_curve_is_round(tmp_path):
    """A circle of four cubic Bezier arcs covers pi * r * r pixels, and its last arc ends in the first vertex."""
    k, r, c = 0.5522847498, 100.0, 300.0
    ring = [(c + r, c), (c + r, c + k * r), (c + k * r, c + r), (c, c + r), (c - k * r, c + r), (c - r, c + k * r)]
    ring += [(c - r, c), (c - r, c - k * r), (c - k * r, c - r), (c, c - r), (c + k * r, c - r), (c + r, c - k * r)]
    labels = [poly_label("car", ring, types="LCC" * 4)]
    (record,) = read_frames(tmp_path, [{"name": "a.jpg", "labels": labels}]).records
    assert object_mask(record).sum() == pytest.approx(np.pi * r * r, rel=2e-3)
    assert record.instances[0].box_xyxy == pytest.approx((200, 200, 400, 400), abs=0.01)


def test_a_thousand_mutilated_files_are_read_or_refused_in_one_line(tmp_path):
    rng = np.random.default_rng(11)
    labels = [
        box_label("car", 1.5, 2, 40, 50, attributes={"crowd": False}),
        poly_label("bus", [[1, 1], [9, 1], [9, 9]]),
    ]
    labels += [{"category": "car", "rle": {"counts": [4, 5, 921591], "size": [720, 1280]}}]
    intact = json.dumps({"frames": [{"name": "a.jpg", "labels": labels}, {"name": "b.jpg"}], "config": None}).encode()
    path = make_bdd(tmp_path, "")
    refusals: list[DataError] = []
    for _ in range(1000):
        data = bytearray(intact)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(0, len(data)))
            letters = rng.choice(list(b'{}[]",:0123456789eE.-nullLC \xff'), int(rng.integers(0, 3))).tolist()
            data[place : place + int(rng.integers(0, 3))] = bytes(letters)
        path.write_bytes(bytes(data))
        try:
            index = read_bdd(tmp_path)
        except DataError as error:
            refusals.append(error)
        else:
            for record in index.records:
                assert object_mask(record).shape == (record.height, record.width)
                for x1, y1, x2, y2 in (thing.box_xyxy for thing in record.instances):
                    assert 0 <= x1 < x2 <= record.width
                    assert 0 <= y1 < y2 <= record.height
    assert 250 < len(refusals) < 1000
    assert all(error.where and "\n" not in str(error) for error in refusals)


def test_run_lengths_padded_with_empty_runs_do_not_reach_pycocotools(tmp_path):
    """It merges into a buffer of height x width + 1 counts, which these overrun."""
    code = {"size": [4, 4], "counts": coco_mask_text([4, 12] + [0] * 2_000, 4, 4)}
    labels = [{"category": "car", "rle": code}, {"category": "bus", "rle": code}]
    index = read_frames(tmp_path, [{"name": "a.jpg", "size": {"width": 4, "height": 4}, "labels": labels}])
    first, second = index.records[0].instances
    assert first.segmentation == second.segmentation
    assert len(first.segmentation.counts) == 2
    assert object_ratio(index.records[0])[0] == 12


def coco_mask_text(counts, height, width):
    return compressed(counts, height, width).decode("ascii")
