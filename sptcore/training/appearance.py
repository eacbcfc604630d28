"""How training images look: RandAugment and erasing, on pixels alone.

Everything is drawn from (seed, epoch, image index), in a stream of its own beside that of the geometry. Operations that
move things (shear, translation, rotation) are only among the choices where no selection label would stay behind: where
there are none, or where the label is the whole image on its canvas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from sptcore.tasks.pixels import IMAGE_MEAN, IMAGE_STD
from sptcore.training.config import TrainConfig
from sptcore.training.sampler import Draw, image_generator

OPERATIONS_AN_IMAGE = 2
_BINS = 31  # magnitudes 0 ... 30
_FILL = tuple(round(value) for value in IMAGE_MEAN)
_ERASED_AREA = (0.02, 1 / 3)
_ERASED_RATIO = (0.3, 1 / 0.3)
_TRIES = 10

Operation = Callable[[Image.Image, float], Image.Image]


@dataclass(frozen=True)
class Appearance:
    """Alters the pixels of one draw's image; `may_move`: operations that move things are among the choices."""

    config: TrainConfig
    may_move: bool

    def __call__(self, image: np.ndarray, draw: Draw) -> np.ndarray:
        """(h, w, 3) uint8 -> the same size."""
        generator = image_generator(self.config.seed, draw).spawn(1)[0]
        if self.config.rand_augment:
            image = rand_augment(image, self.config.rand_augment, generator, may_move=self.may_move)
        if generator.random() < self.config.erasing:
            image = erase(image, generator)
        return image


def rand_augment(
    image: np.ndarray, magnitude: int, generator: np.random.Generator, *, may_move: bool = True
) -> np.ndarray:
    """Two operations of torchvision's RandAugment, drawn with repetition, at `magnitude` of 31 steps.

    What moves into the picture from outside has ImageNet's mean colour, as in Swin's recipe.
    """
    names = [*_STILL, *(_MOVING if may_move else ())]
    picture = Image.fromarray(image)
    for name in generator.choice(names, OPERATIONS_AN_IMAGE).tolist():
        sign = -1 if name in _SIGNED and generator.random() < 0.5 else 1
        operation, strength = (_STILL | _MOVING)[name]
        picture = operation(picture, sign * strength(magnitude / (_BINS - 1), picture.width, picture.height))
    return np.asarray(picture)


def erase(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A copy in which a rectangle of 2 to 33 % of the area is noise of ImageNet's mean and deviation a pixel."""
    height, width = image.shape[:2]
    for _ in range(_TRIES):
        area = height * width * generator.uniform(*_ERASED_AREA)
        ratio = np.exp(generator.uniform(*np.log(_ERASED_RATIO)))
        h, w = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
        if 0 < h < height and 0 < w < width:
            y, x = int(generator.integers(0, height - h + 1)), int(generator.integers(0, width - w + 1))
            noise = generator.standard_normal((h, w, 3)) * IMAGE_STD + IMAGE_MEAN
            image = image.copy()
            image[y : y + h, x : x + w] = np.clip(np.rint(noise), 0, 255)
            return image
    return image


def _affine(picture: Image.Image, inverse: tuple[float, ...]) -> Image.Image:
    """`inverse`: where a pixel of the result comes from, nearest pixel, as in torchvision."""
    return picture.transform(picture.size, Image.Transform.AFFINE, inverse, Image.Resampling.NEAREST, fillcolor=_FILL)


def _rotate(picture: Image.Image, degrees: float) -> Image.Image:
    return picture.rotate(degrees, Image.Resampling.NEAREST, fillcolor=_FILL)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda picture, strength: kind(picture).enhance(1 + strength)


Strength = Callable[[float, int, int], float]
_STILL: dict[str, tuple[Operation, Strength]] = {
    "identity": (lambda picture, _: picture, lambda *_: 0.0),
    "brightness": (_enhance(ImageEnhance.Brightness), lambda m, *_: 0.9 * m),
    "color": (_enhance(ImageEnhance.Color), lambda m, *_: 0.9 * m),
    "contrast": (_enhance(ImageEnhance.Contrast), lambda m, *_: 0.9 * m),
    "sharpness": (_enhance(ImageEnhance.Sharpness), lambda m, *_: 0.9 * m),
    "posterize": (lambda picture, bits: ImageOps.posterize(picture, int(bits)), lambda m, *_: 8 - round(4 * m)),
    "solarize": (lambda picture, limit: ImageOps.solarize(picture, limit), lambda m, *_: 255 * (1 - m)),  # type: ignore[arg-type]
    "autocontrast": (lambda picture, _: ImageOps.autocontrast(picture), lambda *_: 0.0),
    "equalize": (lambda picture, _: ImageOps.equalize(picture), lambda *_: 0.0),
}
_MOVING: dict[str, tuple[Operation, Strength]] = {
    "shear x": (lambda picture, by: _affine(picture, (1, by, 0, 0, 1, 0)), lambda m, *_: 0.3 * m),
    "shear y": (lambda picture, by: _affine(picture, (1, 0, 0, by, 1, 0)), lambda m, *_: 0.3 * m),
    "translate x": (
        lambda picture, by: _affine(picture, (1, 0, -int(by), 0, 1, 0)),
        lambda m, width, _: 150 / 331 * width * m,
    ),
    "translate y": (
        lambda picture, by: _affine(picture, (1, 0, 0, 0, 1, -int(by))),
        lambda m, _, height: 150 / 331 * height * m,
    ),
    "rotate": (_rotate, lambda m, *_: 30 * m),
}
_SIGNED = {"brightness", "color", "contrast", "sharpness", *_MOVING}
