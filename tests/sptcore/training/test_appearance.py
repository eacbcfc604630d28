"""RandAugment against torchvision's operations, erasing, and draws that follow from seed, epoch and index alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.autoaugment import RandAugment, _apply_op

from sptcore.tasks.pixels import IMAGE_MEAN
from sptcore.training.appearance import _MOVING, _STILL, Appearance, erase, rand_augment
from sptcore.training.config import make_config
from sptcore.training.sampler import Draw

THEIRS = {
    "identity": "Identity", "brightness": "Brightness", "color": "Color", "contrast": "Contrast",
    "sharpness": "Sharpness", "posterize": "Posterize", "solarize": "Solarize", "autocontrast": "AutoContrast",
    "equalize": "Equalize", "shear x": "ShearX", "shear y": "ShearY", "translate x": "TranslateX",
    "translate y": "TranslateY", "rotate": "Rotate",
}  # fmt: skip


def picture(height: int = 40, width: int = 56) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    return (np.stack([3 * rows, 2 * columns, rows + columns], -1) + noise).astype(np.uint8)


@pytest.mark.parametrize("magnitude", [0, 9, 30])
@pytest.mark.parametrize("name", sorted(THEIRS))
def test_every_operation_is_torchvisions(name: str, magnitude: int) -> None:
    operation, strength = (_STILL | _MOVING)[name]
    image = Image.fromarray(picture())
    space = RandAugment()._augmentation_space(31, (image.height, image.width))
    magnitudes, _ = space[THEIRS[name]]
    theirs = float(magnitudes[magnitude].item()) if magnitudes.ndim else 0.0
    ours = strength(magnitude / 30, image.width, image.height)
    assert ours == pytest.approx(theirs, abs=1e-4)
    fill = [round(value) for value in IMAGE_MEAN]
    expected = _apply_op(image, THEIRS[name], theirs, interpolation=InterpolationMode.NEAREST, fill=fill)  # type: ignore[arg-type]
    found = np.asarray(operation(image, ours)).astype(int)
    differing = (found != np.asarray(expected).astype(int)).any(-1).mean()
    assert differing < (0.15 if name.startswith("shear") else 0.02)  # nearest pixels: theirs are off by half a pixel
    if magnitude == 30 and name != "identity":
        assert (found != picture()).any()


def test_the_choices_are_those_of_torchvision() -> None:
    assert {THEIRS[name] for name in _STILL | _MOVING} == set(RandAugment()._augmentation_space(31, (8, 8)))


def test_without_moving_operations_every_edge_stays_where_it_is() -> None:
    """A step from dark to bright stays at its column under photometric operations, and not under the others."""
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 16:] = 200

    def edge_stays(number: int, may_move: bool) -> bool:
        found = rand_augment(image, 20, np.random.default_rng(number), may_move=may_move)
        return bool((found[:, :16] == found[0, 0]).all() and (found[:, 16:] == found[0, 16]).all())

    def stay(may_move: bool) -> int:
        return sum(edge_stays(number, may_move) for number in range(60))

    sharpened = 25  # draws of sharpness change the two columns beside the edge, nothing moves
    assert stay(False) >= 60 - sharpened
    assert stay(True) < stay(False)


def test_erasing_leaves_noise_of_the_right_size_and_the_rest_alone() -> None:
    image = np.full((64, 64, 3), 7, np.uint8)
    shares = []
    for number in range(60):
        found = erase(image, np.random.default_rng(number))
        changed = (found != 7).any(-1)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        shares.append(box / 64**2)
    assert min(shares) > 0.01
    assert max(shares) < 0.36
    assert (image == 7).all()


def test_draws_follow_from_seed_epoch_and_index_alone() -> None:
    config = make_config({"rand_augment": 9, "erasing": 0.5, "seed": 3})
    alter = Appearance(config, may_move=True)
    one = alter(picture(), Draw(1, 4))
    torch.manual_seed(5)
    np.random.seed(6)
    assert np.array_equal(alter(picture(), Draw(1, 4)), one)
    others = [alter(picture(), Draw(2, 4)), alter(picture(), Draw(1, 5))]
    others.append(Appearance(make_config({"rand_augment": 9, "erasing": 0.5}), may_move=True)(picture(), Draw(1, 4)))
    assert sum(np.array_equal(other, one) for other in others) < 3
    still = Appearance(make_config({"erasing": 0.0}), may_move=True)(picture(), Draw(1, 4))
    assert np.array_equal(still, picture())


def test_erasing_happens_as_often_as_asked() -> None:
    alter = Appearance(make_config({"erasing": 0.25}), may_move=False)
    image = picture()
    erased = sum(not np.array_equal(alter(image, Draw(0, number)), image) for number in range(200))
    assert 30 < erased < 72
