from __future__ import annotations

import numpy as np
import pytest

from sptcore.viz.figures import BAR, Bar, Figure, Panel, Scale, Strip, display_size, draw, fit, percent


def panel(height: int = 60, width: int = 90, grey: int = 10) -> Panel:
    return Panel(np.full((height, width, 3), grey, np.uint8), "title", "note")


@pytest.mark.parametrize(
    ("size", "shown"),
    [((64, 64), (448, 448)), ((800, 1280), (800, 1280)), ((4000, 3000), (1280, 960)), ((1, 4000), (1, 1280))],
)
def test_small_images_grow_by_whole_factors_and_large_ones_shrink(size: tuple, shown: tuple) -> None:
    assert display_size(*size) == shown


def test_fitting() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    assert fit(image, 4, 6) is image
    assert fit(image, 8, 12).shape == (8, 12, 3)
    assert fit(image, 2, 3).shape == (2, 3, 3)


def test_panels_stand_side_by_side_untouched() -> None:
    picture = np.asarray(draw(Figure("heading", [panel(grey=10), panel(grey=20)])))
    ten, twenty = (picture == 10).all(-1), (picture == 20).all(-1)
    assert ten.sum() >= 60 * 90
    rows, columns = np.where(twenty)
    assert columns.min() > np.where(ten)[1].min()
    assert rows.min() == np.where(ten)[0].min()


def test_panels_wrap_into_rows() -> None:
    wide = draw(Figure("h", [panel()] * 4), columns=4)
    tall = draw(Figure("h", [panel()] * 4), columns=2)
    assert wide.width > tall.width
    assert wide.height < tall.height


def test_the_badge_is_drawn_on_every_panel_and_only_when_asked() -> None:
    plain = np.asarray(draw(Figure("h", [panel(200, 200, 255)] * 2))).astype(int)
    marked = np.asarray(draw(Figure("h", [panel(200, 200, 255)] * 2, badge="demo weights"))).astype(int)
    changed = np.abs(plain - marked).sum(-1) > 100
    half = changed.shape[1] // 2
    assert changed[:, :half].any()
    assert changed[:, half:].any()


def bar_pixels(ratio: float) -> int:
    colour = np.array([int(BAR[at : at + 2], 16) for at in (1, 3, 5)])
    picture = np.asarray(draw(Figure("h", [panel(100, 900)], strips=[Strip("t", [Bar(3, "3.1", ratio)])])))
    return int((picture == colour).all(-1).sum())


def test_bars_are_as_high_as_their_ratio() -> None:
    quarter, half, full = bar_pixels(0.25), bar_pixels(0.5), bar_pixels(1.0)
    assert half / full == pytest.approx(0.5, abs=0.05)
    assert quarter / full == pytest.approx(0.25, abs=0.05)


def test_footer_with_labels_and_scale_and_a_long_heading() -> None:
    bars = [Bar(3, f"3.{block}", 0.3, 0.2) for block in range(1, 19)] + [Bar(4, "4.1", 0.5, 0.4)]
    figure = Figure(
        "long " * 100,
        [panel()],
        "and " * 100,
        [Strip("s", bars)],
        Scale("title", "turbo", "none", "all 19", 19),
        "demo weights",
    )
    without = draw(Figure("h", [panel()]))
    two_strips = draw(Figure("h", [panel()], strips=[Strip("a", bars), Strip("b", bars)]))
    assert two_strips.height > draw(figure).height
    assert draw(figure).height > without.height
    assert draw(figure).width == without.width


@pytest.mark.parametrize(
    ("ratio", "text"), [(0, "0%"), (0.042, "4.2%"), (0.0994, "9.9%"), (0.0996, "10%"), (0.314, "31%"), (1, "100%")]
)
def test_percent(ratio: float, text: str) -> None:
    assert percent(ratio) == text
