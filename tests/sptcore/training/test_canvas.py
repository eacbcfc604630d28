"""IN-S in training: the image altered alone, on its black canvas, and labels that are exactly where it lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sptcore.data.locate import locate, open_index
from sptcore.data.padding import image_mask, pad_image, pad_index
from sptcore.data.records import DatasetIndex
from sptcore.data.sample import FOLDERS, write_sample
from sptcore.data.sparse import SparsePlan, SparseRule, make_sparse
from sptcore.labels.geometry import Geometry, whole_image
from sptcore.labels.pyramid import levels
from sptcore.progress import Silent
from sptcore.training.augment import draw_geometry
from sptcore.training.config import make_config
from sptcore.training.datasets import DrawnGeometry, ImageDataset, WholeImage
from sptcore.training.prepare import _appearance, open_labels, warn_of_cut_cells
from sptcore.training.sampler import Draw
from sptcore.training.targets import BoxTargets, ClassTargets

PADDING, STRIDES = (2, 2), (8, 16, 32)


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    root = tmp_path_factory.mktemp("data")
    write_sample(root, "tiny-imagenet")
    return pad_index(open_index(root / FOLDERS["tiny-imagenet"], "val"), PADDING)


def dataset(index: DatasetIndex, labels: str = "auto", **settings: object) -> ImageDataset:
    values = {"geometry": WholeImage((128, 128), PADDING), "strides": STRIDES, "labels": open_labels(labels, index)}
    return ImageDataset(index, **(values | settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("side", [128, 256, 448])
def test_the_label_grids_of_the_quadrant_are_the_quadrant(padded: DatasetIndex, side: int) -> None:
    sample = dataset(padded, geometry=WholeImage((side, side), PADDING)).load(Draw(0, 3))
    assert sample.image.shape == (side, side, 3)
    assert not sample.image[side // 2 :].any()
    assert not sample.image[:, side // 2 :].any()
    assert sample.image[side // 2 - 1, : side // 2].any()
    for stride in STRIDES:
        cells = side // stride
        quadrant = np.zeros((cells, cells), bool)
        quadrant[: cells // 2, : cells // 2] = True
        assert np.array_equal(sample.grids[stride], quadrant)
        assert sample.grids[stride].mean() == 0.25


@pytest.mark.parametrize("index", range(6))
def test_augmented_images_stay_in_the_quadrant_and_so_do_their_labels(padded: DatasetIndex, index: int) -> None:
    config = make_config({"res": "128x128", "resized_crop": [0.3, 1.0], "task": "classify"})
    drawn = dataset(padded, geometry=DrawnGeometry(config, PADDING), targets=ClassTargets({c: c for c in range(5)}))
    sample = drawn.load(Draw(1, index))
    assert sample.image.shape == (128, 128, 3)
    assert not sample.image[64:].any()
    assert not sample.image[:, 64:].any()
    for stride in STRIDES:
        assert sample.grids[stride].sum() == (64 // stride) ** 2
        assert sample.grids[stride][: 64 // stride, : 64 // stride].all()
    assert sample.target["classes"].sum() == 1
    assert sample.target["classes"][padded.records[index].class_id] == 1
    assert sample.target["extent"].tolist() == [64, 64]


@pytest.mark.parametrize("crop", [(16, 16, 48, 48), (4, 28, 36, 60)])
@pytest.mark.parametrize("flip", [False, True])
def test_labels_from_boxes_are_cut_with_the_image(flip: bool, crop: tuple[int, int, int, int]) -> None:
    """What the crop leaves out must not come back on the black of the canvas."""
    mask = np.zeros((128, 128), np.uint8)
    mask[10:60, 5:50] = 1  # reaches out of the crop
    x1, y1, x2, y2 = crop
    geometry = Geometry((64, 64), flip, crop, (64, 64), (128, 128))
    grids = geometry.labels(mask, STRIDES)
    bare = mask[:64, :64][:, ::-1] if flip else mask[:64, :64]
    seen = pad_image(bare[y1:y2, x1:x2, None].repeat(2, 0).repeat(2, 1), PADDING)[..., 0]
    assert all(np.array_equal(grids[stride], levels(seen, STRIDES)[stride]) for stride in STRIDES)
    assert np.array_equal(geometry.mask(mask), seen)


def test_nothing_moves_in_an_image_whose_boxes_or_labels_would_stay_behind(padded: DatasetIndex) -> None:
    def may_move(labels: str | None, task: str = "classify") -> bool:
        config = make_config({"rand_augment": 9, "task": task})
        alter = _appearance(config, None if labels is None else open_labels(labels, padded))
        assert alter is not None
        return alter.may_move

    assert may_move(None)
    assert may_move("image")
    assert not may_move("boxes")
    assert not may_move(None, task="detect")


@pytest.mark.parametrize(("side", "warns"), [(128, False), (256, False), (448, False), (224, True), (130, True)])
def test_a_size_whose_cells_the_image_cuts_is_told(padded: DatasetIndex, side: int, warns: bool) -> None:
    lines: list[str] = []

    class Listener(Silent):
        def warn(self, message: str) -> None:
            lines.append(message)

    warn_of_cut_cells(padded, (side, side), STRIDES, Listener())
    assert bool(lines) == warns
    warn_of_cut_cells(padded, (side, side), (), Listener())  # a dense model has no labels
    assert len(lines) == warns


def test_box_labels_and_targets_of_a_padded_set(padded: DatasetIndex) -> None:
    record = padded.records[0]
    box = np.array(record.instances[0].box_xyxy)
    sample = dataset(padded, labels="boxes", targets=BoxTargets({c: c + 1 for c in range(5)})).load(Draw(0, 0))
    assert sample.target["boxes"][0].tolist() == box.tolist()
    touched = np.zeros((128, 128), np.uint8)
    touched[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = 1
    assert np.array_equal(sample.grids[8], levels(touched, [8])[8])
    assert not np.array_equal(sample.grids[8], levels(image_mask(record, PADDING), [8])[8])


def test_pixels_at_the_edge_are_not_mixed_with_black(padded: DatasetIndex) -> None:
    white = np.full((128, 128, 3), 255, np.uint8)
    white[64:] = 0
    white[:, 64:] = 0
    image = whole_image(128, 128, (448, 448), PADDING).image(white)
    assert (image[:224, :224] == 255).all()
    assert not image[224:].any()
    resized = whole_image(128, 128, (448, 448)).image(white)  # the canvas as a whole: a grey seam
    assert ((resized > 0) & (resized < 255)).any()


def test_written_and_padded_on_the_fly_an_image_is_the_same_sample(padded: DatasetIndex, tmp_path: Path) -> None:
    source = padded.annotation_path
    plan = SparsePlan(splits=("val",), pad=PADDING)
    make_sparse(locate(source), SparseRule(None), tmp_path / "in-s", plan)
    written = open_index(tmp_path / "in-s", "val")
    assert written.image_path(written.records[0]).suffix == ".png"
    assert padded.image_path(padded.records[0]).suffix == ".JPEG"
    config = make_config({"res": "128x128", "resized_crop": [0.5, 1.0], "task": "classify"})
    one, other = (
        dataset(index, geometry=DrawnGeometry(config, PADDING)).load(Draw(0, 1)) for index in (written, padded)
    )
    plain = open_index(source, "val")
    alone = ImageDataset(plain, lambda record, draw: draw_alone(config, draw)).load(Draw(0, 1))
    assert np.array_equal(one.image, other.image)
    assert np.array_equal(one.image[:64, :64], alone.image)


def draw_alone(config, draw: Draw) -> Geometry:
    """The geometry that `draw` gives the image on its canvas, for the image without it."""
    geometry = DrawnGeometry(config, PADDING)
    record = type("Record", (), {"width": 128, "height": 128})
    on_canvas = geometry(record, draw)  # type: ignore[arg-type]
    return Geometry(on_canvas.native, on_canvas.flip, on_canvas.crop, on_canvas.out)


def test_crops_have_the_drawn_share_and_ratio() -> None:
    config = make_config({"res": "224x224", "resized_crop": [0.2, 0.5], "flip_prob": 0.5})
    generator = np.random.default_rng(0)
    flips = 0
    for _ in range(300):
        geometry = draw_geometry(config, 400, 300, generator)
        x1, y1, x2, y2 = geometry.crop
        assert 0 <= x1 < x2 <= 400
        assert 0 <= y1 < y2 <= 300
        assert geometry.out == (224, 224)
        assert 0.19 < (x2 - x1) * (y2 - y1) / (400 * 300) < 0.51
        assert 0.74 < (x2 - x1) / (y2 - y1) < 1.35
        flips += geometry.flip
    assert 110 < flips < 190
    tall = make_config({"res": "256x128", "resized_crop": [1.0, 1.0], "resized_crop_ratio": [5.0, 5.0]})
    geometry = draw_geometry(tall, 30, 40, generator)
    assert geometry.crop == (0, 0, 30, 40)  # no such crop fits
    assert geometry.out == (128, 256)
