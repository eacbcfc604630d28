"""The backgrounds of the sample set: soft terrain, gradients, strokes and grain in muted colours.

Only elementwise +, -, *, / and sqrt on float64 are used, which IEEE 754 rounds the same way everywhere.
"""

from __future__ import annotations

import numpy as np

from sptcore.data.sample.draws import Draws

Colour = tuple[int, int, int]

PALETTES: tuple[tuple[Colour, Colour, Colour], ...] = (
    ((46, 62, 44), (88, 106, 66), (134, 142, 96)),  # meadow
    ((118, 98, 76), (164, 142, 112), (200, 182, 150)),  # sand
    ((44, 48, 54), (78, 84, 92), (122, 126, 132)),  # asphalt
    ((22, 44, 62), (44, 82, 104), (98, 134, 148)),  # water
    ((30, 26, 46), (62, 54, 84), (112, 92, 112)),  # dusk
    ((150, 158, 168), (186, 192, 198), (216, 220, 222)),  # snow
    ((24, 20, 34), (66, 34, 66), (116, 62, 74)),  # thermal
    ((126, 106, 122), (170, 150, 164), (206, 194, 200)),  # microscope slide
)


def draw_backdrop(draws: Draws, size: int) -> np.ndarray:
    """A background (size, size, 3) of float64 values in 0 .. 255."""
    palette = draws.pick(PALETTES)
    height = _terrain(draws, size)
    height = 0.62 * height + 0.38 * _gradient(draws, size)
    canvas = _tint(np.minimum(np.maximum(height, 0.0), 1.0), palette)
    for _ in range(draws.integer(1, 5)):
        _stroke(draws, canvas, palette)
    for _ in range(draws.integer(0, 4)):
        _smudge(draws, canvas, palette)
    grain = draws.field((size, size, 3), 13).astype(np.float64) - 6.0
    return np.minimum(np.maximum(canvas + grain, 0.0), 255.0)


def _terrain(draws: Draws, size: int) -> np.ndarray:
    """Value noise of four octaves, (size, size) in 0 .. 1."""
    total = np.zeros((size, size))
    for cells, weight in ((3, 0.46), (6, 0.27), (12, 0.17), (32, 0.10)):
        total = total + weight * _value_noise(draws, size, cells)
    return total


def _value_noise(draws: Draws, size: int, cells: int) -> np.ndarray:
    lattice = draws.field((cells + 1, cells + 1), 256).astype(np.float64) / 255.0
    place = np.arange(size) * cells
    index, t = place // size, (place % size) / size
    t = t * t * (3.0 - 2.0 * t)
    rows = lattice[index] * (1.0 - t)[:, None] + lattice[index + 1] * t[:, None]
    return rows[:, index] * (1.0 - t)[None, :] + rows[:, index + 1] * t[None, :]


def _gradient(draws: Draws, size: int) -> np.ndarray:
    ramp = np.arange(size) / (size - 1)
    across, down = draws.integer(-4, 5), draws.integer(-4, 5)
    slope = across * ramp[None, :] + down * ramp[:, None]
    low = min(across, 0) + min(down, 0)
    return (slope - low) / max(abs(across) + abs(down), 1)


def _tint(height: np.ndarray, palette: tuple[Colour, Colour, Colour]) -> np.ndarray:
    dark, middle, light = (np.array(colour, dtype=np.float64) for colour in palette)
    below = np.minimum(height * 2.0, 1.0)[..., None]
    above = np.maximum(height * 2.0 - 1.0, 0.0)[..., None]
    return dark + (middle - dark) * below + (light - middle) * above


def _stroke(draws: Draws, canvas: np.ndarray, palette: tuple[Colour, Colour, Colour]) -> None:
    """Blend a long soft-edged line (a path, a crack, a cable) into `canvas`, in a colour of the palette."""
    size = canvas.shape[0]
    x0, y0, x1, y1 = (float(draws.integer(-size // 4, size + size // 4)) for _ in range(4))
    half_width = draws.integer(1, 12) / 2.0
    strength = draws.integer(25, 75) / 100.0
    dx, dy = x1 - x0, y1 - y0
    length = np.sqrt(dx * dx + dy * dy) + 1e-9
    x, y = np.arange(size)[None, :] + 0.5 - x0, np.arange(size)[:, None] + 0.5 - y0
    along = np.minimum(np.maximum((x * dx + y * dy) / length, 0.0), length)
    off_x, off_y = x - along * dx / length, y - along * dy / length
    distance = np.sqrt(off_x * off_x + off_y * off_y)
    _blend(canvas, np.minimum(np.maximum(half_width + 0.5 - distance, 0.0), 1.0) * strength, draws.pick(palette))


def _smudge(draws: Draws, canvas: np.ndarray, palette: tuple[Colour, Colour, Colour]) -> None:
    """Blend a soft round patch without an edge into `canvas`."""
    size = canvas.shape[0]
    x0, y0, radius = draws.integer(0, size), draws.integer(0, size), draws.integer(size // 12, size // 4)
    x, y = (np.arange(size)[None, :] - x0) / radius, (np.arange(size)[:, None] - y0) / radius
    fade = np.maximum(1.0 - x * x - y * y, 0.0)
    _blend(canvas, fade * fade * (draws.integer(30, 80) / 100.0), draws.pick(palette))


def _blend(canvas: np.ndarray, alpha: np.ndarray, colour: Colour) -> None:
    canvas += (np.array(colour, dtype=np.float64) - canvas) * alpha[..., None]
