from __future__ import annotations

import numpy as np

from sptcore.tasks.coco_metrics import encode_mask
from sptcore.viz.results import colour_of, draw_results


def changed(results: list[dict], **more: str) -> np.ndarray:
    """Where the picture of a black 512 x 512 image differs from that without results."""
    image = np.zeros((512, 512, 3), np.uint8)
    return np.asarray(draw_results(image, results, {1: "ring"}, **more)).any(-1)


def test_a_box_is_drawn_where_it_is() -> None:
    drawn = changed([{"category_id": 1, "score": 0.5, "bbox": [100, 200, 150, 60]}])
    assert drawn[200, 100:250].all()
    assert drawn[200:260, 100].all()
    assert not drawn[:150].any()
    assert not drawn[220:240, 120:230].any()  # inside nothing is painted


def test_a_mask_is_tinted_in_the_colour_of_its_class() -> None:
    mask = np.zeros((512, 512), np.uint8)
    mask[300:340, 300:340] = 1
    result = {"category_id": 1, "score": 0.5, "bbox": [290, 290, 60, 60], "segmentation": encode_mask(mask)}
    image = np.full((512, 512, 3), 100, np.uint8)
    picture = np.asarray(draw_results(image, [result], {}))
    tint = np.array([int(colour_of(1)[first : first + 2], 16) for first in (1, 3, 5)])
    assert np.allclose(picture[320, 320], 0.55 * 100 + 0.45 * tint, atol=1)
    assert (picture[345, 320] == 100).all()


def test_classes_without_boxes_are_listed_in_the_corner() -> None:
    drawn = changed([{"category_id": 1, "score": 0.9}, {"category_id": 2, "score": 0.4}])
    assert drawn[:30, :60].any()
    assert not drawn[100:, :].any()
    assert drawn.sum() > changed([{"category_id": 1, "score": 0.9}]).sum()


def test_a_badge_marks_the_picture() -> None:
    assert not changed([]).any()
    assert changed([], badge="demo weights")[-40:, :120].any()
