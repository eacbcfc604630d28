"""Pictures of what models selected in images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from sptcore.errors import UsageError
from sptcore.models.selectors import bound_note
from sptcore.progress import SILENT, Progress, track
from sptcore.runs.demo import is_demo, open_weights
from sptcore.runs.models import LoadedModel, load_model
from sptcore.viz.figures import Bar, Figure, Panel, Scale, Strip, display_size, draw, fit, percent
from sptcore.viz.heatmap import Layer, choose_layers, overlay
from sptcore.viz.looking import frame_of, label_layers, look
from sptcore.viz.pictures import Picture

DEMO_BADGE = "demo weights"
PANEL_SIDES = {1: 1280, 2: 1280, 3: 960}  # longest side of a panel by panels in a row
MANY_SIDE, MANY_COLUMNS = 480, 4


@dataclass(frozen=True)
class Look:
    """How the pictures are drawn: `blocks` sum | all | numbers, `style`, `colormap`, `opacity`, labels beside or not.

    `resolution` (longer, shorter side): what images are fitted into, by default what the model was trained for.
    """

    blocks: str = "sum"
    style: str = "heat"
    colormap: str = "turbo"
    opacity: float = 0.5
    labels: bool = False
    resolution: tuple[int, int] | None = None


@dataclass(frozen=True)
class Watcher:
    """A model that looks at images, under the name its weights are given in pictures."""

    name: str
    loaded: LoadedModel
    demo: bool


@dataclass(frozen=True)
class Seen:
    """One image and what each watcher selected in it; `labels` is what the first should have (None: not known)."""

    picture: Picture
    layers: tuple[list[Layer], ...]
    labels: list[Layer] | None
    figure: Image.Image

    def ratios(self) -> list[dict[str, float | int | str | None]]:
        """One row a block of the first watcher: its name, stride, tokens, selected, ratio, and the label's ratio."""
        rows = []
        for number, layer in enumerate(self.layers[0]):
            row: dict[str, float | int | str | None] = {
                "block": layer.name,
                "stride": layer.stride,
                "tokens": layer.inside.size,
                "selected": int(layer.inside.sum()),
                "ratio": layer.ratio,
            }
            if self.labels is not None:
                row["label_ratio"] = self.labels[number].ratio
            rows.append(row)
        return rows


def open_watchers(specs: Sequence[str], device: torch.device | str = "cpu") -> list[Watcher]:
    """The models of `specs` ("auto": last run, else the demo weights), on `device`.

    Raises DataError for weights that are not there, UsageError for a model that does not select.
    """
    watchers = []
    for spec in specs:
        run = open_weights(spec)
        loaded = load_model(run, device=device)
        if not loaded.spec.backbone.num_spa_blocks:
            raise UsageError(
                f"{loaded.spec.variant} has no block that selects, so there is nothing to show", where=str(run.weights)
            )
        watchers.append(Watcher(run.name, loaded, is_demo(run)))
    return watchers


def see(
    pictures: Sequence[Picture], watchers: Sequence[Watcher], wanted: Look, progress: Progress = SILENT
) -> Iterator[Seen]:
    """Show each picture to every watcher and draw the figure. Raises DataError for an image that cannot be read.

    `pictures` keep no pixels: each is opened anew, so that a whole data set can be walked through.
    """
    for picture in track(pictures, progress, "looking"):
        yield _see(replace(picture), watchers, wanted)


def _see(picture: Picture, watchers: Sequence[Watcher], wanted: Look) -> Seen:
    mask = picture.object_mask()
    geometries = [frame_of(one.loaded, picture.pixels, wanted.resolution, picture.padding) for one in watchers]
    layers = tuple(
        look(one.loaded, picture.pixels, geometry, mask) for one, geometry in zip(watchers, geometries, strict=True)
    )
    if wanted.labels and mask is None:
        raise UsageError(
            "--gt needs annotations, and a lone image has none", hint="name a data set: spt viz-selection DATA --gt"
        )
    labels = None if mask is None else label_layers(layers[0], mask, geometries[0])
    figure = draw_selection(picture, watchers, layers, labels, wanted)
    return Seen(picture, layers, labels, figure)


def draw_selection(
    picture: Picture,
    watchers: Sequence[Watcher],
    layers: Sequence[Sequence[Layer]],
    labels: Sequence[Layer] | None,
    wanted: Look,
) -> Image.Image:
    """The image, one panel for every group of blocks of every watcher, and with `wanted.labels` the labels beside."""
    groups = [choose_layers(mine, wanted.blocks) for mine in layers]
    count = 1 + sum(map(len, groups)) + (len(choose_layers(labels, wanted.blocks)) if wanted.labels and labels else 0)
    most = PANEL_SIDES.get(count, MANY_SIDE)
    height, width = display_size(*picture.pixels.shape[:2], most=most)
    shown = fit(picture.pixels, height, width)
    panels = [Panel(shown, "image", f"{picture.pixels.shape[1]} x {picture.pixels.shape[0]}")]
    for watcher, mine in zip(watchers, groups, strict=True):
        panels += [_panel(shown, group, _title(group, watcher, watchers), wanted) for group in mine]
    if wanted.labels and labels:
        panels += [
            _panel(shown, group, "labels" if len(group) > 1 else f"labels, block {group[0].name}", wanted)
            for group in choose_layers(labels, wanted.blocks)
        ]
    return draw(
        Figure(
            heading=picture.path.name,
            subheading="   ".join(_describe(watcher) for watcher in watchers),
            panels=panels,
            strips=_strips(watchers, layers, labels if wanted.labels else None),
            scale=_scale(wanted, layers),
            badge=DEMO_BADGE if any(watcher.demo for watcher in watchers) else "",
        ),
        columns=count if count <= max(PANEL_SIDES) else MANY_COLUMNS,
    )


def _panel(shown: np.ndarray, layers: list[Layer], title: str, wanted: Look) -> Panel:
    painted = overlay(shown, layers, style=wanted.style, colormap=wanted.colormap, opacity=wanted.opacity)
    ratio = sum(layer.ratio for layer in layers) / len(layers)
    of_what = "of the tokens" + (f", mean of {len(layers)} blocks" if len(layers) > 1 else "")
    return Panel(painted, title, f"{percent(ratio)} {of_what}")


def _scale(wanted: Look, layers: Sequence[Sequence[Layer]]) -> Scale | None:
    if wanted.style == "mask":
        return None
    if wanted.blocks != "sum":
        return Scale("the token was", wanted.colormap, "dropped", "selected", 1)
    blocks = max(len(mine) for mine in layers)
    return Scale("blocks that selected the token", wanted.colormap, "none", f"all {blocks}", blocks)


def _title(layers: list[Layer], watcher: Watcher, watchers: Sequence[Watcher]) -> str:
    what = f"block {layers[0].name}" if len(layers) == 1 else "selected"
    return what if len(watchers) == 1 else f"{what}, {watcher.name}"


def _describe(watcher: Watcher) -> str:
    spec = watcher.loaded.spec
    long_side, short_side = spec.resolution
    bound = bound_note(spec.backbone.selector)
    return f"{spec.variant}, weights {watcher.name}, trained at {long_side} x {short_side}" + (bound and f", {bound}")


def _strips(
    watchers: Sequence[Watcher], layers: Sequence[Sequence[Layer]], labels: Sequence[Layer] | None
) -> list[Strip]:
    strips = []
    for watcher, mine in zip(watchers, layers, strict=True):
        wished = [None] * len(mine) if labels is None or mine is not layers[0] else [one.ratio for one in labels]
        title = "selected tokens, by stage.block" + ("" if len(watchers) == 1 else f": {watcher.name}")
        bars = [Bar(layer.stage, layer.name, layer.ratio, wish) for layer, wish in zip(mine, wished, strict=True)]
        strips.append(Strip(title, bars))
    return strips
