"""Masks as COCO writes them: polygons along pixel edges, which rasterise to exactly the mask, and run lengths."""

from __future__ import annotations

import numpy as np

# Direction of an edge as (dx, dy) -> the order in which to leave its end point: right turn, straight on, left turn.
_TURNS = {
    (1, 0): ((0, 1), (1, 0), (0, -1)),
    (0, 1): ((-1, 0), (0, 1), (1, 0)),
    (-1, 0): ((0, -1), (-1, 0), (0, 1)),
    (0, -1): ((1, 0), (0, -1), (-1, 0)),
}


def mask_polygons(mask: np.ndarray) -> list[list[int]]:
    """Polygons [x1, y1, x2, y2, ...] whose union is exactly the mask (H, W) bool, as pycocotools rasterises them.

    Corners lie on pixel corners. COCO polygons know no holes, so a mask with one is cut through it into pieces.
    """
    outer, holes = [], []
    for loop in _loops(mask):
        (outer if _signed_area(loop) > 0 else holes).append(loop)
    if holes:
        cut = (min(x for x, _ in holes[0]) + max(x for x, _ in holes[0])) // 2
        left, right = mask.copy(), mask.copy()
        left[:, cut:] = False
        right[:, :cut] = False
        return mask_polygons(left) + mask_polygons(right)
    return [[value for corner in loop for value in corner] for loop in outer]


def mask_counts(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths of the mask (H, W) bool: column-major, background first."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *counts] if flat[0] else counts


def _loops(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """Closed walks along the pixel edges with the mask on the right hand: clockwise outside, anticlockwise in holes."""
    edges = _edges(mask)
    loops = []
    while edges:
        start = min(edges)
        walk, point = [], start
        direction = next(iter(edges[start]))
        while point in edges and direction in edges[point]:
            edges[point].remove(direction)
            if not edges[point]:
                del edges[point]
            walk.append((point, direction))
            point = (point[0] + direction[0], point[1] + direction[1])
            direction = next((turn for turn in _TURNS[direction] if turn in edges.get(point, ())), direction)
        loops.append([p for (p, d), (_, before) in zip(walk, [walk[-1], *walk[:-1]], strict=True) if d != before])
    return loops


def _edges(mask: np.ndarray) -> dict[tuple[int, int], set[tuple[int, int]]]:
    """Start point (x, y) -> directions of the unit edges that leave it, the mask on their right."""
    padded = np.pad(mask, 1)
    here = padded[1:-1, 1:-1]
    sides = (
        (here & ~padded[:-2, 1:-1], (0, 0), (1, 0)),  # top, walked to the right
        (here & ~padded[1:-1, 2:], (1, 0), (0, 1)),  # right, walked down
        (here & ~padded[2:, 1:-1], (1, 1), (-1, 0)),  # bottom, walked to the left
        (here & ~padded[1:-1, :-2], (0, 1), (0, -1)),  # left, walked up
    )
    edges: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for where, (right, down), direction in sides:
        for y, x in zip(*(axis.tolist() for axis in np.nonzero(where)), strict=True):
            edges.setdefault((x + right, y + down), set()).add(direction)
    return edges


def _signed_area(loop: list[tuple[int, int]]) -> int:
    """Twice the area, positive for clockwise on a screen whose y axis points down."""
    following = loop[1:] + loop[:1]
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(loop, following, strict=True))
