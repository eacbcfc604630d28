"""The sets of a plan: BDD100K's 10K images with outlines where they are there, the detection set elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sptcore.data.locate import locate, open_index
from sptcore.plans.estimate import stand_in_spec
from sptcore.plans.schema import SetPlan, load_plan
from sptcore.plans.sets import ReadySet, count_images, find_sets, ready_set
from sptcore.plans.table import tabulate
from sptcore.training.config import make_config

WISHED = SetPlan(title="BDD100K", source="bdd", task="detect", labels="ins_seg")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a set of BDD100K that has boxes of the 100k and outlines of the 10k images."""
    home = tmp_path_factory.mktemp("root")
    shutil.copytree(locate("sample", format="bdd").root, home / "bdd")
    return home


def ready(root: Path, folder: Path, plan: SetPlan, limit: int | None = None) -> ReadySet:
    found, missing = find_sets({"bdd": plan}, data_root=root, scale="paper")
    assert not missing
    return ready_set(found["bdd"], folder, limit=limit)


@pytest.mark.parametrize(("limit", "ratio"), [(None, None), (6, None), (None, "0.25")])
def test_outlines_of_the_10k_images_are_taken_where_they_are(
    limit: int | None, ratio: str | None, root: Path, tmp_path: Path
) -> None:
    one = ready(root, tmp_path, WISHED.model_copy(update={"max_ratio": ratio}), limit)
    config = make_config(one.place)
    index = open_index(config.data, config.val_split, ann=config.val_ann, format=config.format)
    assert one.kind == "ins_seg"
    assert index.has_masks
    assert index.image_root == root / "bdd" / "images" / "10k" / "val"
    assert len(index.records) == one.images["val"]
    assert open_index(config.data, "train", ann=config.ann, format=config.format).has_masks


@pytest.mark.parametrize("lacking", ["images/10k/val", "labels/ins_seg"])
def test_without_them_the_detection_set_is_taken(lacking: str, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "root")
    shutil.rmtree(tmp_path / "root" / "bdd" / lacking)
    one = ready(tmp_path / "root", tmp_path, WISHED)
    assert (one.kind, one.annotations) == (None, {})
    index = open_index(one.place["data"], "val", format="bdd")
    assert (index.has_masks, index.image_root.parent.name) == (False, "100k")


def test_a_plan_without_the_wish_takes_what_the_reader_finds(root: Path, tmp_path: Path) -> None:
    assert ready(root, tmp_path, WISHED.model_copy(update={"labels": None})).kind is None


def test_the_estimate_counts_their_images_classes_and_mask_head(root: Path) -> None:
    found, _ = find_sets({"bdd": WISHED}, data_root=root, scale="paper")
    assert count_images(found["bdd"], limit=None) == len(open_index(root / "bdd", "train").records)
    config = load_plan("table1").config(load_plan("table1").rows[0], "paper")
    boxes, outlines = (stand_in_spec(config, WISHED, kind) for kind in (None, "ins_seg"))
    assert (len(boxes.categories), boxes.masks) == (10, False)
    assert (len(outlines.categories), outlines.masks) == (8, True)


def test_the_table_says_which_labels_were_learned() -> None:
    plan = load_plan("table1")
    told = {}
    for kind in (None, "ins_seg"):
        prints = {"origin": "data", "split": "train", "images": {"train": 7000, "val": 1000}, "kind": kind}
        told[kind] = " ".join(tabulate(plan, "paper", {}, {"bdd": prints}).differs)
    assert "boxes of the detection set, no masks" in told[None]
    assert "labels ins_seg of the 10K images" in told["ins_seg"]
