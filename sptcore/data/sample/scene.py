"""One picture of the sample set, with its objects: boxes and masks are exact because the picture is drawn from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sptcore.data.sample.backdrop import draw_backdrop
from sptcore.data.sample.draws import Draws
from sptcore.data.sample.shapes import SHAPES, TILT, turn

CLASSES = tuple(SHAPES)
_FINE = 4  # sub-samples a pixel and axis; a pixel belongs to an object that covers at least half of it


@dataclass(frozen=True)
class SceneObject:
    """A thing (or a crowd of one class): `mask` (H, W) bool holds the pixels that are seen of it."""

    category: str
    mask: np.ndarray
    is_crowd: bool = False

    @property
    def area(self) -> int:
        """Visible pixels."""
        return int(self.mask.sum())

    @property
    def box_xyxy(self) -> tuple[int, int, int, int]:
        """The tightest half-open box around the visible pixels."""
        columns, rows = np.flatnonzero(self.mask.any(axis=0)), np.flatnonzero(self.mask.any(axis=1))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True)
class Scene:
    """A picture (H, W, 3) uint8 RGB and its objects, the lowest first."""

    image: np.ndarray
    objects: tuple[SceneObject, ...]

    @property
    def object_ratio(self) -> float:
        """Pixels of the union of the objects over all pixels."""
        return sum(thing.area for thing in self.objects) / (self.image.shape[0] * self.image.shape[1])


@dataclass(frozen=True)
class _Part:
    """Where and how one thing lies: centre and radius in quarter pixels, turn in 64ths."""

    category: str
    x: int
    y: int
    radius: int
    tilt: int
    variant: int


def draw_scene(draws: Draws, size: int = 128) -> Scene:
    """A picture of (size, size): empty, sparse, one large thing, a crowd, or dense."""
    canvas = draw_backdrop(draws, size)
    stage = _Stage(canvas)
    kind = draws.integer(0, 100)
    if kind < 6:
        return stage.scene()
    if kind < 14:
        _place_crowd(draws, stage)
        _place_things(draws, stage, draws.integer(0, 3), (24, 44))
    elif kind < 24:
        _place_things(draws, stage, draws.integer(1, 3), (64, 108))
        _place_things(draws, stage, draws.integer(0, 3), (24, 44))
    elif kind < 34:
        _place_things(draws, stage, draws.integer(9, 19), (24, 68))
    elif kind < 38:
        _place_things(draws, stage, draws.integer(12, 19), (44, 78))
    else:
        _place_things(draws, stage, draws.integer(1, 6), (24, 60))
    return stage.scene()


def draw_portrait(draws: Draws, category: str, size: int = 64) -> Scene:
    """A picture of (size, size) with one thing of `category`, as image classification sets have them."""
    stage = _Stage(draw_backdrop(draws, size))
    radius = draws.integer(36, 116)
    centre = (draws.integer(size, 3 * size), draws.integer(size, 3 * size))
    stage.add((_part(draws, category, centre, radius),), is_crowd=False)
    return stage.scene()


def _part(draws: Draws, category: str, centre: tuple[int, int], radius: int) -> _Part:
    tilt = draws.integer(-TILT[category], TILT[category] + 1)
    return _Part(category, centre[0], centre[1], radius, tilt, draws.integer(0, 3))


def _place_things(draws: Draws, stage: _Stage, count: int, radii: tuple[int, int]) -> None:
    for _ in range(count):
        category, radius = draws.pick(CLASSES), draws.integer(*radii)
        for _ in range(12):
            centre = (draws.integer(0, 4 * stage.size), draws.integer(0, 4 * stage.size))
            if stage.add((_part(draws, category, centre, radius),), is_crowd=False):
                break


def _place_crowd(draws: Draws, stage: _Stage) -> None:
    """A group of a dozen or more small things of one class, annotated as one crowd."""
    category, quarter = draws.pick(CLASSES), stage.size
    x, y = draws.integer(quarter, 3 * quarter), draws.integer(quarter, 3 * quarter)
    parts = []
    for _ in range(draws.integer(14, 26)):
        centre = (x + draws.integer(-80, 81) + draws.integer(-40, 41), y + draws.integer(-50, 51))
        parts.append(_part(draws, category, centre, draws.integer(13, 20)))
    stage.add(tuple(sorted(parts, key=lambda part: part.y)), is_crowd=True)


class _Stage:
    """The picture being drawn and the visible pixels of what lies on it."""

    def __init__(self, canvas: np.ndarray) -> None:
        self.size = canvas.shape[0]
        self._canvas = canvas
        self._things: list[tuple[str, np.ndarray, int, bool]] = []  # category, visible mask, whole area, crowd

    def add(self, parts: tuple[_Part, ...], *, is_crowd: bool) -> bool:
        """Draw `parts` as one object on top; False when it would hide most of another or lie mostly outside."""
        layers = [layer for part in parts if (layer := _render(part, self.size)) is not None]
        mask = np.zeros((self.size, self.size), dtype=bool)
        for window, cover, _ in layers:
            mask[window] |= cover >= _FINE * _FINE // 2
        whole = int(mask.sum())
        if not is_crowd and whole < _expected(parts[0]) * 0.6:
            return False
        if any((visible & ~mask).sum() < 0.5 * area for _, visible, area, _ in self._things):
            return False
        self._things = [(name, visible & ~mask, area, crowd) for name, visible, area, crowd in self._things]
        self._things.append((parts[0].category, mask, whole, is_crowd))
        for window, cover, colours in layers:
            self._shade(window, cover)
            self._paint(window, cover, colours)
        return True

    def _paint(self, window: tuple[slice, slice], cover: np.ndarray, colours: np.ndarray) -> None:
        under = self._canvas[window]
        share = cover[..., None] / float(_FINE * _FINE)
        self._canvas[window] = under * (1.0 - share) + colours / float(_FINE * _FINE)

    def _shade(self, window: tuple[slice, slice], cover: np.ndarray) -> None:
        """A soft shadow, two pixels down and right."""
        rows, columns = window
        top, left = rows.start + 2, columns.start + 2
        soft = cover / float(_FINE * _FINE)
        soft[1:-1, 1:-1] = (
            soft[1:-1, 1:-1] * 2 + soft[:-2, 1:-1] + soft[2:, 1:-1] + soft[1:-1, :-2] + soft[1:-1, 2:]
        ) / 6
        height = min(soft.shape[0], self.size - top)
        width = min(soft.shape[1], self.size - left)
        if height > 0 and width > 0:
            self._canvas[top : top + height, left : left + width] *= 1.0 - 0.45 * soft[:height, :width, None]

    def scene(self) -> Scene:
        image = np.floor(np.minimum(np.maximum(self._canvas, 0.0), 255.0) + 0.5)
        objects = tuple(SceneObject(name, visible, crowd) for name, visible, _, crowd in self._things)
        return Scene(np.minimum(image, 255.0).astype(np.uint8), objects)


def _expected(part: _Part) -> float:
    """Pixels of the whole thing if nothing cut it off, roughly."""
    fill = {"ball": 3.14, "crate": 2.82, "star": 1.35, "ring": 2.48, "cone": 1.58}[part.category]
    return fill * part.radius * part.radius / (_FINE * _FINE)


def _render(part: _Part, size: int) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray] | None:
    """The window of the picture that a part touches, how many of the 16 sub-samples it covers (h, w), and their
    colours summed (h, w, 3); None when it lies wholly outside."""
    reach = part.radius * 5 // 4 + _FINE
    left, right = max(part.x - reach, 0) // _FINE, min((part.x + reach) // _FINE + 1, size)
    top, bottom = max(part.y - reach, 0) // _FINE, min((part.y + reach) // _FINE + 1, size)
    if left >= right or top >= bottom:
        return None
    x = (np.arange(left * _FINE, right * _FINE) + 0.5 - part.x) / part.radius
    y = (np.arange(top * _FINE, bottom * _FINE) + 0.5 - part.y) / part.radius
    cosine, sine = turn(part.tilt, 64)
    u = x[None, :] * cosine + y[:, None] * sine
    v = y[:, None] * cosine - x[None, :] * sine
    inside, colours = SHAPES[part.category](u, v, part.variant)
    shape = (bottom - top, _FINE, right - left, _FINE)
    cover = inside.reshape(shape).astype(np.int64).sum(axis=(1, 3))
    whole = np.floor(np.where(inside[..., None], colours, 0.0)).astype(np.int64)
    return (slice(top, bottom), slice(left, right)), cover, whole.reshape(*shape, 3).sum(axis=(1, 3)).astype(np.float64)
