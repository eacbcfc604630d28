"""A plan of two nano rows on the sample, four steps each: what the tests of the engine walk through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sptcore.plans.engine import Request
from sptcore.plans.schema import parse_plan

MINI = """
title = "Mini"
columns = ["label.mAP", "macs_g", "params_m", "select_ratio", "label_ratio"]

[data.small]
title = "small"
source = "coco"
task = "multilabel"
max_ratio = "0.9"
official = { train = 100, val = 10 }

[[rows]]
key = "swin"
label = "Swin"
model = "swin"
size = "t"
data = "small"
paper = { "label.mAP" = 22.4 }
paper_source = "nowhere"

[[rows]]
key = "spt"
label = "SPT"
model = "spt"
size = "t"
data = "small"
paper_ratio = 0.25

[[trends]]
kind = "follows_labels"
text = "follows"
rows = ["spt"]

[scales.smoke]
sizes = { t = "nano" }
limit = 6
differs = ["tiny"]
[scales.smoke.recipes.multilabel]
preset = "sample-multilabel"
res = "128x128"
epochs = 2
batch = 3
warmup = 1
workers = 0
log_every = 1

[scales.small]
[scales.small.recipes.multilabel]
preset = "multilabel-voc"
"""


def mini_request(home: Path, text: str = MINI, **changes: Any) -> Request:
    """The request for the miniature plan at scale smoke in the folder `home`."""
    return Request(parse_plan(text, "mini"), **{"text": text, "home": home, "device": "cpu", **changes})
