"""BDD100K: the facts of the real sample, the rows of the fault table, and subsets that keep the source's bytes."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sptcore.data import FORMATS
from sptcore.data.format import ReadOptions, Source
from sptcore.data.rasterize import instance_mask, object_mask, object_ratio
from sptcore.data.records import DatasetIndex, ImageRecord, Rle
from sptcore.errors import DataError, IntegrityError
from tests.support.bdd import box_label, make_bdd, poly_label
from tests.support.samples import samples_root

BDD = FORMATS["bdd"]
OLD = "labels/bdd100k_labels_images_val.json"


def _read(root: Path, split: str = "train", annotation: Path | None = None, **options) -> DatasetIndex:
    return BDD.read(Source("bdd", "bdd", root, annotation, options=ReadOptions(**options)), split)


def _read_frames(root: Path, content, **options) -> DatasetIndex:
    make_bdd(root, content)
    return _read(root, **options)


@pytest.fixture(scope="module")
def real() -> dict[str, DatasetIndex]:
    root = samples_root("bdd100k")
    return {
        "labels/det_20/det_train.json": _read(root, "train"),
        "labels/det_20/det_val.json": _read(root, "val"),
        OLD: _read(root, "val", root / OLD),
    }


@pytest.fixture(scope="module")
def facts() -> dict:
    return json.loads((samples_root("bdd100k") / "facts.json").read_text())


def _exact_ratio(record: ImageRecord, *, at_border: float = 0) -> float:
    """The exact area of the union of the boxes as the facts measure it: corners as differences, real-valued.

    A box that was clipped at the right or lower border ended up to `at_border` pixels before it.
    """
    boxes = np.array([thing.box_xyxy for thing in record.instances])
    border = boxes[:, 2:] == (record.width, record.height)
    boxes[:, 2:] -= np.where(border, at_border, 1)
    xs, ys = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
    covered = np.zeros((len(ys) - 1, len(xs) - 1), bool)
    for x1, y1, x2, y2 in boxes:
        rows = slice(*np.searchsorted(ys, (y1, y2)))
        covered[rows, slice(*np.searchsorted(xs, (x1, x2)))] = True
    return float((np.diff(ys)[:, None] * np.diff(xs)[None, :] * covered).sum() / (record.width * record.height))


@pytest.mark.parametrize("file", ["labels/det_20/det_train.json", "labels/det_20/det_val.json", OLD])
def test_every_ratio_and_count_of_the_real_sample_is_that_of_its_facts(real, facts, file):
    index, known = real[file], facts["label_files"][file]
    assert len(index.records) == known["frames"]
    assert sum(len(record.instances) for record in index.records) == known["boxes"]
    ratios = []
    for record in index.records:
        assert (record.width, record.height) == (1280, 720)
        assert len(record.instances) == known["per_image"][record.file_name]["objects"]
        ratios.append([_exact_ratio(record, at_border=1), _exact_ratio(record, at_border=0)])
        assert ratios[-1][0] - 1e-6 <= known["per_image"][record.file_name]["box_ratio"] <= ratios[-1][1] + 1e-6
        assert ratios[-1][1] - ratios[-1][0] < 2e-3
    for limit in (0.20, 0.25):
        under = known["counts"]["box_ratio"][f"under_{limit:.2f}"]
        assert (np.array(ratios) < limit).sum(axis=0).tolist() == [under, under]


def test_inclusive_corners_move_only_an_image_near_the_threshold(real, facts):
    """Our own rule counts the last row and column of a box; no decision of the facts changes but a close one."""
    known = facts["label_files"][OLD]
    for record in real[OLD].records:
        pixels, total = object_ratio(record)
        exact = known["per_image"][record.file_name]["box_ratio"]
        assert exact - 1e-3 <= pixels / total <= exact + 5e-3
        for limit in (0.20, 0.25):
            near = known["counts"]["box_ratio"][f"near_{limit:.2f}"]
            assert (pixels / total < limit) == (exact < limit) or record.file_name in near


def test_names_of_2018_and_2020_are_the_same_classes(real, facts):
    names = {category.category_id: category.name for category in real[OLD].categories}
    assert list(names) == list(range(1, 11))
    counts = [Counter(names[t.category_id] for r in real[f].records for t in r.instances) for f in list(real)[1:]]
    assert counts[0] == counts[1] == facts["label_files"]["labels/det_20/det_val.json"]["boxes_by_category"]
    assert [r.instances for r in real["labels/det_20/det_val.json"].records] == [r.instances for r in real[OLD].records]


def test_det_20_comes_first_and_the_others_are_named(real):
    assert real["labels/det_20/det_val.json"].notes == (
        "labels read: det_20 (also here: the labels of 2018; choose with --ann)",
    )
    assert real[OLD].notes == ("labels read: the labels of 2018",)
    root = samples_root("bdd100k")
    assert BDD.detect(root)
    assert BDD.splits(root) == ["train", "val"]
    assert real[OLD].image_path(real[OLD].records[0]).is_file()


def test_the_ratio_of_the_bitmask_sample_is_that_of_its_facts(facts):
    root = samples_root("bdd100k")
    (name, known), *_ = facts["bitmasks"].items()
    index = _read(root, "train", (root / name).parent)
    (record,) = index.records
    assert len(record.instances) == known["instances"]
    assert {thing.category_id for thing in record.instances} == set(known["category_ids"])
    pixels, total = object_ratio(record)
    assert pixels / total == pytest.approx(known["object_pixel_ratio"], abs=1e-6)
    assert (record.height, record.width) == tuple(known["shape"][:2])
    assert sum(thing.area for thing in record.instances) == pixels


def test_bezier_polygons_agree_with_the_bitmask_made_from_them():
    """The bitmask paints boundary pixels as well: all differences lie within a pixel and a half of an edge."""
    root = samples_root("bdd100k") / "format_samples" / "ins_seg"
    outlined = _read(root, "train", root / "polygons" / "ins_seg.json").records[0]
    painted = _read(root, "train", root / "bitmasks").records[0]
    assert len(outlined.instances) == len(painted.instances) == 4
    for first, second in zip(outlined.instances, painted.instances, strict=True):
        ours, theirs = (instance_mask(thing, 720, 1280) for thing in (first, second))
        edge = _near_edge(theirs.astype(bool))
        assert not (ours != theirs)[~edge].any()
        assert np.allclose(first.box_xyxy, second.box_xyxy, atol=1.5)


def _near_edge(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1, mode="edge")
    around = [padded[y : y + mask.shape[0], x : x + mask.shape[1]] for y in range(3) for x in range(3)]
    return np.any(around, axis=0) & ~np.all(around, axis=0)


def test_a_curve_is_not_the_polygon_of_its_control_points():
    """Control: taking control points for corners is seen by the test above."""
    root = samples_root("bdd100k") / "format_samples" / "ins_seg"
    frames = json.loads((root / "polygons" / "ins_seg.json").read_text())
    corners = frames[0]["labels"][0]["poly2d"][0]
    assert "CC" in corners["types"]
    painted = instance_mask(_read(root, "train", root / "bitmasks").records[0].instances[0], 720, 1280)
    flat = np.zeros((720, 1280), bool)
    from pycocotools import mask as coco_mask

    code = coco_mask.frPyObjects([np.array(corners["vertices"]).ravel().tolist()], 720, 1280)
    flat |= coco_mask.decode(code)[..., 0].astype(bool)
    assert (flat != painted)[~_near_edge(painted.astype(bool))].sum() > 50


def test_run_lengths_come_before_polygons():
    root = samples_root("bdd100k") / "format_samples" / "ins_seg"
    path = root / "polygons" / "ins_seg_car.json"
    record = _read(root, "train", path).records[0]
    for thing, label in zip(record.instances, json.loads(path.read_text())[0]["labels"], strict=True):
        assert isinstance(thing.segmentation, Rle)
        assert thing.segmentation.counts.decode() == label["rle"]["counts"]
        rows, columns = np.nonzero(instance_mask(thing, 720, 1280))
        extent = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.allclose(extent, thing.box_xyxy, atol=2)


# A subset keeps bytes


@pytest.mark.parametrize("file", ["labels/det_20/det_train.json", "labels/det_20/det_val.json", OLD])
def test_everything_kept_is_the_source_itself(real, tmp_path, file):
    index = real[file]
    (written,) = BDD.write_subset(index, [record.image_id for record in index.records], tmp_path)
    assert written == tmp_path / file
    assert written.read_bytes() == (samples_root("bdd100k") / file).read_bytes()


@pytest.mark.parametrize("file", ["labels/det_20/det_val.json", OLD])
def test_kept_frames_are_slices_of_the_source_and_read_back_the_same(real, tmp_path, file):
    index = real[file]
    keep = {record.image_id for record in index.records if _exact_ratio(record) < 0.25}
    assert len(keep) == 102
    BDD.write_subset(index, keep, tmp_path)
    source = (samples_root("bdd100k") / file).read_bytes()
    for frame, text in zip(json.loads((tmp_path / file).read_text()), _frames_of(tmp_path / file), strict=True):
        assert text in source
        assert json.loads(text) == frame
    again = BDD.read(Source("s", "bdd", tmp_path, image_roots={"val": index.image_root}), "val")
    kept = [record for record in index.records if record.image_id in keep]
    assert [_plain(record) for record in again.records] == [_plain(record) for record in kept]
    assert again.categories == index.categories
    assert BDD.image_folder(again) == Path("images/100k/val")


def _frames_of(path: Path) -> list[bytes]:
    data, texts, at = path.read_text(), [], 1
    decoder = json.JSONDecoder()
    while at < len(data) and data[at:].strip() not in ("]", ""):
        at += len(data[at:]) - len(data[at:].lstrip(" ,\n\r\t"))
        _, end = decoder.raw_decode(data, at)
        texts.append(data[at:end].encode())
        at = end
    return texts


def _plain(record: ImageRecord) -> tuple:
    things = [(t.category_id, t.box_xyxy, t.segmentation, t.is_crowd) for t in record.instances]
    return record.file_name, record.width, record.height, things


def test_the_object_form_keeps_its_other_keys(tmp_path):
    frames = [{"name": f"{n}.jpg", "labels": [box_label("tree", n, 1, n + 4, 9)], "note": 1e3} for n in range(5)]
    text = json.dumps({"groups": None, "frames": frames, "config": {"categories": [{"name": "tree"}]}}, indent=1)
    make_bdd(tmp_path / "in", text)
    index = _read(tmp_path / "in")
    assert index.categories[0].name == "tree"
    (written,) = BDD.write_subset(index, [2, 4], tmp_path / "out")
    content = json.loads(written.read_text())
    assert list(content) == ["groups", "frames", "config"]
    assert [frame["name"] for frame in content["frames"]] == ["1.jpg", "3.jpg"]
    assert "1000.0" in written.read_text()
    (empty,) = BDD.write_subset(index, [], tmp_path / "none")
    assert json.loads(empty.read_text())["frames"] == []
    assert _read(tmp_path / "none").records == ()


def test_an_instance_segmentation_file_keeps_its_place(tmp_path):
    file = "labels/ins_seg/polygons/ins_seg_train.json"
    make_bdd(tmp_path / "in", [{"name": "a.jpg", "labels": [poly_label("car", [[1, 1], [9, 1], [9, 9]])]}], file=file)
    index = _read(tmp_path / "in")
    assert index.has_masks
    assert len(index.categories) == 8
    assert BDD.write_subset(index, [1], tmp_path / "out") == [tmp_path / "out" / file]
    assert index.image_root == tmp_path / "in" / "images" / "10k" / "train"


def test_bitmasks_are_copied_byte_for_byte(tmp_path):
    folder = tmp_path / "in" / "labels" / "ins_seg" / "bitmasks" / "train"
    folder.mkdir(parents=True)
    pixels = np.zeros((30, 40, 4), np.uint8)
    pixels[2:9, 3:12] = (3, 2, 1, 4)
    pixels[20:25, 20:25] = (200, 0, 0, 7)
    for name in ("a", "b"):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    index = _read(tmp_path / "in")
    assert [record.file_name for record in index.records] == ["a.jpg", "b.jpg"]
    (thing,) = index.records[0].instances
    assert (thing.category_id, thing.box_xyxy, thing.is_crowd, thing.area) == (3, (3.0, 2.0, 12.0, 9.0), True, 63.0)
    assert [dropped.cause for dropped in index.dropped] == ["unknown category"] * 2
    assert object_mask(index.records[0]).sum() == 63
    (written,) = BDD.write_subset(index, [2], tmp_path / "out")
    assert written.read_bytes() == (folder / "b.png").read_bytes()
    assert [record.file_name for record in _read(tmp_path / "out").records] == ["b.jpg"]


def test_a_changed_source_is_not_mixed(tmp_path):
    path = make_bdd(tmp_path, [{"name": "a.jpg"}])
    index = _read(tmp_path)
    path.write_text(json.dumps([{"name": "b.jpg"}]))
    with pytest.raises(IntegrityError, match="not the one that was read"):
        BDD.write_subset(index, [1], tmp_path / "out")


def test_blocks_travel_to_other_processes_and_add_up(real):
    root = samples_root("bdd100k")
    opened = BDD.stream(Source("bdd", "bdd", root), "val")
    assert opened is not None
    loaded = [pickle.loads(pickle.dumps(block)).load() for block in opened.blocks(50)]
    assert [len(part.records) for part in loaded] == [50, 50, 24]
    assert tuple(record for part in loaded for record in part.records) == real["labels/det_20/det_val.json"].records
    assert opened.n_images == 124


# Row 32: absent and null labels, lanes


def test_frames_without_labels_are_empty_images_and_lanes_are_counted(tmp_path):
    lane = poly_label("lane", [[0, 0], [50, 50]], closed=False)
    ground = poly_label("drivable area", [[0, 0], [50, 50], [0, 50]])
    frames = [{"name": "a.jpg"}, {"name": "b.jpg", "labels": None}, {"name": "c.jpg", "labels": []}]
    frames += [{"name": "d.jpg", "labels": [lane, ground, box_label("car", 0, 0, 9, 4)]}]
    index = _read_frames(tmp_path, frames)
    assert [len(record.instances) for record in index.records] == [0, 0, 0, 1]
    assert object_ratio(index.records[3])[0] == 50
    assert index.counts["lane or drivable area labels left out"] == 2
    assert not index.dropped


def test_an_object_with_an_open_line_only_is_dropped(tmp_path):
    labels = [poly_label("car", [[0, 0], [50, 50], [9, 9]], closed=False)]
    index = _read_frames(tmp_path, [{"name": "a.jpg", "labels": labels}])
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
    index = _read_frames(tmp_path, frames)
    assert [thing.category_id for thing in index.records[1].instances] == [5]
    (dropped,) = index.dropped
    assert (dropped.cause, dropped.where) == (cause, "[1].labels[0].box2d")
    with pytest.raises(DataError, match=cause):
        _read(tmp_path, strict=True)


def test_a_box_of_one_pixel_and_one_that_sticks_out(tmp_path):
    labels = [box_label("car", 7, 7, 7, 7), box_label("car", 1270.5, 700, 1279.9, 719.5), box_label("car", -9, 0, 9, 9)]
    index = _read_frames(tmp_path, [{"name": "a.jpg", "labels": labels}])
    assert [thing.box_xyxy for thing in index.records[0].instances] == [
        (7.0, 7.0, 8.0, 8.0),
        (1270.5, 700.0, 1280.0, 720.0),
        (0.0, 0.0, 10.0, 10.0),
    ]
    assert index.counts["box clipped"] == 1


def test_the_size_is_the_frames_then_the_files_then_the_given_then_the_images(tmp_path):
    frames = [{"name": "a.jpg", "size": {"width": 64, "height": 32}}, {"name": "b.jpg"}, {"name": "c.jpg"}]
    make_bdd(tmp_path, frames, images={"b.jpg": (200, 100)})
    index = _read(tmp_path)
    assert [(r.width, r.height) for r in index.records] == [(64, 32), (200, 100), (1280, 720)]
    assert index.counts == {"images not there, 1280x720 assumed": 1}
    assert [r.width for r in _read(tmp_path, size=(300, 150)).records] == [64, 300, 300]
    make_bdd(tmp_path, {"frames": frames, "config": {"imageSize": {"width": 500, "height": 400}}})
    assert [r.width for r in _read(tmp_path, size=(300, 150)).records] == [64, 500, 500]


def test_sizes_are_read_from_headers_of_other_kinds(tmp_path):
    names = {"a.png": (31, 17), "b.jpg": (1000, 9)}
    make_bdd(tmp_path, [{"name": name} for name in names], images=names)
    progressive = tmp_path / "images" / "100k" / "train" / "b.jpg"
    Image.new("RGB", (1000, 9)).save(progressive, progressive=True, exif=b"Exif\0\0" + b"x" * 3000)
    assert [(r.width, r.height) for r in _read(tmp_path).records] == list(names.values())


# Categories


def test_unknown_categories_are_counted_and_named_never_fatal(tmp_path):
    labels = [box_label("unicorn", 1, 1, 5, 5), box_label("car", 1, 1, 5, 5), {"box2d": None}]
    index = _read_frames(tmp_path, [{"name": "a.jpg", "labels": labels}])
    assert len(index.records[0].instances) == 1
    assert [(d.cause, d.detail) for d in index.dropped] == [
        ("unknown category", "'unicorn'"),
        ("label without a category", ""),
    ]


def test_ignored_classes_and_crowds_become_crowds(tmp_path):
    labels = [box_label("trailer", 1, 1, 5, 5), box_label("car", 1, 1, 5, 5, attributes={"crowd": True, "x": [1]})]
    labels += [box_label("car", 1, 1, 5, 5, attributes={"occluded": True})]
    (record,) = _read_frames(tmp_path, [{"name": "a.jpg", "labels": labels}]).records
    assert [(thing.category_id, thing.is_crowd) for thing in record.instances] == [(4, True), (3, True), (3, False)]


def test_a_file_may_define_its_own_nested_classes(tmp_path):
    config = {"categories": [{"name": "plant", "subcategories": [{"name": "oak"}, {"name": "elm"}]}, {"name": "car"}]}
    frames = [{"name": "a.jpg", "labels": [box_label("car", 1, 1, 5, 5), box_label("pedestrian", 1, 1, 5, 5)]}]
    index = _read_frames(tmp_path, {"frames": frames, "config": config})
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
        _read_frames(tmp_path, text)
    assert "det_train.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_faulty_frame_is_named(tmp_path):
    with pytest.raises(DataError) as caught:
        _read_frames(tmp_path, {"frames": [{"name": "a.jpg"}, {"name": "b.jpg", "size": 4}]})
    assert "frames[1]" in str(caught.value)


def test_a_coco_file_says_so_and_a_coco_reader_says_the_reverse(tmp_path):
    path = make_bdd(tmp_path, [{"name": "a.jpg", "labels": []}])
    with pytest.raises(DataError, match="looks like Scalabel"):
        FORMATS["coco"].read(Source("x", "coco", tmp_path, path), "train")


def test_gzip_invalid_utf8_and_a_byte_order_mark(tmp_path):
    path = make_bdd(tmp_path, [{"name": "a.jpg"}])
    text = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + text)
    index = _read(tmp_path)
    assert "byte order mark" in index.notes
    (written,) = BDD.write_subset(index, [1], tmp_path / "out")
    assert written.read_bytes() == text
    path.write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(DataError, match="gzip"):
        _read(tmp_path)
    path.write_bytes(b'[{"name": "\xff"}]')
    with pytest.raises(DataError, match="UTF-8 at byte 11"):
        _read(tmp_path)


@pytest.mark.parametrize("name", ["../../x.jpg", "/etc/x", "C:\\x", "a\0b", "..\\x", ""])
def test_a_name_that_leads_out_of_the_set_is_refused(tmp_path, name):
    with pytest.raises(DataError) as caught:
        _read_frames(tmp_path, [{"name": "a.jpg"}, {"name": name}])
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
    index = _read_frames(tmp_path, frames)
    assert [dropped.cause for dropped in index.dropped] == causes
    assert all(".labels[1]" in dropped.where for dropped in index.dropped)
    categories = [thing.category_id for thing in index.records[0].instances]
    assert categories == ([5, 3, 3] if "run lengths" in causes[0] else [5, 3])
    with pytest.raises(DataError, match=causes[0]):
        _read(tmp_path, strict=True)


def test_run_lengths_as_counts_are_taken_when_they_fill_the_image(tmp_path):
    frames = [{"name": "a.jpg", "size": {"width": 4, "height": 3}, "labels": [{"category": "car"}]}]
    frames[0]["labels"][0]["rle"] = {"counts": [1, 2, 9], "size": [3, 4]}
    (record,) = _read_frames(tmp_path, frames).records
    assert record.instances[0].box_xyxy == (0.0, 1.0, 1.0, 3.0)
    assert object_mask(record).sum() == 2


def test_a_closed_curve_is_round(tmp_path):
    """A circle of four cubic Bezier arcs covers pi * r * r pixels, and its last arc ends in the first vertex."""
    k, r, c = 0.5522847498, 100.0, 300.0
    ring = [(c + r, c), (c + r, c + k * r), (c + k * r, c + r), (c, c + r), (c - k * r, c + r), (c - r, c + k * r)]
    ring += [(c - r, c), (c - r, c - k * r), (c - k * r, c - r), (c, c - r), (c + k * r, c - r), (c + r, c - k * r)]
    labels = [poly_label("car", ring, types="LCC" * 4)]
    (record,) = _read_frames(tmp_path, [{"name": "a.jpg", "labels": labels}]).records
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
            index = _read(tmp_path)
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
