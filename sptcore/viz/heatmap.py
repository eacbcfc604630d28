"""Where a model looked: selected tokens of its blocks, laid over the image they came from.

The heat map is the paper's (Fig. 5): the sum over the SPA blocks of their 0/1 masks, each brought to the image's own
resolution by nearest neighbour, divided by the number of blocks. 1 means every block kept the pixel's token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from sptcore.errors import UsageError, did_you_mean

COLORMAPS = {
    "turbo": cv2.COLORMAP_TURBO,
    "viridis": cv2.COLORMAP_VIRIDIS,
    "inferno": cv2.COLORMAP_INFERNO,
    "magma": cv2.COLORMAP_MAGMA,
    "plasma": cv2.COLORMAP_PLASMA,
    "cividis": cv2.COLORMAP_CIVIDIS,
    "hot": cv2.COLORMAP_HOT,
    "jet": cv2.COLORMAP_JET,
    "bone": cv2.COLORMAP_BONE,
}
BRIGHT_PARTS = {"turbo": (0.07, 0.9), "jet": (0.05, 0.92)}  # their ends are too dark to be told apart over an image
STYLES = ("heat", "mask", "dots")


@dataclass(frozen=True)
class Layer:
    """What one block selected in one image.

    `mask` bool (h, w) on the grid of `stride` pixels a token, in the frame the model saw (image upper left, padding
    below and to the right); `frame` is the image's (height, width) in that frame. `stage` and `block` count from 1.
    """

    mask: np.ndarray
    stride: int
    stage: int
    block: int
    frame: tuple[int, int]

    @property
    def name(self) -> str:
        """`"3.2"`: stage 3, block 2."""
        return f"{self.stage}.{self.block}"

    @property
    def inside(self) -> np.ndarray:
        """The part of the mask whose tokens touch the image: bool (ceil(H / stride), ceil(W / stride))."""
        height, width = (-(-side // self.stride) for side in self.frame)
        return self.mask[:height, :width]

    @property
    def ratio(self) -> float:
        """Selected tokens of the image / tokens of the image."""
        return float(self.inside.mean())


def upsample(layer: Layer, height: int, width: int) -> np.ndarray:
    """The mask of `layer` at height x width, nearest neighbour: a pixel takes the token its centre lies in.

    Returns bool (height, width). Cell borders are computed in integers, so no float moves them.
    """
    rows = _cells(height, layer.frame[0], layer.stride)
    columns = _cells(width, layer.frame[1], layer.stride)
    return layer.mask[np.ix_(rows, columns)]


def _cells(length: int, frame: int, stride: int) -> np.ndarray:
    """The cell of each of `length` pixels spread over `frame` input pixels of `stride` to a cell."""
    return (2 * np.arange(length, dtype=np.int64) + 1) * frame // (2 * length * stride)


def heat_map(layers: Sequence[Layer], height: int, width: int) -> np.ndarray:
    """Fig. 5: the mean over `layers` of their masks at height x width; float32 (height, width) in [0, 1].

    Raises ValueError when there are no layers: a model without SPA blocks has no selection to show.
    """
    if not layers:
        raise ValueError("no layers: a model without token selection has no heat map")
    total = np.zeros((height, width), np.float32)
    for layer in layers:
        total += upsample(layer, height, width)
    return total / np.float32(len(layers))


def choose_layers(layers: Sequence[Layer], blocks: str) -> list[list[Layer]]:
    """The groups of layers that become one picture each, for `blocks` = "sum", "all" or numbers such as "3,5".

    Numbers count the selecting blocks from 1 in network order. Raises UsageError for a block that is not there.
    """
    if blocks == "sum":
        return [list(layers)]
    if blocks == "all":
        return [[layer] for layer in layers]
    return [[layers[number - 1]] for number in _block_numbers(blocks, len(layers))]


def _block_numbers(blocks: str, count: int) -> list[int]:
    numbers = []
    for word in blocks.split(","):
        if not word.strip().isdigit() or not 1 <= int(word) <= count:
            raise UsageError(
                f"no such block: {word.strip()!r}",
                where="--blocks",
                hint=f"use sum, all, or numbers from 1 to {count} (this model's selecting blocks, in order)",
            )
        numbers.append(int(word))
    return numbers


def colours(heat: np.ndarray, colormap: str) -> np.ndarray:
    """RGB uint8 (H, W, 3) of a heat map in [0, 1], on the bright part of a map. Raises UsageError for no such map."""
    if colormap not in COLORMAPS:
        raise UsageError(
            f"no colour map {colormap!r}",
            where="--colormap",
            hint=did_you_mean(colormap, COLORMAPS) or f"choose one of: {', '.join(COLORMAPS)}",
        )
    low, high = BRIGHT_PARTS.get(colormap, (0.0, 1.0))
    levels = np.rint((low + (high - low) * np.clip(heat, 0, 1)) * 255).astype(np.uint8)
    return cv2.applyColorMap(levels, COLORMAPS[colormap])[..., ::-1]


def overlay(
    image: np.ndarray, layers: Sequence[Layer], *, style: str = "heat", colormap: str = "turbo", opacity: float = 0.5
) -> np.ndarray:
    """`layers` over `image` (RGB uint8, H x W x 3), in one of STYLES; returns the same type and size.

    heat: colours by how many blocks kept the pixel. mask: what was dropped goes dark. dots: a dot a kept token.
    Raises UsageError for an unknown style or colour map, or an opacity outside [0, 1].
    """
    if style not in STYLES:
        hint = did_you_mean(style, STYLES) or f"choose one of: {', '.join(STYLES)}"
        raise UsageError(f"no style {style!r}", where="--style", hint=hint)
    if not 0 <= opacity <= 1:
        raise UsageError(f"opacity {opacity} is not between 0 and 1", where="--opacity")
    heat = heat_map(layers, *image.shape[:2])
    if style == "heat":
        return _blend(image, colours(heat, colormap), opacity)
    if style == "mask":
        return _shade(image, heat, colours(np.full((1, 1), 0.8), colormap)[0, 0], opacity)
    return _dots(image, layers, heat, colormap, opacity)


def _blend(image: np.ndarray, paint: np.ndarray, opacity: float) -> np.ndarray:
    return cv2.addWeighted(image, 1 - opacity, np.ascontiguousarray(paint), opacity, 0)


def _shade(image: np.ndarray, heat: np.ndarray, edge_colour: np.ndarray, opacity: float) -> np.ndarray:
    """Darken by what was dropped and draw the outline of everything some block kept."""
    light = (1 - opacity) + opacity * heat
    shaded = np.rint(image * light[..., None]).astype(np.uint8)
    kept = cv2.copyMakeBorder((heat > 0).astype(np.uint8), 9, 9, 9, 9, cv2.BORDER_REPLICATE)  # no line along the frame
    outlines, _ = cv2.findContours(kept, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(image.shape[:2]) / 640))
    return cv2.drawContours(shaded, outlines, -1, tuple(int(part) for part in edge_colour), thickness, offset=(-9, -9))


def _dots(image: np.ndarray, layers: Sequence[Layer], heat: np.ndarray, colormap: str, opacity: float) -> np.ndarray:
    """A dot at the centre of every kept token of the finest grid among `layers`, coloured by the heat there."""
    canvas = _blend(image, np.zeros_like(image), opacity)
    paint = colours(heat, colormap)
    finest = min(layers, key=lambda layer: layer.stride)
    height, width = image.shape[:2]
    pitch = (finest.stride * height / finest.frame[0], finest.stride * width / finest.frame[1])
    radius = max(1, round(0.3 * min(pitch)))
    for row in range(-(-finest.frame[0] // finest.stride)):
        for column in range(-(-finest.frame[1] // finest.stride)):
            y, x = (
                min(int((place + 0.5) * step), end - 1)
                for place, step, end in ((row, pitch[0], height), (column, pitch[1], width))
            )
            if heat[y, x] > 0:
                cv2.circle(canvas, (x, y), radius, tuple(int(part) for part in paint[y, x]), -1, cv2.LINE_AA)
    return canvas
