"""From settings to parts: classes, masks, strides."""

from __future__ import annotations

from pathlib import Path

import pytest

from sptcore.data.locate import open_index
from sptcore.errors import DataError, UsageError
from sptcore.labels.build import build_labels
from sptcore.models.variants import backbone_config
from sptcore.progress import Silent
from sptcore.runs import new_run
from sptcore.training.loop import check_resumable
from sptcore.training.prepare import label_strides, prepare
from tests.support.miniatures import coco_document, mini_coco
from tests.support.samples import samples_root
from tests.support.training import mini_data, tiny_config


class Listener(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


def test_masks_are_learned_where_the_data_has_them(tmp_path: Path) -> None:
    listener = Listener()
    prepared = prepare(tiny_config(mini_coco(tmp_path / "set")), listener)
    assert prepared.spec.masks
    assert prepared.spec.categories == ((0, "cup"), (3, "café ☕"))
    assert any("Mask R-CNN" in line for line in listener.lines)
    assert prepared.train.strides == (8, 16, 32)


def test_boxes_only_is_faster_rcnn_and_is_said() -> None:
    listener = Listener()
    prepared = prepare(tiny_config(samples_root("pv-thermal")), listener)
    assert not prepared.spec.masks
    assert [category_id for category_id, _ in prepared.spec.categories] == [0, 1, 2]
    assert any("Faster R-CNN" in line for line in listener.lines)


def test_nothing_to_learn_is_an_error(tmp_path: Path) -> None:
    document = coco_document()
    document["annotations"] = []
    with pytest.raises(DataError, match="no image with an object"):
        prepare(tiny_config(mini_coco(tmp_path / "set", document)))


@pytest.mark.parametrize(
    ("blocks", "strides"), [(0, ()), (2, (16, 32)), (4, (8, 16, 32)), (6, (4, 8, 16, 32)), (8, (4, 8, 16, 32))]
)
def test_labels_are_looked_up_where_scores_are_supervised(blocks: int, strides: tuple[int, ...]) -> None:
    assert label_strides(backbone_config("spt-nano", num_spa_blocks=blocks)) == strides


def test_another_annotation_file_is_for_the_training_alone(tmp_path: Path) -> None:
    """Validating on what was trained on would tell nothing, and nobody would notice."""
    root, other = mini_data(tmp_path / "set"), mini_data(tmp_path / "other")
    own, theirs = (one / "annotations" / "instances_val2017.json" for one in (root, other))
    trained = root / "annotations" / "instances_train2017.json"
    for changes, expected in (({}, own), ({"val_data": str(other)}, theirs), ({"val_ann": str(theirs)}, theirs)):
        prepared = prepare(tiny_config(root, ann=str(trained), **changes))
        assert prepared.val_index.annotation_path == expected
    own.unlink()
    with pytest.raises(DataError, match="nothing to validate on") as caught:
        prepare(tiny_config(root, ann=str(trained)))
    assert "val_ann" in str(caught.value.hint)


def test_a_resumed_run_keeps_its_labels_wherever_their_file_lies(tmp_path: Path) -> None:
    """Labels of another kind change what is learned; the same ones under another name do not."""
    root = mini_data(tmp_path / "set")
    index = open_index(root, "train")
    ours, moved, other = (tmp_path / name for name in ("ours.h5", "moved.h5", "boxes.h5"))
    build_labels(index, ours)
    build_labels(index, moved)
    build_labels(index, other, source="boxes")

    def resumes(was: str, now: str) -> bool:
        run = new_run("train", "tiny", folder=tmp_path / f"{Path(was).stem}-{Path(now).stem}")
        (run.home / "config.toml").write_text(tiny_config(root, labels=was).to_toml(), encoding="utf-8")
        try:
            check_resumable(tiny_config(root, labels=now), run)
        except UsageError as error:
            return "labels was" not in str(error)
        return True

    assert resumes("auto", "auto")
    assert not resumes("boxes", "masks")
    assert not resumes("auto", str(ours))
    assert resumes(str(ours), str(moved))
    assert not resumes(str(ours), str(other))
    assert resumes(str(tmp_path / "gone.h5"), str(other))
