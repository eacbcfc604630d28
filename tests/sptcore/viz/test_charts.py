from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from sptcore.viz.charts import COLOURS, Axis, Scale, Series, line_chart, round_step, scatter_chart

RISING = Series("rising <&>", [(0, 0.0), (1, 0.5), (2, 1.0)])
FALLING = Series("falling", [(0, 1.0), (2, 0.0)])


def elements(chart: str) -> list[ElementTree.Element]:
    """Every element of a chart, which must be well-formed XML."""
    return list(ElementTree.fromstring(chart).iter())


def of_kind(chart: str, kind: str) -> list[ElementTree.Element]:
    return [one for one in elements(chart) if one.tag == kind]


def test_lines_rise_and_fall_on_the_page() -> None:
    chart = line_chart("Title", [RISING, FALLING], Axis("epoch"), Axis("", percent=True))
    rising, falling = (
        [float(number) for number in re.findall(r"[\d.]+", path.get("d", ""))] for path in of_kind(chart, "path")
    )
    assert rising[1] > rising[3] > rising[5]  # y grows downward
    assert falling[1] < falling[3]
    assert rising[0] == falling[0] < rising[-2] == falling[-2]
    titles = [one.text for one in of_kind(chart, "title")]
    assert "rising <&>: 50% at 1" in titles


def test_points_that_are_not_finite_are_left_out_and_empty_charts_are_nothing() -> None:
    holes = Series("holes", [(0, math.nan), (1, 2.0), (2, math.inf)])
    assert len(of_kind(line_chart("t", [holes], Axis("x"), Axis("y")), "circle")) == 1
    assert line_chart("t", [Series("none", []), Series("nan", [(0, math.nan)])], Axis("x"), Axis("y")) == ""


def test_a_series_keeps_its_colour_when_another_is_missing() -> None:
    alone = line_chart("t", [Series("none", []), FALLING], Axis("x"), Axis("y"))
    assert of_kind(alone, "path")[0].get("stroke") == COLOURS[1]


def test_more_series_than_colours_are_told_apart_by_dashes() -> None:
    many = [Series(f"s{number}", [(0, number), (1, number)]) for number in range(9)]
    paths = of_kind(line_chart("t", many, Axis("x"), Axis("y")), "path")
    looks = {(path.get("stroke"), path.get("stroke-dasharray")) for path in paths}
    assert len(looks) == 9


def test_scatter_points_carry_their_names() -> None:
    chart = scatter_chart(
        "t", [Series("a", [(1, 0.1)]), Series("b", [(2, 0.2)])], Axis("GMACs", from_zero=True), Axis("AP")
    )
    assert {"a", "b"} <= {one.text for one in of_kind(chart, "text")}
    a, b = of_kind(chart, "circle")
    assert float(a.get("cx", 0)) < float(b.get("cx", 0))
    assert float(a.get("cy", 0)) > float(b.get("cy", 0))


@pytest.mark.parametrize("points", [[(1, 5.0)], [(0, 0.0), (0, 0.0)], [(1, -3.0), (2, -3.0)]])
def test_one_value_is_drawn_inside_the_frame(points: list[tuple[float, float]]) -> None:
    chart = line_chart("t", [Series("s", points)], Axis("x"), Axis("y"))
    for dot in of_kind(chart, "circle"):
        assert 0 < float(dot.get("cx", -1)) < 580
        assert 0 < float(dot.get("cy", -1)) < 320


@pytest.mark.parametrize(("rough", "step"), [(0.3, 0.5), (0.2, 0.2), (1, 1), (0.021, 0.025), (7, 10), (230, 250)])
def test_steps_are_round(rough: float, step: float) -> None:
    assert round_step(rough) == pytest.approx(step)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.04, 1.04), (3, 3.7), (0, 1e-5), (-50, 1200)])
def test_ticks_lie_inside_and_are_few(low: float, high: float) -> None:
    ticks = Scale(low, high, 0, 100).ticks()
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
