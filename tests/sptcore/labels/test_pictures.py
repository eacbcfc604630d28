"""Pictures of labels: the cells that are tinted are those of the grids, and nobody's else."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from sptcore.data.locate import open_index
from sptcore.data.rasterize import touch_mask
from sptcore.labels.pictures import label_pictures, tinted
from sptcore.labels.pyramid import levels
from tests.support.miniatures import mini_coco


def test_only_pixels_of_labelled_cells_change() -> None:
    image = np.full((21, 35, 3), 200, np.uint8)
    grid = np.zeros((3, 5), bool)
    grid[2, 4] = grid[0, 1] = True
    changed = (tinted(image, grid, 8) != image).any(axis=2)
    expected = np.zeros((21, 35), bool)
    expected[16:, 32:] = expected[:8, 8:16] = True
    assert np.array_equal(changed, expected)


def test_images_with_objects_and_their_ratios(tmp_path: Path) -> None:
    index = open_index(mini_coco(tmp_path), "train")
    records = [record for record in index.records if record.instances]
    found = label_pictures(index, 10, strides=(8, 16))
    assert [one.file_name for one in found] == [record.file_name for record in records]
    for one, record in zip(found, records, strict=True):
        grids = levels(touch_mask(record), (8, 16))
        assert one.ratios == {stride: grid.mean() for stride, grid in grids.items()}
        picture = cv2.imdecode(np.frombuffer(one.jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture.shape[1] > 2.9 * picture.shape[0] * record.width / record.height
    assert len(label_pictures(index, 1)) == 1


def test_an_image_that_is_missing_gives_way_to_the_next(tmp_path: Path) -> None:
    index = open_index(mini_coco(tmp_path), "train")
    first, second = [record for record in index.records if record.instances][:2]
    (index.image_root / first.file_name).unlink()
    assert [one.file_name for one in label_pictures(index, 1)] == [second.file_name]
