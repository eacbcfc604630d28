"""Labels are found where they belong, built where they are missing, and never taken from another data set."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import msgspec
import pytest

from sptcore.data.locate import MANIFEST, MANIFEST_SCHEMA, locate, open_index
from sptcore.data.records import DatasetIndex
from sptcore.errors import DataError, EnvironmentFault, IntegrityError
from sptcore.labels.build import LabelPlan, Recipe, build_labels, ensure_labels, label_path, make_labels, staging
from sptcore.labels.store import LabelStore
from tests.support.label_stores import coco_set
from tests.support.listening import Listener
from tests.support.samples import samples_root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path) -> DatasetIndex:
    return open_index(coco_set(tmp_path / "set", 20), "train")


def sparse_set(folder: Path) -> DatasetIndex:
    """A set with the manifest that make-sparse writes."""
    index = open_index(coco_set(folder, 20), "train")
    manifest = {"schema": MANIFEST_SCHEMA, "format": "coco", "splits": {"train": {}}, "origin": {}}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return index


def test_built_once_in_the_cache(index, cache):
    first, second = Listener(), Listener()
    path = ensure_labels(index, progress=first)
    assert path.parent == cache / "labels"
    assert path.name.startswith("coco-train-")
    assert first.notes == [f"building the selection labels of 20 images into {path}"]
    assert first.stages["label images"] == 20
    made = path.stat().st_mtime_ns
    assert ensure_labels(index, progress=second) == path
    assert (second.notes, second.stages, path.stat().st_mtime_ns) == ([], {}, made)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_beside_the_annotations_of_a_set_that_spt_wrote(tmp_path, cache):
    index = sparse_set(tmp_path / "coco-s20")
    assert ensure_labels(index) == tmp_path / "coco-s20" / "labels-train.h5"
    assert ensure_labels(index, source="boxes") == tmp_path / "coco-s20" / "labels-train-boxes.h5"
    assert not (cache / "labels").exists()


def test_a_padded_set_has_the_images_place_as_its_label(tmp_path, cache):
    """Tiny ImageNet: the annotation path is the folder itself."""
    from sptcore.data.locate import locate, read_split
    from sptcore.labels.build import LabelPlan, make_labels

    root = samples_root("tiny-imagenet-200")
    for name in ("wnids.txt", "val"):
        (tmp_path / "ins" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "ins" / name).symlink_to(root / name)
    manifest = {"schema": MANIFEST_SCHEMA, "format": "tiny-imagenet", "splits": {"val": {}}, "origin": {}, "pad": "2x2"}
    (tmp_path / "ins" / MANIFEST).write_text(json.dumps(manifest))
    source = locate(tmp_path / "ins")
    index = read_split(source, "val")
    assert ensure_labels(index) == tmp_path / "ins" / "labels-val-image.h5"
    report = make_labels(source, LabelPlan())["val"]
    assert (report.path, report.built) == (tmp_path / "ins" / "labels-val-image.h5", False)
    assert (report.object_ratio, set(report.select_ratios.values())) == (0.25, {0.25})
    assert LabelStore(report.path).image(index.records[0].image_id).width == 128


def test_a_set_that_may_not_be_written_to_has_its_labels_in_the_cache(tmp_path, cache, monkeypatch):
    import os

    index = sparse_set(tmp_path / "coco-s20")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "coco-s20")
    assert label_path(index, Recipe()).parent == cache / "labels"


def test_every_source_recipe_and_split_has_its_own_place(index, tmp_path):
    other = open_index(coco_set(tmp_path / "other", 20, seed=1), "train")
    resized = msgspec.structs.replace(index.records[0], width=999)
    variants = [
        (index, Recipe()),
        (other, Recipe()),
        (index, Recipe(strides=(4, 8))),
        (index, Recipe(source="boxes")),
        (msgspec.structs.replace(index, split="val"), Recipe()),
        (msgspec.structs.replace(index, records=(resized, *index.records[1:])), Recipe()),
    ]
    assert len({label_path(*variant) for variant in variants}) == len(variants)
    assert label_path(index, Recipe()) == label_path(index, Recipe())


def test_a_damaged_store_in_the_cache_is_built_again(index):
    path = ensure_labels(index)
    good = path.read_bytes()
    path.write_bytes(good[:-1000])
    listener = Listener()
    assert ensure_labels(index, progress=listener) == path
    assert path.read_bytes() == good
    assert "built again" in listener.warnings[0]


def test_a_store_of_other_annotations_beside_the_set_is_refused(tmp_path):
    index = sparse_set(tmp_path / "coco-s20")
    other = open_index(coco_set(tmp_path / "other", 20, seed=1), "train")
    build_labels(other, tmp_path / "coco-s20" / "labels-train.h5")
    before = (tmp_path / "coco-s20" / "labels-train.h5").read_bytes()
    with pytest.raises(IntegrityError, match="another annotation file"):
        ensure_labels(index)
    assert (tmp_path / "coco-s20" / "labels-train.h5").read_bytes() == before


def test_a_file_that_is_named(index, tmp_path, cache):
    build_labels(index, tmp_path / "mine.h5", strides=(16,))
    assert ensure_labels(index, labels=tmp_path / "mine.h5") == tmp_path / "mine.h5"
    assert ensure_labels(index, labels=str(tmp_path / "mine.h5")) == tmp_path / "mine.h5"
    with pytest.raises(DataError, match="no label store"):
        ensure_labels(index, labels=tmp_path / "none.h5")
    other = open_index(coco_set(tmp_path / "other", 20, seed=1), "train")
    with pytest.raises(IntegrityError, match="another annotation file"):
        ensure_labels(other, labels=tmp_path / "mine.h5")
    assert not (cache / "labels").exists()


def test_a_build_that_was_killed_is_taken_up(index, monkeypatch):
    monkeypatch.setattr(staging, "BLOCK", 4)
    path = label_path(index, Recipe())

    class Stop(BaseException):
        pass

    def stop(steps: int) -> None:
        if steps == 10:
            raise Stop

    with pytest.raises(Stop):
        ensure_labels(index, jobs=1, progress=Listener(stop))
    listener = Listener()
    assert ensure_labels(index, jobs=1, progress=listener) == path
    assert "resuming: 2 of 5 blocks are there" in listener.notes
    assert listener.stages["label images"] == 12


def _ask(index: DatasetIndex, connection) -> None:
    listener = Listener()
    path = ensure_labels(index, jobs=1, progress=listener)
    connection.send((path, LabelStore(path).verify(), any("building" in note for note in listener.notes)))


def test_trainers_that_ask_at_once_build_one_store(index):
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(3)]
    askers = [context.Process(target=_ask, args=(index, sender)) for _, sender in pipes]
    for asker in askers:
        asker.start()
    answers = [receiver.recv() for receiver, _ in pipes]
    for asker in askers:
        asker.join()
    assert {(path, count) for path, count, _ in answers} == {(label_path(index, Recipe()), 20)}
    assert sum(built for _, _, built in answers) == 1


def test_a_cache_that_cannot_be_written(index, monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SPT_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(EnvironmentFault, match="cannot write"):
        ensure_labels(index)
    source = locate(index.annotation_path.parents[1])
    with pytest.raises(EnvironmentFault, match="cannot write") as caught:
        make_labels(source, LabelPlan(splits=("train",)))
    assert "SPT_CACHE" in (caught.value.hint or "")
