"""What is to be learned of an image: its classes under crops, difficult objects, its one class."""

from __future__ import annotations

import pytest

from sptcore.data.records import ImageRecord, Instance
from sptcore.labels.geometry import Geometry, whole_image
from sptcore.tasks import TASKS
from sptcore.training.targets import TARGETS, ClassTargets, LabelTargets

CLASS_OF = {10: 0, 20: 1, 30: 2}


def image(*objects: tuple[int, tuple[float, float, float, float], bool], class_id: int | None = None) -> ImageRecord:
    shown = tuple(Instance(n, category, box, is_difficult=hard) for n, (category, box, hard) in enumerate(objects))
    return ImageRecord(1, "a.png", 100, 80, shown, class_id)


LEFT, RIGHT = (5.0, 5.0, 20.0, 20.0), (70.0, 10.0, 95.0, 60.0)
WHOLE = whole_image(100, 80, (100, 80))
RIGHT_HALF = Geometry((100, 80), False, (50, 0, 100, 80), (64, 64))


def test_every_task_has_a_rule() -> None:
    assert TARGETS.keys() == TASKS.keys()


def test_classes_shown_absent_and_difficult() -> None:
    rule = LabelTargets(CLASS_OF)
    target = rule(image((10, LEFT, False), (30, RIGHT, True)), WHOLE)
    assert target["present"].tolist() == [1, 0, 0]
    assert target["counted"].tolist() == [True, True, False]
    both = rule(image((30, LEFT, False), (30, RIGHT, True), (99, LEFT, False)), WHOLE)
    assert both["present"].tolist() == [0, 0, 1]
    assert both["counted"].all()
    none = rule(image(), WHOLE)
    assert not none["present"].any()
    assert none["counted"].all()


@pytest.mark.parametrize("flip", [False, True])
def test_what_a_crop_leaves_out_is_not_shown(flip: bool) -> None:
    geometry = Geometry((100, 80), True, (0, 0, 50, 80), (64, 64)) if flip else RIGHT_HALF
    target = LabelTargets(CLASS_OF)(image((10, LEFT, False), (20, RIGHT, False), (30, LEFT, True)), geometry)
    assert target["present"].tolist() == [0, 1, 0]
    assert target["counted"].all()  # the difficult object is out of sight as well
    only_difficult = LabelTargets(CLASS_OF)(image((20, LEFT, False), (20, RIGHT, True)), geometry)
    assert only_difficult["counted"].tolist() == [True, False, True]


def test_one_class_and_where_the_image_lies() -> None:
    target = ClassTargets(CLASS_OF)(image(class_id=20), RIGHT_HALF)
    assert target["classes"].tolist() == [0, 1, 0]
    assert target["extent"].tolist() == [64, 64]
    on_canvas = whole_image(100, 80, (200, 160), (2, 2))
    assert ClassTargets(CLASS_OF)(image(class_id=10), on_canvas)["extent"].tolist() == [80, 100]
    with pytest.raises(ValueError, match="has no class"):
        ClassTargets(CLASS_OF)(image(), WHOLE)
