from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from sptcore.viz.pages import page, picture, section, table


def test_a_page_stands_alone_and_escapes() -> None:
    html = page(
        "<b>", "a & b", [section("<i>", picture(Image.new("RGB", (2, 2)), 'say "x"'), table(["<u>"], [["<s>"]]))]
    )
    assert "<b>" not in html
    assert "<i>" not in html
    assert "<s>" not in html
    assert "a &amp; b" in html
    assert re.search(r'src="data:image/webp;base64,[A-Za-z0-9+/=]+"', html)
    assert not re.search(r'(src|href)="(?!data:)', html)


def shown_image(html: str) -> tuple[str, bytes]:
    """Format and bytes of the one picture of a page."""
    found = re.search(r'src="data:image/([a-z]+);base64,([^"]+)"', html)
    assert found
    return found[1], base64.b64decode(found[2])


@pytest.fixture
def figure() -> Image.Image:
    """A picture as figures are: a noisy photograph, flat colours with sharp edges, white paper."""
    noise = np.random.default_rng(0).normal(scale=6, size=(400, 400, 3))
    photo = np.linspace(40, 200, 400)[None, :, None] + noise
    cells = np.kron(np.random.default_rng(1).integers(0, 2, (25, 25)), np.ones((16, 16)))[..., None]
    pixels = np.full((440, 840, 3), 255.0)
    pixels[20:420, 10:410], pixels[20:420, 430:830] = photo, cells * [200, 80, 40] + (1 - cells) * [30, 60, 160]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def test_a_picture_costs_little_and_shows_the_same(figure: Image.Image) -> None:
    kind, data = shown_image(picture(figure))
    png = io.BytesIO()
    figure.save(png, "PNG")
    assert kind == "webp"
    assert len(data) < len(png.getvalue()) / 4
    light = [np.asarray(one.convert("L"), dtype=float) for one in (figure, Image.open(io.BytesIO(data)))]
    assert 20 * np.log10(255 / np.sqrt(np.square(light[0] - light[1]).mean())) > 38


def test_a_picture_longer_than_webp_can_be_is_a_jpeg() -> None:
    kind, data = shown_image(picture(Image.new("RGB", (8, 16384))))
    assert (kind, Image.open(io.BytesIO(data)).size) == ("jpeg", (8, 16384))


def test_numbers_stand_right_and_none_is_a_dash() -> None:
    html = table(["name", "value"], [["a", 1.23456], ["b", None]])
    assert '<th class="number">value</th>' in html
    assert '<td class="number">1.235</td>' in html
    assert '<td class="number">–</td>' in html
    assert "<td>a</td>" in html
