"""From settings to parts: classes, masks, strides."""

from __future__ import annotations

from pathlib import Path

import pytest

from sptcore.errors import DataError
from sptcore.models.variants import backbone_config
from sptcore.progress import Silent
from sptcore.training.prepare import label_strides, prepare
from tests.support.miniatures import coco_document, mini_coco
from tests.support.samples import samples_root
from tests.support.training import tiny_config


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
