"""HTML pages that stand alone: no script, no font, no picture outside the one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image

WEBP_MOST_SIDE = 16383  # pixels; the format has no more
STYLE = """
:root { color-scheme: light; --ink: #16191d; --soft: #667080; --line: #dfe3e8; --accent: #2f6fde; }
* { box-sizing: border-box; }
body { font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink); margin: 0 auto;
  max-width: 76rem; padding: 2rem 1.5rem 4rem; background: #fff; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
p.lead, figcaption, .soft { color: var(--soft); }
figure { margin: 0 0 1.5rem; } figure img, figure svg { max-width: 100%; height: auto; border-radius: 4px; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1rem 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92em; }
th, td { padding: .3rem .9rem .3rem 0; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); } td.number, th.number { text-align: right; }
pre { background: #f5f7f9; padding: 1rem; overflow-x: auto; border-radius: 6px; font-size: .85em; }
details summary { cursor: pointer; color: var(--accent); }
"""


def page(title: str, lead: str, sections: Iterable[str]) -> str:
    """A whole document; `sections` are HTML, `title` and `lead` plain text."""
    body = "\n".join(sections)
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<style>{STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n'
        f"{body}\n</body>\n</html>\n"
    )


def section(heading: str, *parts: str) -> str:
    """A heading and what stands under it (HTML)."""
    return f"<section>\n<h2>{escape(heading)}</h2>\n" + "\n".join(parts) + "\n</section>"


def picture(image: Image.Image, caption: str = "") -> str:
    """An image inside the page: WebP, a seventh of a PNG's bytes and closer to it than a JPEG of twice its size."""
    buffer = io.BytesIO()
    kind = "webp" if max(image.size) <= WEBP_MOST_SIDE else "jpeg"
    image.save(buffer, format=kind, quality=90, **({"method": 6} if kind == "webp" else {}))
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img alt="{escape(caption)}" src="data:image/{kind};base64,{data}">{note}</figure>'


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; columns that hold numbers only stand right, None is a dash."""
    cells = [list(row) for row in rows]
    numeric = [
        bool(cells) and all(isinstance(row[place], (int, float, type(None))) for row in cells)
        for place in range(len(columns))
    ]
    marks = [' class="number"' if one else "" for one in numeric]
    head = "".join(f"<th{mark}>{escape(name)}</th>" for mark, name in zip(marks, columns, strict=True))
    lines = [
        "<tr>"
        + "".join(f"<td{mark}>{escape(text(cell))}</td>" for mark, cell in zip(marks, row, strict=True))
        + "</tr>"
        for row in cells
    ]
    return (
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def text(value: object) -> str:
    """One value as a page shows it: floats with four significant digits."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
