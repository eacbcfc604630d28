"""The figures as CSV, and as one HTML page that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from pathlib import Path

from sptcore import __version__
from sptcore.data.stats.figures import MEASURES, TITLES, Histogram, SetStats, coco_sizes, histograms
from sptcore.files import write_atomically

COLOURS = ("#2f6fde", "#e4572e")
ROW = 20  # pixels of height a bar takes
SHOWN = 50  # complaints of a kind on the page


def write_csv(path: Path, sets: Sequence[SetStats], *, bins: int = 20) -> None:
    """Write all four histograms, one line a bin, one column of counts a set. Raises EnvironmentFault."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["by", "label", "low", "high", *(one.name for one in sets)])
    for by in MEASURES:
        found = histograms(by, bins, sets)
        for number, label in enumerate(found[0].labels):
            edges = found[0].edges[number] or ("", "")
            writer.writerow([by, label, *edges, *(one.counts[number] for one in found)])
    write_atomically(path, stream.getvalue().encode("utf-8", "surrogateescape"))


def write_html(
    path: Path, sets: Sequence[SetStats], *, bins: int = 20, pictures: Sequence[tuple[str, bytes]] = ()
) -> None:
    """Write the page, with `pictures` (caption, JPEG) at its end. Raises EnvironmentFault."""
    from jinja2 import Environment

    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE)
    charts = [
        (TITLES[by], [_chart(one, of, place) for place, (one, of) in enumerate(zip(found, sets, strict=True))])
        for by in MEASURES
        for found in [histograms(by, bins, sets)]
    ]
    shown = [(caption, base64.b64encode(jpeg).decode("ascii")) for caption, jpeg in pictures]
    text = page.render(
        sets=sets,
        charts=charts,
        pictures=shown,
        colours=COLOURS,
        row=ROW,
        shown=SHOWN,
        sizes=coco_sizes,
        version=__version__,
    )
    write_atomically(path, text.encode("utf-8", "backslashreplace"))


def _chart(histogram: Histogram, stats: SetStats, place: int) -> dict[str, object]:
    """Bars as shares of the set's total, so that sets of different sizes can be compared."""
    total, longest = max(sum(histogram.counts), 1), max([*histogram.counts, 1])
    bars = [
        {"label": label, "count": count, "share": f"{100 * count / total:.1f} %", "width": round(360 * count / longest)}
        for label, count in zip(histogram.labels, histogram.counts, strict=True)
    ]
    return {"name": stats.name, "bars": bars, "colour": COLOURS[place % len(COLOURS)], "height": ROW * len(bars) + 4}


PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ sets | map(attribute="name") | join(" and ") }}: what is in it</title>
<style>
:root { color-scheme: light; --ink: #16191d; --soft: #667080; --line: #dfe3e8; }
body { font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink); background: #fff;
  max-width: 76rem; margin: 0 auto; padding: 2rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
.soft, text.label, text.value { color: var(--soft); fill: var(--soft); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
.sets { display: grid; grid-template-columns: repeat(auto-fit, minmax(34rem, 1fr)); gap: 1rem 2rem; }
svg { max-width: 100%; height: auto; } svg text { font-size: 12px; }
.scroll { overflow-x: auto; } code { overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>{{ sets | map(attribute="name") | join(" and ") }}</h1>
<p class="soft">Object-pixel statistics, spt {{ version }}</p>
{% for set in sets %}
<h2>{{ set.name }} <span class="soft">{{ set.format }}, {{ set.root }}</span></h2>
<div class="scroll"><table>
<tr><th>split</th><th>images</th><th>without objects</th><th>objects</th><th>mean ratio</th>
<th>under .15</th><th>under .20</th><th>under .25</th></tr>
{% for part in set.splits %}
<tr><td>{{ part.split }}</td><td>{{ part.images }}</td><td>{{ part.empty }}</td><td>{{ part.objects }}</td>
<td>{{ "%.4f" | format(part.mean_ratio) }}</td>
{% for count in part.under.values() %}<td>{{ count }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% set size = sizes(set.sides) %}
<p>Objects by box: {{ size.small }} small (under 32x32), {{ size.medium }} medium, {{ size.large }} large
(96x96 and more).</p>
{% if set.problems or set.noticed %}
<h3>Problems</h3>
{% for kind, found in set.problems.items() %}
<details><summary>{{ kind }}: {{ found | length }}</summary>
<ul>{% for one in found[:shown] %}<li><code>{{ one.what }}</code> {{ one.detail }}</li>{% endfor %}</ul>
{% if found | length > shown %}<p class="soft">and {{ found | length - shown }} more</p>{% endif %}
</details>
{% endfor %}
<ul>{% for what, count in set.noticed.items() %}<li>{{ what }}: {{ count }}</li>{% endfor %}</ul>
{% else %}
<p>No problems found.</p>
{% endif %}
{% endfor %}
{% for title, panels in charts %}
<h2>{{ title[0] | upper }}{{ title[1:] }}</h2>
<div class="sets">
{% for panel in panels %}
<figure>
{% if panels | length > 1 %}<figcaption class="soft">{{ panel.name }}</figcaption>{% endif %}
<svg role="img" aria-label="{{ title }}" width="640" height="{{ panel.height }}" viewBox="0 0 640 {{ panel.height }}">
{% for bar in panel.bars %}
{% set y = loop.index0 * row %}
<text class="label" x="150" y="{{ y + 14 }}" text-anchor="end">{{ bar.label | truncate(24, True) }}</text>
<rect x="158" y="{{ y + 3 }}" width="{{ bar.width }}" height="{{ row - 6 }}" fill="{{ panel.colour }}"/>
<text class="value" x="{{ 164 + bar.width }}" y="{{ y + 14 }}">{{ bar.count }} ({{ bar.share }})</text>
{% endfor %}
</svg>
</figure>
{% endfor %}
</div>
{% endfor %}
{% if pictures %}
<h2>Selection labels</h2>
<p class="soft">The image, then the cells an object touches, stride by stride: the labels make-labels writes.</p>
{% for caption, data in pictures %}
<figure><img alt="{{ caption }}" src="data:image/jpeg;base64,{{ data }}" style="max-width: 100%">
<figcaption class="soft">{{ caption }}</figcaption></figure>
{% endfor %}
{% endif %}
</body>
</html>
"""
