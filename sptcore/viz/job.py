"""The job `viz-selection`: look at images with models, and write pictures, a page and arrays."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sptcore.errors import EnvironmentFault, UsageError
from sptcore.files import atomic_path, write_atomically
from sptcore.progress import SILENT, Progress
from sptcore.runs.device import pick_device
from sptcore.viz.heatmap import heat_map
from sptcore.viz.pages import page, picture, section, table
from sptcore.viz.pictures import Picture
from sptcore.viz.selection import Look, Seen, Watcher, open_watchers, see

SUFFIX = "-selection.png"
PICTURE_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass(frozen=True)
class Output:
    """Where results go: `pictures` a file or a folder (None: the current one), `page` and `arrays` a file or None."""

    pictures: Path | None = None
    page: Path | None = None
    arrays: Path | None = None


@dataclass(frozen=True)
class ShownImage:
    """One image of the report: the source, the picture written, the mean ratio, one row a block."""

    image: Path
    file: Path
    ratio: float
    blocks: list[dict[str, float | int | str | None]]


@dataclass(frozen=True)
class VizReport:
    """The weights that looked, by name, whether they are the demo's, and every image in order."""

    weights: list[str]
    demo: bool
    images: list[ShownImage]


def viz_selection(
    pictures: Sequence[Picture],
    weights: Sequence[str],
    wanted: Look,
    output: Output | None = None,
    *,
    device: str = "auto",
    progress: Progress = SILENT,
) -> VizReport:
    """Show `pictures` to the models of `weights` and write one figure an image.

    Raises DataError for missing weights and unreadable images, UsageError for outputs or options that cannot be.
    """
    output = output or Output()
    paths = output_paths(pictures, output.pictures)
    watchers = open_watchers(weights, pick_device(device))
    if watchers[0].demo:
        progress.note("no run with weights: the bundled demo weights, trained on the sample, look instead")
    images, figures, arrays = [], [], {}
    for seen, path in zip(see(pictures, watchers, wanted, progress), paths, strict=True):
        save_figure(seen.figure, path)
        blocks = seen.ratios()
        ratio = sum(layer.ratio for layer in seen.layers[0]) / len(seen.layers[0])
        images.append(ShownImage(seen.picture.path, path, ratio, blocks))
        if output.page is not None:
            figures.append((seen.figure, images[-1]))
        if output.arrays is not None:
            arrays |= npz_arrays(seen, path.stem.removesuffix(Path(SUFFIX).stem))
    if output.page is not None:
        write_atomically(output.page, _page(watchers, figures))
    if output.arrays is not None:
        save_npz(output.arrays, arrays)
    return VizReport([one.name for one in watchers], any(one.demo for one in watchers), images)


def output_paths(pictures: Sequence[Picture], out: Path | None) -> list[Path]:
    """Where each figure goes: `out` itself for one image, else `<stem>-selection.png` in `out` or the current folder.

    Images of the same stem get a number. Raises UsageError when `out` is one file for several images, or an image
    itself; EnvironmentFault when the folder cannot be made.
    """
    if out is not None and out.suffix.lower() in PICTURE_SUFFIXES:
        if len(pictures) > 1:
            raise UsageError(f"one file for {len(pictures)} images", where=f"--out {out}", hint="give a folder")
        if out.resolve() == pictures[0].path.resolve():
            raise UsageError("the picture would replace the image it shows", where=f"--out {out}")
        return [out]
    folder = out or Path()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFault(f"cannot make the folder: {error.strerror}", where=str(folder)) from error
    paths: list[Path] = []
    for one in pictures:
        number, path = 1, folder / (one.path.stem + SUFFIX)
        while path in paths:
            number += 1
            path = folder / f"{one.path.stem}-{number}{SUFFIX}"
        paths.append(path)
    return paths


def save_figure(figure: Image.Image, path: Path) -> None:
    """Publish a figure, whole or not at all, in the format of its suffix."""
    with atomic_path(path) as temp:
        figure.save(temp, format=PICTURE_SUFFIXES[path.suffix.lower()], quality=92)


def npz_arrays(seen: Seen, prefix: str) -> dict[str, np.ndarray]:
    """Arrays of one image: `<prefix>/heat` float32 (H, W) at its own resolution, `<prefix>/mask_3.1` bool a block.

    With annotations also `<prefix>/label_3.1`. Masks are cut to the tokens that touch the image.
    """
    layers = seen.layers[0]
    arrays = {f"{prefix}/heat": heat_map(layers, *seen.picture.pixels.shape[:2])}
    arrays |= {f"{prefix}/mask_{layer.name}": layer.inside for layer in layers}
    return arrays | {f"{prefix}/label_{layer.name}": layer.inside for layer in seen.labels or ()}


def save_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Publish arrays as a compressed .npz file, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def _page(watchers: Sequence[Watcher], figures: Sequence[tuple[Image.Image, ShownImage]]) -> str:
    names = ", ".join(f"{one.loaded.spec.variant} ({one.name})" for one in watchers)
    sections = [
        section(
            image.image.name,
            picture(figure),
            table(list(image.blocks[0]), [list(row.values()) for row in image.blocks]),
        )
        for figure, image in figures
    ]
    return page("Selected tokens", f"{len(figures)} images, seen by {names}", sections)
