"""The sample set in the layouts of BDD100K, VOC and Tiny ImageNet: the same scenes, read by the real readers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from sptcore.data import FORMATS, sample
from sptcore.data.format import Source
from sptcore.data.images import read_image
from sptcore.data.rasterize import instance_mask, object_mask
from sptcore.data.records import DatasetIndex
from sptcore.data.sample.tiny_layout import portraits

LABELS_SHA256 = {
    "bdd": "25da16bff8f43ab0885e7902b724f4e5b31585e169ef2a57e27a4a7e26e45e6f",
    "voc": "77eb9d827e57df6d38bbd477c50d4801a2b319846a2568321686d5766b93b7fe",
    "tiny-imagenet": "82bb97336c7f02146987e6f85f85caf3efe8eca1f5decfcbf4f600bd7e9c5ae1",
}
OUTLINES = "labels/ins_seg/polygons/ins_seg_{split}.json"
BITMASKS = "labels/ins_seg/bitmasks/{split}"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sample")
    for layout in ("bdd", "voc", "tiny-imagenet"):
        sample.write_sample(out, layout)
    return out


def _read(root: Path, layout: str, split: str, annotation: str | None = None) -> DatasetIndex:
    folder = root / sample.FOLDERS[layout]
    assert FORMATS[layout].detect(folder)
    assert FORMATS[layout].splits(folder) == ["train", "val"]
    given = folder / annotation.format(split=split) if annotation else None
    return FORMATS[layout].read(Source("sample", layout, folder, given), split)


@pytest.mark.parametrize("layout", ["bdd", "voc", "tiny-imagenet"])
def test_labels_are_the_same_on_every_machine(root, layout):
    folder, digest = root / sample.FOLDERS[layout], hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".xml", ".txt"):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    assert digest.hexdigest() == LABELS_SHA256[layout]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(("layout", "annotation"), [("bdd", None), ("bdd", OUTLINES), ("bdd", BITMASKS), ("voc", None)])
def test_every_layout_holds_the_scenes_that_were_drawn(root, scenes, layout, annotation, split):
    index = _read(root, layout, split, annotation)
    names = {category.category_id: category.name for category in index.categories}
    assert len(index.records) == len(scenes[split])
    assert not index.dropped
    for record, scene in zip(index.records, scenes[split], strict=True):
        assert (record.width, record.height) == (128, 128)
        assert [thing.box_xyxy for thing in record.instances] == [thing.box_xyxy for thing in scene.objects]
        if annotation != BITMASKS:
            assert [names[thing.category_id] for thing in record.instances] == [t.category for t in scene.objects]
        crowds = [thing.is_difficult if layout == "voc" else thing.is_crowd for thing in record.instances]
        assert crowds == [thing.is_crowd for thing in scene.objects]
        if index.has_masks:
            union = np.any([thing.mask for thing in scene.objects], axis=0) if scene.objects else np.zeros((128, 128))
            assert np.array_equal(object_mask(record), union)


@pytest.mark.parametrize(("layout", "annotation"), [("bdd", OUTLINES), ("bdd", BITMASKS), ("voc", None)])
def test_every_object_has_its_own_mask(root, scenes, layout, annotation):
    for record, scene in zip(_read(root, layout, "val", annotation).records, scenes["val"], strict=True):
        for instance, thing in zip(record.instances, scene.objects, strict=True):
            assert np.array_equal(instance_mask(instance, 128, 128), thing.mask)


@pytest.mark.parametrize(("layout", "annotation"), [("bdd", None), ("bdd", OUTLINES), ("voc", None)])
def test_pictures_are_the_scenes_up_to_jpeg(root, scenes, layout, annotation):
    index = _read(root, layout, "val", annotation)
    for record, scene in zip(index.records, scenes["val"], strict=True):
        pixels = read_image(index.image_path(record), size=(128, 128))
        assert np.abs(pixels.astype(int) - scene.image).mean() < 4


def test_voc_lists_and_class_masks_agree_with_the_objects(root, scenes):
    devkit = root / "VOCdevkit" / "VOC2012" / "ImageSets"
    for split in ("train", "val"):
        lines = (devkit / "Main" / f"star_{split}.txt").read_text().splitlines()
        present = [int(line.split()[1]) for line in lines]
        stars = [[t.is_crowd for t in scene.objects if t.category == "star"] for scene in scenes[split]]
        assert present == [(-1 if not star else 0 if all(star) else 1) for star in stars]
        segmented = (devkit / "Segmentation" / f"{split}.txt").read_text().split()
        assert len(segmented) == sum(bool(scene.objects) for scene in scenes[split])
    assert len((devkit / "Main" / "trainval.txt").read_text().split()) == sum(sample.SPLITS.values())


def test_torchvision_reads_the_voc_layout(root):
    datasets = pytest.importorskip("torchvision.datasets")
    detection = datasets.VOCDetection(str(root), year="2012", image_set="val")
    assert len(detection) == 48
    image, target = next(item for item in detection if item[1]["annotation"]["object"])
    assert image.size == (128, 128)
    assert target["annotation"]["object"][0]["name"] in sample.CLASSES
    assert len(datasets.VOCSegmentation(str(root), year="2012", image_set="train")) > 200


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_classification_set_has_one_whole_thing_a_picture(root, split):
    index = _read(root, "tiny-imagenet", split)
    assert [category.name for category in index.categories] == list(sample.CLASSES)
    drawn = {(c, number): scene for c, number, scene in portraits(sample.SAMPLE_VERSION, split)}
    assert len(index.records) == len(drawn) == {"train": 240, "val": 50}[split]
    counts = [0] * len(sample.CLASSES)
    grey = 0
    for record in index.records:
        assert record.class_id is not None
        scene = drawn[record.class_id, counts[record.class_id]]
        counts[record.class_id] += 1
        assert record.instances[0].box_xyxy == scene.objects[0].box_xyxy
        assert scene.objects[0].area > 60
        pixels = read_image(index.image_path(record), size=(64, 64)).astype(int)
        if (pixels[..., 0] == pixels[..., 1]).all():
            grey += 1
        else:
            assert np.abs(pixels - scene.image).mean() < 4
    assert grey == {"train": 6, "val": 1}[split]
    assert len(set(counts)) == 1
