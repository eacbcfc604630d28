"""The built-in sample set: the same everywhere, exact, and as varied as its description says."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from sptcore.data import sample
from sptcore.data.sample.draws import Draws
from sptcore.errors import EnvironmentFault

PIXELS_SHA256 = {
    "train": "2afc40bb04bf37d32edd348a01b4282c251d6f6626bbfdb18c5ffddb684a7892",
    "val": "48f96bf252b5572d38fd474e4ba8db2c75a8c74547bd02b4b0be1506ed500778",
}
JSON_SHA256 = {
    "train": "e4282294dd1e2e6aae0a019d905e169e1b75f338a15bceb073f2554a482a622b",
    "val": "15bd33377b35b942e55e432a7d3b7783f124b2f98c074257745329166bb1ca97",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sample")
    sample.write_sample(out)
    return out


def _coco(root: Path, split: str) -> COCO:
    return COCO(str(root / "coco" / "annotations" / f"instances_{split}2017.json"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_pixels_and_annotations_are_the_same_on_every_machine(root, split):
    pixels = hashlib.sha256()
    paths = sorted((root / "coco" / f"{split}2017").iterdir())
    for path in paths:
        with Image.open(path) as image:
            assert image.mode == "RGB"
            assert image.size == (128, 128)
            pixels.update(np.asarray(image).tobytes())
    annotation = (root / "coco" / "annotations" / f"instances_{split}2017.json").read_bytes()
    assert len(paths) == sample.SPLITS[split]
    assert pixels.hexdigest() == PIXELS_SHA256[split]
    assert hashlib.sha256(annotation).hexdigest() == JSON_SHA256[split]


@pytest.mark.parametrize("split", ["train", "val"])
def test_pycocotools_reads_exactly_the_masks_that_were_drawn(root, scenes, split):
    coco = _coco(root, split)
    image_ids = coco.getImgIds()
    assert image_ids == list(range(sample.FIRST_IMAGE_ID[split], sample.FIRST_IMAGE_ID[split] + len(image_ids)))
    for image_id, scene in zip(image_ids, scenes[split], strict=True):
        annotations = coco.imgToAnns[image_id]
        assert len(annotations) == len(scene.objects)
        for annotation, thing in zip(annotations, scene.objects, strict=True):
            assert np.array_equal(coco.annToMask(annotation), thing.mask)
            assert annotation["area"] == thing.mask.sum() == coco_mask.area(coco.annToRLE(annotation))
            assert annotation["bbox"] == coco_mask.toBbox(coco.annToRLE(annotation)).tolist()
            assert isinstance(annotation["segmentation"], dict) == bool(annotation["iscrowd"])


def test_objects_do_not_share_pixels_and_all_are_seen(scenes):
    for scene in scenes["train"] + scenes["val"]:
        union = sum(thing.mask.astype(int) for thing in scene.objects)
        assert np.max(union, initial=0) <= 1
        assert all(thing.area >= 20 for thing in scene.objects)


def test_the_set_is_as_varied_as_described(scenes):
    ratios = np.array([scene.object_ratio for scene in scenes["train"]])
    assert 0.06 < ratios.mean() < 0.09
    assert ratios.min() == 0
    assert 0.4 < ratios.max() < 0.65
    assert (ratios < 0.2).mean() > 0.8
    for split in ("train", "val"):
        things = [thing for scene in scenes[split] for thing in scene.objects]
        assert {thing.category for thing in things} == set(sample.CLASSES)
        assert sum(thing.is_crowd for thing in things) >= 2
        assert sum(not scene.objects for scene in scenes[split]) >= 1
    sides = [max(x2 - x1, y2 - y1) for x1, y1, x2, y2 in (thing.box_xyxy for thing in things if not thing.is_crowd)]
    assert np.mean([10 <= side <= 40 for side in sides]) > 0.75


def test_validation_pictures_are_not_training_pictures(scenes):
    training = {scene.image.tobytes() for scene in scenes["train"]}
    assert len(training) == sample.SPLITS["train"]
    assert not training & {scene.image.tobytes() for scene in scenes["val"]}


def test_an_object_changes_the_pixels_inside_its_mask_only(scenes):
    """Control for the masks: what lies outside every mask, edge and shadow is plain backdrop, muted in colour."""
    inside, outside = [], []
    for scene in scenes["val"]:
        spread = scene.image.max(axis=2).astype(int) - scene.image.min(axis=2)
        union = np.any([thing.mask for thing in scene.objects], axis=0) if scene.objects else np.zeros((128, 128), bool)
        inside.append(spread[union])
        outside.append(spread[~union])
    assert np.median(np.concatenate(inside)) > 2 * np.median(np.concatenate(outside))


def test_the_cache_is_used_and_versioned(tmp_path, monkeypatch):
    monkeypatch.setenv("SPT_CACHE", str(tmp_path / "cache"))
    first = sample.sample_root("tiny-imagenet")
    assert first == tmp_path / "cache" / f"sample-v{sample.SAMPLE_VERSION}"
    lines = first / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    stamp = lines.stat().st_mtime_ns
    assert sample.sample_root("tiny-imagenet") == first
    assert lines.stat().st_mtime_ns == stamp
    assert [entry.name for entry in first.iterdir()] == ["tiny-imagenet-200"]


def _ask_for_sample(cache: str, answers) -> None:
    os.environ["SPT_CACHE"] = cache
    answers.put(str(sample.sample_root("tiny-imagenet")))


def test_two_processes_at_once_get_the_same_whole_set(tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    askers = [context.Process(target=_ask_for_sample, args=(str(tmp_path), answers)) for _ in range(2)]
    for asker in askers:
        asker.start()
    found = {answers.get(timeout=300) for _ in askers}
    for asker in askers:
        asker.join(timeout=300)
        assert asker.exitcode == 0
    (root,) = map(Path, found)
    assert [entry.name for entry in root.iterdir()] == ["tiny-imagenet-200"]
    assert len(list(root.rglob("*.JPEG"))) == 290


def test_a_cache_that_cannot_be_written_is_an_error_that_names_it(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(EnvironmentFault, match="cannot write"):
        sample.sample_root()


def test_an_existing_folder_is_never_overwritten(root):
    with pytest.raises(EnvironmentFault, match="exists already"):
        sample.write_sample(root)


def test_an_unknown_layout_is_named(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'coco'"):
        sample.write_sample(tmp_path, layout="cocoa")
    assert not list(tmp_path.iterdir())


def test_draws_are_splitmix64():
    """The published first outputs for seed 1234567, as in the reference implementation."""
    draws = Draws()
    draws._state = 1234567
    assert [draws._next() for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_a_field_continues_the_stream_within_bounds():
    field = Draws(3).field((100, 100), 7)
    assert field.min() == 0
    assert field.max() == 6
    assert np.array_equal(field, Draws(3).field((100, 100), 7))
    assert not np.array_equal(field, Draws(4).field((100, 100), 7))
    counts = np.bincount(field.ravel(), minlength=7)
    assert counts.min() > 10000 / 7 * 0.85


def test_drawing_needs_no_torch(tmp_path):
    code = "import sys, sptcore.data.sample as s; s.sample_scenes('val'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
