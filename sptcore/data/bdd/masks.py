"""From Scalabel's polygons and run lengths to COCO's: https://doc.scalabel.ai/format.html (poly2d, rle)."""

from __future__ import annotations

import math

from sptcore.data.bdd.schema import Poly2D, RunLengths
from sptcore.data.coco.schema import MAX_OUTLINE, MAX_POLYGON_NUMBERS
from sptcore.data.records import Rle
from sptcore.data.rle import RunLengthFault, compressed, decoded_counts, fill_fault, without_empty_runs

Point = tuple[float, float]

# A curve becomes chords of about two pixels.
_CHORD, _MIN_CHORDS, _MAX_CHORDS = 2.0, 4, 200


class MaskFault(ValueError):
    """A polygon or run-length code that cannot be used; the message says why."""


def outline(polygon: Poly2D, limit: float) -> list[float]:
    """A closed polygon as COCO has it, [x1, y1, x2, y2, ...], its curves as short chords. Raises MaskFault.

    `limit` is how far out a coordinate may lie.
    """
    vertices, types = polygon.vertices, polygon.types or "L" * len(polygon.vertices)
    if not polygon.closed:
        raise MaskFault("an open line")
    if len(types) != len(vertices) or set(types) - set("LC"):
        raise MaskFault(f"types {types[:20]!r} for {len(vertices)} vertices")
    if len(vertices) < 3:
        raise MaskFault(f"{len(vertices)} vertices")
    if 2 * len(vertices) > MAX_POLYGON_NUMBERS:
        raise MaskFault("more than a million vertices")
    if not all(abs(x) <= limit and abs(y) <= limit for x, y in vertices):
        raise MaskFault("a coordinate out of range")
    points = _straightened(vertices, types) if "C" in types[1:] else vertices
    if 5 * sum(map(max, _steps(points, 0), _steps(points, 1))) > MAX_OUTLINE:
        raise MaskFault("an outline too long to be drawn")
    return [value for point in points for value in point]


def _steps(points: list[Point], axis: int) -> list[float]:
    return [abs(p[axis] - q[axis]) for p, q in zip(points, [*points[1:], points[0]], strict=True)]


def _straightened(vertices: list[Point], types: str) -> list[Point]:
    """Corners and points along the curves: two control points stand between the ends of a cubic Bezier curve."""
    ring = [*vertices, vertices[0]]
    points, at = [vertices[0]], 1
    while at < len(vertices):
        if types[at] == "L":
            points.append(vertices[at])
            at += 1
            continue
        if at + 1 >= len(vertices) or types[at + 1] != "C":
            raise MaskFault("a curve without its second control point")
        points += _curve(points[-1], ring[at], ring[at + 1], ring[at + 2])
        at += 3
    return points


def _curve(a: Point, b: Point, c: Point, d: Point) -> list[Point]:
    """Points of the cubic Bezier curve from a to d with control points b and c, a left out."""
    length = _distance(a, b) + _distance(b, c) + _distance(c, d)
    chords = max(_MIN_CHORDS, min(_MAX_CHORDS, int(length / _CHORD)))
    points = []
    for step in range(1, chords + 1):
        t = step / chords
        s = 1.0 - t
        weights = (s * s * s, 3.0 * s * s * t, 3.0 * s * t * t, t * t * t)
        corners = tuple(zip(weights, (a, b, c, d), strict=True))
        points.append((sum(w * p[0] for w, p in corners), sum(w * p[1] for w, p in corners)))
    return points


def _distance(p: Point, q: Point) -> float:
    return math.sqrt((p[0] - q[0]) * (p[0] - q[0]) + (p[1] - q[1]) * (p[1] - q[1]))


def run_lengths(code: RunLengths, width: int, height: int) -> Rle:
    """Checked run lengths of an image of this size. Raises MaskFault."""
    if code.size != (height, width):
        raise MaskFault(f"run lengths of {code.size[1]}x{code.size[0]} for an image of {width}x{height}")
    try:
        counts = decoded_counts(code.counts) if isinstance(code.counts, str) else code.counts
    except RunLengthFault as error:
        raise MaskFault(str(error)) from error
    fault = fill_fault(counts, height, width)
    if fault:
        raise MaskFault(fault)
    plain = without_empty_runs(counts)
    if isinstance(code.counts, str) and plain is counts:
        return Rle(height, width, code.counts.encode("ascii"))
    return Rle(height, width, compressed(plain, height, width))
