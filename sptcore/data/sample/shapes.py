"""The five things in the sample set, each a shape with its own pattern and hue.

A shape is a function of local coordinates u (right) and v (down), in units of the object's radius: it answers which
points are inside, (n, n) bool, and their colours, (n, n, 3) float64 in 0 .. 255.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Shape = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]

_WHITE = np.array((240.0, 238.0, 230.0))


def turn(step: int, steps: int) -> tuple[float, float]:
    """Cosine and sine of step/steps of a full turn, rounded to 1/4096 so that no maths library shows through."""
    angle = 2.0 * math.pi * step / steps
    return round(4096 * math.cos(angle)) / 4096, round(4096 * math.sin(angle)) / 4096


def _shaded(colour: np.ndarray, shade: np.ndarray) -> np.ndarray:
    return np.minimum(colour * shade[..., None], 255.0)


def _ball(u: np.ndarray, v: np.ndarray, variant: int) -> tuple[np.ndarray, np.ndarray]:
    """A round ball with a white belt, lit from the upper left."""
    base = np.array(((214.0, 40.0, 86.0), (196.0, 34.0, 124.0), (226.0, 52.0, 62.0))[variant % 3])
    belt = np.abs(v + 0.25 * u * u) < 0.2
    colour = np.where(belt[..., None], _WHITE, base)
    light = (u + 0.38) * (u + 0.38) + (v + 0.42) * (v + 0.42)
    return u * u + v * v <= 1.0, _shaded(colour, np.maximum(1.22 - 0.30 * light, 0.35))


def _crate(u: np.ndarray, v: np.ndarray, variant: int) -> tuple[np.ndarray, np.ndarray]:
    """A square wooden crate: planks, a frame and a diagonal brace."""
    base = np.array(((168.0, 108.0, 52.0), (150.0, 92.0, 44.0), (186.0, 126.0, 66.0))[variant % 3])
    edge = np.maximum(np.abs(u), np.abs(v))
    plank = (v + 0.84) / 0.42
    shade = np.where(plank - np.floor(plank) < 0.16, 0.42, 0.78)
    shade = np.where(np.abs(u - v) < 0.2, 1.18, shade)
    shade = np.where(edge > 0.58, 1.28, shade)
    shade = np.where(edge > 0.78, 0.55, shade)
    return edge <= 0.84, _shaded(np.broadcast_to(base, (*u.shape, 3)), shade)


def _star(u: np.ndarray, v: np.ndarray, variant: int) -> tuple[np.ndarray, np.ndarray]:
    """A five-pointed golden star whose ten facets are light and dark in turn."""
    base = np.array(((248.0, 204.0, 36.0), (252.0, 218.0, 72.0), (240.0, 188.0, 20.0))[variant % 3])
    inside = np.zeros(u.shape, dtype=bool)
    shade = np.ones(u.shape)
    corners = [tuple(c * (1.0 if i % 2 == 0 else 0.46) for c in turn(i, 10)) for i in range(10)]
    for i in range(10):
        (ax, ay), (bx, by) = corners[i], corners[(i + 1) % 10]
        facet = (ax * v - ay * u >= 0) & (bx * v - by * u <= 0)
        facet &= (bx - ax) * (v - ay) - (by - ay) * (u - ax) >= 0
        inside |= facet
        shade = np.where(facet, 1.08 if i % 2 == 0 else 0.72, shade)
    return inside, _shaded(np.broadcast_to(base, (*u.shape, 3)), shade)


def _ring(u: np.ndarray, v: np.ndarray, variant: int) -> tuple[np.ndarray, np.ndarray]:
    """A swimming ring of eight white and turquoise segments, with a hole."""
    base = np.array(((18.0, 176.0, 190.0), (30.0, 150.0, 214.0), (24.0, 190.0, 158.0))[variant % 3])
    white = (u > 0) ^ (v > 0) ^ (np.abs(u) > np.abs(v))
    square = u * u + v * v
    off = (np.sqrt(square) - 0.73) / 0.27
    colour = np.where(white[..., None], _WHITE, base)
    return (square <= 1.0) & (square >= 0.2116), _shaded(colour, 1.1 - 0.4 * off * off)


def _cone(u: np.ndarray, v: np.ndarray, variant: int) -> tuple[np.ndarray, np.ndarray]:
    """A traffic cone seen from the side: orange with two white bands, on a foot."""
    base = np.array(((250.0, 112.0, 14.0), (242.0, 96.0, 24.0), (254.0, 128.0, 30.0))[variant % 3])
    half = 0.12 + 0.30 * (v + 1.0)
    body = (np.abs(u) <= half) & (v >= -1.0) & (v <= 0.72)
    foot = (np.abs(u) <= 0.86) & (v > 0.66) & (v <= 0.92)
    band = ((v > -0.46) & (v < -0.14)) | ((v > 0.14) & (v < 0.42))
    colour = np.where((band & ~foot)[..., None], _WHITE, base)
    shade = np.where(foot, 0.82, 1.05 - 0.42 * np.maximum(u / half, -0.2))
    return body | foot, _shaded(colour, shade)


SHAPES: dict[str, Shape] = {"ball": _ball, "crate": _crate, "star": _star, "ring": _ring, "cone": _cone}

# How far each may be turned, in 64ths of a full turn to either side: a cone stands, a star may lie any way.
TILT = {"ball": 6, "crate": 32, "star": 32, "ring": 32, "cone": 4}
