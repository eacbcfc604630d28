"""The demo's report: one HTML file that stands alone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from sptcore.demo.contest import Entrant
from sptcore.files import write_atomically
from sptcore.training.config import TrainConfig
from sptcore.viz.pages import page, picture, section, table

COLUMNS = (
    "model",
    "parameters",
    "AP",
    "AP50",
    "first AP50",
    "select ratio",
    "label ratio",
    "recall",
    "backbone MMAC",
    "detector MMAC",
    "ms / image",
)


def rows(entrants: Sequence[Entrant]) -> list[list[object]]:
    """The comparison, one row a model, under COLUMNS."""
    return [
        [
            one.model,
            one.params,
            one.ap,
            one.ap50,
            one.first_ap50,
            one.select_ratio,
            one.label_ratio,
            one.recall,
            one.backbone_macs / 1e6,
            one.detector_macs / 1e6,
            one.ms_image,
        ]
        for one in entrants
    ]


def write_page(path: Path, entrants: Sequence[Entrant], heatmaps: Sequence[Path], config: TrainConfig) -> Path:
    """Publish the report at `path`: the comparison, the heat maps, the settings of the selecting model."""
    lead = (
        "Two small detectors trained side by side on the built-in sample for a few minutes. At this size nothing "
        "follows for the full models: it shows that every part works, and what it looks like."
    )
    pictures = [_open(file) for file in heatmaps]
    sections = [
        section("Side by side", table(COLUMNS, rows(entrants)), _note(config)),
        section("Where the model looks", '<div class="grid">', *pictures, "</div>"),
        section("Settings of spt-nano", f"<pre>{escape(config.to_toml())}</pre>"),
    ]
    write_atomically(path, page("spt demo", lead, sections))
    return path


def own_settings(config: TrainConfig) -> dict[str, float]:
    """The demo's settings that are not the paper's: so short a run needs stronger supervision of faster gates."""
    return {"select_loss_weight": config.select_loss_weight, "gate_lr_mult": config.gate_lr_mult}


def _note(config: TrainConfig) -> str:
    own = own_settings(config)
    return (
        '<p class="soft">Ratios and recall are of stage 3 on the validation images. Demo settings: selection loss '
        f"weight {own['select_loss_weight']:g} (paper .01), learning rate of the gates x {own['gate_lr_mult']:g} "
        "(paper x 1).</p>"
    )


def _open(file: Path) -> str:
    with Image.open(file) as image:
        return picture(image.convert("RGB"), file.stem.removesuffix("-selection"))
