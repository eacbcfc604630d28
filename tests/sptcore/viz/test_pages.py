from __future__ import annotations

import re

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
    assert re.search(r'src="data:image/png;base64,[A-Za-z0-9+/=]+"', html)
    assert not re.search(r'(src|href)="(?!data:)', html)


def test_numbers_stand_right_and_none_is_a_dash() -> None:
    html = table(["name", "value"], [["a", 1.23456], ["b", None]])
    assert '<th class="number">value</th>' in html
    assert '<td class="number">1.235</td>' in html
    assert '<td class="number">–</td>' in html
    assert "<td>a</td>" in html
