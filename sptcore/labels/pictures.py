"""Images with their selection labels beside them, so that a person can see that they are right. Drawn without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np

from sptcore.data.padding import read_canvas
from sptcore.data.records import DatasetIndex, ImageRecord
from sptcore.errors import DataError
from sptcore.labels.build.recipe import Recipe
from sptcore.labels.pyramid import DEFAULT_STRIDES, levels

PANEL = 320  # pixels, the longer side of a panel
GAP = 8
TINT = np.array([228, 87, 46], dtype=np.float32)  # RGB
SHARE = 0.45


@dataclass(frozen=True)
class LabelPicture:
    """An image and, to its right, one panel a stride with the labelled cells tinted; `jpeg` is the encoded picture.

    `ratios`: labelled cells / cells by stride.
    """

    file_name: str
    jpeg: bytes
    ratios: dict[int, float]


def label_pictures(
    index: DatasetIndex, count: int, *, strides: Sequence[int] = DEFAULT_STRIDES, follow_symlinks: bool = False
) -> list[LabelPicture]:
    """The first `count` images of `index` that have objects and can be read, with the labels make-labels gives them."""
    recipe = Recipe.of(index, strides, "auto")
    with_objects = (record for record in index.records if record.instances)
    drawn = (_draw(index, record, recipe, follow_symlinks) for record in with_objects)
    return list(islice(filter(None, drawn), count))


def _draw(index: DatasetIndex, record: ImageRecord, recipe: Recipe, follow_symlinks: bool) -> LabelPicture | None:
    """None for an image that is missing or broken: the statistics list it among the problems."""
    try:
        image = read_canvas(index, record, follow_symlinks=follow_symlinks)
    except DataError:
        return None
    grids = levels(recipe.entry(record).mask, recipe.strides)
    panels = [image, *(tinted(image, grid, stride) for stride, grid in grids.items())]
    fitted = [_fit(panel) for panel in panels]
    gap = np.full((fitted[0].shape[0], GAP, 3), 255, dtype=np.uint8)
    sheet = np.hstack([part for panel in fitted for part in (panel, gap)][:-1])
    _, jpeg = cv2.imencode(".jpg", np.ascontiguousarray(sheet[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 88])
    return LabelPicture(
        record.file_name, jpeg.tobytes(), {stride: float(grid.mean()) for stride, grid in grids.items()}
    )


def tinted(image: np.ndarray, grid: np.ndarray, stride: int) -> np.ndarray:
    """`image` (H, W, 3) uint8 with the pixels of labelled cells tinted; `grid` bool (ceil(H / s), ceil(W / s))."""
    height, width = image.shape[:2]
    cells = np.repeat(np.repeat(grid, stride, axis=0), stride, axis=1)[:height, :width]
    painted = image.astype(np.float32)
    painted[cells] = (1 - SHARE) * painted[cells] + SHARE * TINT
    return np.rint(painted).astype(np.uint8)


def _fit(image: np.ndarray) -> np.ndarray:
    """The longer side brought to PANEL pixels; small images grow by whole pixels, so that cells stay sharp."""
    factor = PANEL / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST)
