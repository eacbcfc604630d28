"""make-labels as a job: right labels, the same bytes however built, never a half-written file (faults 48-56)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from sptcore.data.locate import open_index
from sptcore.data.padding import pad_index
from sptcore.data.rasterize import object_mask, object_pixels, touch_mask
from sptcore.data.records import DatasetIndex
from sptcore.errors import DataError, EnvironmentFault, IntegrityError, SptError, UsageError
from sptcore.labels.build import Shard, build_labels, staging, verify_labels
from sptcore.labels.pyramid import box_levels, levels
from sptcore.labels.store import Flag, LabelStore, merge_stores
from tests.support.label_stores import coco_set
from tests.support.listening import Listener
from tests.support.samples import samples_root


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(staging, "BLOCK", 8)


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> DatasetIndex:
    return open_index(coco_set(tmp_path_factory.mktemp("set"), 50), "train")


@pytest.fixture(scope="module")
def whole(index, tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "labels.h5"
    build_labels(index, path)
    return path.read_bytes()


def test_labels_follow_from_the_annotations(index, tmp_path):
    listener = Listener()
    report = build_labels(index, tmp_path / "labels.h5", progress=listener)
    store = LabelStore(tmp_path / "labels.h5")
    assert store.image_ids.tolist() == [record.image_id for record in index.records]
    for record in index.records:
        mask, image = touch_mask(record), store.image(record.image_id)
        np.testing.assert_array_equal(store.mask(record.image_id), mask)
        for stride, grid in levels(mask, (8, 16, 32)).items():
            np.testing.assert_array_equal(store.levels(record.image_id).grids[stride], grid)
        assert image.object_pixels == object_pixels(record) == int(object_mask(record).sum())
        assert (image.file_name, image.n_objects) == (record.file_name, len(record.instances))
        assert bool(image.flags & Flag.EMPTY) == (not mask.any())
        assert bool(image.flags & Flag.CROWD) == any(instance.is_crowd for instance in record.instances)
        boxes_only = all(instance.segmentation is None for instance in record.instances)
        assert bool(image.flags & Flag.BOX_ONLY) == (boxes_only and bool(record.instances))
    assert report.built
    assert (report.n_images, report.n_empty) == (50, sum(not r.instances for r in index.records))
    assert report.n_objects == sum(len(record.instances) for record in index.records)
    pixels = sum(record.width * record.height for record in index.records)
    assert report.object_ratio == pytest.approx(sum(map(object_pixels, index.records)) / pixels)
    cells = [store.levels(image_id).grids[16] for image_id in store.image_ids.tolist()]
    assert report.select_ratios[16] == pytest.approx(sum(c.sum() for c in cells) / sum(c.size for c in cells))
    assert listener.stages == {"label images": 50, "verify the label store": 50}
    assert verify_labels(tmp_path / "labels.h5", index) == 50
    assert [path.name for path in tmp_path.iterdir()] == ["labels.h5"]


def test_boxes_give_the_touch_levels_and_the_ratio_by_centres(index, tmp_path):
    build_labels(index, tmp_path / "labels.h5", source="boxes", strides=(4, 8))
    store = LabelStore(tmp_path / "labels.h5")
    smaller = 0
    for record in index.records:
        boxes = [instance.box_xyxy for instance in record.instances]
        analytic = box_levels(boxes, width=record.width, height=record.height, strides=(4, 8))
        for stride, grid in store.levels(record.image_id).grids.items():
            np.testing.assert_array_equal(grid, analytic[stride])
        image = store.image(record.image_id)
        assert image.object_pixels == object_pixels(record, ratio_from="boxes")
        assert bool(image.flags & Flag.BOX_ONLY) == bool(boxes)
        smaller += image.object_pixels < int(store.mask(record.image_id).sum())
    assert smaller > 5
    assert store.header.ratio_from == "boxes"


def test_masks_leave_out_objects_that_have_none(index, tmp_path):
    build_labels(index, tmp_path / "labels.h5", source="masks")
    store = LabelStore(tmp_path / "labels.h5")
    for record in index.records:
        np.testing.assert_array_equal(store.mask(record.image_id), object_mask(record, ratio_from="masks"))
        assert store.image(record.image_id).n_objects == sum(i.segmentation is not None for i in record.instances)


@pytest.mark.parametrize("source", ["image", "auto"])
def test_on_a_padded_canvas_the_label_is_where_the_image_lies(index, tmp_path, source):
    padded = pad_index(index, (2, 2))
    build_labels(padded, tmp_path / "labels.h5", source=source)
    store = LabelStore(tmp_path / "labels.h5")
    for record in index.records[:10]:
        image, mask = store.image(record.image_id), store.mask(record.image_id)
        assert (image.width, image.height) == (2 * record.width, 2 * record.height)
        assert mask[: record.height, : record.width].all()
        assert mask.sum() == image.object_pixels == record.width * record.height
    assert verify_labels(tmp_path / "labels.h5", padded, sample=7) == 7
    build_labels(padded, tmp_path / "boxes.h5", source="boxes")
    assert LabelStore(tmp_path / "boxes.h5").verify() == 50
    with pytest.raises(IntegrityError, match="another set of images"):
        verify_labels(tmp_path / "labels.h5", index)


def test_what_a_set_lacks_or_a_name_that_is_none(index, tmp_path):
    bare = msgspec.structs.replace(index, has_masks=False)
    with pytest.raises(DataError, match="no masks"):
        build_labels(bare, tmp_path / "labels.h5", source="masks")
    with pytest.raises(DataError, match="padded canvas"):
        build_labels(index, tmp_path / "labels.h5", source="image")
    with pytest.raises(ValueError, match="did you mean 'boxes'"):
        build_labels(index, tmp_path / "labels.h5", source="boxs")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="powers of two"):
        build_labels(index, tmp_path / "labels.h5", strides=(12,))
    assert list(tmp_path.iterdir()) == []


def test_no_images_at_all(tmp_path):
    index = open_index(coco_set(tmp_path / "set", 0), "train")
    report = build_labels(index, tmp_path / "labels.h5")
    assert (report.n_images, report.object_ratio, report.select_ratios[8]) == (0, 0.0, 0.0)
    assert verify_labels(tmp_path / "labels.h5", index) == 0


def test_what_the_reader_left_out_is_in_the_report_and_flagged(tmp_path):
    root = coco_set(tmp_path / "set", 6)
    path = root / "annotations" / "instances_train2017.json"
    path.write_bytes(path.read_bytes().replace(b'"annotations": [', b'"annotations": [' + NO_AREA + b", ", 1))
    index = open_index(root, "train")
    assert build_labels(index, tmp_path / "labels.h5").n_repaired == 1
    store = LabelStore(tmp_path / "labels.h5")
    (cause,) = store.report["dropped"]
    assert store.report["dropped"][cause]["count"] == 1
    assert "annotations[0]" in store.report["dropped"][cause]["first"][0]
    flagged = [image_id for image_id in store.image_ids.tolist() if store.image(image_id).flags & Flag.REPAIRED]
    assert flagged == [4]
    assert verify_labels(tmp_path / "labels.h5", index) == 6


NO_AREA = (
    b'{"id": 900, "image_id": 4, "category_id": 1, "bbox": [1, 1, 0, 5], "area": 0, "iscrowd": 0, "segmentation": []}'
)


# -- the same bytes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [2, 3])
def test_any_number_of_jobs(index, whole, tmp_path, jobs):
    listener = Listener()
    build_labels(index, tmp_path / "labels.h5", jobs=jobs, progress=listener)
    assert (tmp_path / "labels.h5").read_bytes() == whole
    assert listener.stages["label images"] == 50


@pytest.mark.parametrize("block", [1, 50, 4096])
def test_any_size_of_block(index, whole, tmp_path, monkeypatch, block):
    monkeypatch.setattr(staging, "BLOCK", block)
    build_labels(index, tmp_path / "labels.h5")
    assert (tmp_path / "labels.h5").read_bytes() == whole


@pytest.mark.parametrize("total", [1, 3, 17])
def test_shards_joined(index, whole, tmp_path, total):
    paths = [tmp_path / f"{number}.h5" for number in range(total)]
    for number, path in enumerate(paths):
        report = build_labels(index, path, shard=Shard(number + 1, total))
        assert report.part == f"{number + 1}/{total}"
    if total > 1:
        assert verify_labels(paths[0], index) == 50 // total
    merge_stores(paths, tmp_path / "merged.h5")
    assert (tmp_path / "merged.h5").read_bytes() == whole


# -- stopped and resumed --------------------------------------------------------------------------------------


class Stop(BaseException):
    """A signal, for the code that is stopped by it."""


def stop_at(step: int) -> Listener:
    def stop(steps: int) -> None:
        if steps == step:
            raise Stop

    return Listener(stop)


@pytest.mark.parametrize("step", [1, 8, 9, 25, 50])
def test_a_stopped_build_goes_on_to_the_same_bytes(index, whole, tmp_path, step):
    out, listener = tmp_path / "labels.h5", Listener()
    with pytest.raises(Stop):
        build_labels(index, out, progress=stop_at(step))
    assert not out.exists()
    blocks = list(tmp_path.glob(".labels.h5.spt-parts/block-*.h5"))
    assert len(blocks) == step // 8 + (step == 50)
    assert not list(tmp_path.glob(".spt-tmp-*"))
    build_labels(index, out, resume=True, progress=listener)
    assert out.read_bytes() == whole
    if blocks:
        assert f"resuming: {len(blocks)} of 7 blocks are there" in listener.notes
    assert listener.stages["label images"] == max(50 - 8 * len(blocks), 0)  # those were not done again
    assert [path.name for path in tmp_path.iterdir()] == ["labels.h5"]


def test_without_resume_it_starts_over(index, whole, tmp_path):
    out, listener = tmp_path / "labels.h5", Listener()
    with pytest.raises(Stop):
        build_labels(index, out, progress=stop_at(30))
    build_labels(index, out, progress=listener)
    assert out.read_bytes() == whole
    assert listener.notes == []


def test_a_damaged_block_is_built_again(index, whole, tmp_path):
    out, listener = tmp_path / "labels.h5", Listener()
    with pytest.raises(Stop):
        build_labels(index, out, progress=stop_at(30))
    block = next(tmp_path.glob(".labels.h5.spt-parts/block-00002*.h5"))
    data = bytearray(block.read_bytes())
    data[-100] ^= 4
    block.write_bytes(data)
    build_labels(index, out, resume=True, progress=listener)
    assert "resuming: 2 of 7 blocks are there" in listener.notes
    assert out.read_bytes() == whole


@pytest.mark.parametrize("change", ["source", "strides", "from", "shard"])
def test_another_source_or_other_settings_are_not_mixed_in(index, tmp_path, change):
    out = tmp_path / "labels.h5"
    with pytest.raises(Stop):
        build_labels(index, out, progress=stop_at(30))
    other = open_index(coco_set(tmp_path / "other", 50, seed=9), "train") if change == "source" else index
    settings = {"strides": {"strides": (4, 8)}, "from": {"source": "boxes"}, "shard": {"shard": Shard(1, 2)}}
    with pytest.raises(IntegrityError, match="cannot be resumed"):
        build_labels(other, out, resume=True, **settings.get(change, {}))
    assert not out.exists()


def test_resuming_what_is_complete_does_nothing(index, whole, tmp_path):
    out, listener = tmp_path / "labels.h5", Listener()
    build_labels(index, out)
    before = out.stat().st_mtime_ns
    report = build_labels(index, out, resume=True, progress=listener)
    assert not report.built
    assert (out.stat().st_mtime_ns, listener.steps) == (before, 0)
    other = open_index(coco_set(tmp_path / "other", 50, seed=9), "train")
    with pytest.raises(IntegrityError, match="another annotation file"):
        build_labels(other, out, resume=True)
    assert out.read_bytes() == whole


def test_a_full_disk_keeps_what_is_done(index, whole, tmp_path, monkeypatch):
    out, honest, calls = tmp_path / "labels.h5", os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentFault, match="No space left") as caught:
        build_labels(index, out)
    assert "free some space" in caught.value.hint
    assert not out.exists()
    monkeypatch.setattr(os, "fsync", honest)
    build_labels(index, out, resume=True)
    assert out.read_bytes() == whole


def test_faulty_data_leave_nothing_behind(tmp_path):
    from sptcore.data.records import MaskFile

    index = open_index(coco_set(tmp_path / "set", 20), "train")
    wrong = MaskFile(tmp_path / "no-such-mask.png", 1, "voc-object")
    records = list(index.records)
    thing = msgspec.structs.replace(next(r for r in records if r.instances).instances[0], segmentation=wrong)
    records[15] = msgspec.structs.replace(records[15], instances=(thing,))
    broken = msgspec.structs.replace(index, records=tuple(records))
    with pytest.raises(SptError, match=r"no-such-mask\.png"):
        build_labels(broken, tmp_path / "labels.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


# -- where it may not be written ------------------------------------------------------------------------------


def test_targets_that_cannot_be(index, whole, tmp_path):
    with pytest.raises(EnvironmentFault, match="folder does not exist") as caught:
        build_labels(index, tmp_path / "no" / "labels.h5")
    assert "mkdir -p" in caught.value.hint
    with pytest.raises(EnvironmentFault, match="is a folder"):
        build_labels(index, tmp_path)
    out = tmp_path / "labels.h5"
    out.write_bytes(b"precious")
    with pytest.raises(EnvironmentFault, match="exists already") as caught:
        build_labels(index, out)
    assert "--force" in caught.value.hint
    assert out.read_bytes() == b"precious"
    build_labels(index, out, force=True)
    assert out.read_bytes() == whole


def test_the_annotation_file_is_never_the_target(tmp_path):
    root = coco_set(tmp_path / "set", 3)
    index = open_index(root, "train")
    before = index.annotation_path.read_bytes()
    with pytest.raises(UsageError, match="annotation file itself"):
        build_labels(index, index.annotation_path, force=True)
    assert index.annotation_path.read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(index, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(EnvironmentFault, match="Permission denied"):
        build_labels(index, tmp_path / "labels.h5")


# -- real annotations -----------------------------------------------------------------------------------------


def test_real_coco_masks_against_pycocotools(tmp_path):
    from pycocotools.coco import COCO

    root = samples_root("coco")
    index = open_index(root, "val")
    build_labels(index, tmp_path / "labels.h5", strides=(4, 8, 16, 32))
    store, coco = LabelStore(tmp_path / "labels.h5"), COCO(str(index.annotation_path))
    for image_id in store.image_ids.tolist():
        image = coco.imgs[image_id]
        union = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in coco.imgToAnns[image_id]:
            union |= coco.annToMask(annotation)
        np.testing.assert_array_equal(store.mask(image_id), union)
        assert store.image(image_id).object_pixels == int(union.sum())
        for stride, grid in store.levels(image_id).grids.items():
            rows, columns = grid.shape
            padded = np.zeros((rows * stride, columns * stride), bool)
            padded[: union.shape[0], : union.shape[1]] = union
            np.testing.assert_array_equal(grid, padded.reshape(rows, stride, columns, stride).any(axis=(1, 3)))


@pytest.mark.parametrize(("name", "split"), [("pv-thermal", "val"), ("voc", "val")])
def test_real_boxes_and_mask_pictures(tmp_path, name, split):
    index = open_index(samples_root(name), split)
    report = build_labels(index, tmp_path / "labels.h5")
    assert report.n_images == len(index.records) > 0
    assert verify_labels(tmp_path / "labels.h5", index) == report.n_images
    assert 0 < report.object_ratio < report.select_ratios[8] < report.select_ratios[32] < 1
    assert Path(tmp_path / "labels.h5").stat().st_size == report.n_bytes
