"""From what a person names (an image, a folder, a pattern, a data set) to images, with their objects where known."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sptcore.data.images import find_image, read_image
from sptcore.data.locate import open_index
from sptcore.data.padding import NO_PADDING, image_mask, read_on_canvas
from sptcore.data.rasterize import touch_mask
from sptcore.data.records import ImageRecord
from sptcore.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"})


@dataclass(frozen=True)
class Reading:
    """How a data set and its images are read: the options every command has that reads data."""

    split: str = "val"
    root: Path | None = None
    ann: Path | None = None
    format: str = "auto"
    strict: bool = False
    follow_symlinks: bool = False
    allow_truncated: bool = False
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Picture:
    """An image file, with its record where it belongs to a data set; `padding`: columns and rows of its canvas."""

    path: Path
    record: ImageRecord | None = None
    allow_truncated: bool = False
    padding: tuple[int, int] = NO_PADDING

    @cached_property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB. Raises DataError for a file that is missing, broken or not of its annotation's size."""
        if self.record is None:
            return read_image(self.path, allow_truncated=self.allow_truncated)
        return read_on_canvas(self.path, self.record, self.padding, allow_truncated=self.allow_truncated)

    def object_mask(self) -> np.ndarray | None:
        """(H, W) uint8: the pixels that selection labels are made from; None for an image without annotations."""
        if self.record is None:
            return None
        return touch_mask(self.record) if self.padding == NO_PADDING else image_mask(self.record, self.padding)


def find_pictures(
    source: str, reading: Reading, *, limit: int | None = None, of_data: int | None = None
) -> list[Picture]:
    """The images that `source` names: a file, a pattern, a folder of images, or else a data set; the first `limit`.

    Without `limit` it is all of them, but the first `of_data` of a data set.
    Raises DataError when nothing is there, saying where it was looked for.
    """
    path = Path(source)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return [Picture(path, allow_truncated=reading.allow_truncated)]
    if glob.has_magic(source) and not path.exists():
        return _lone(sorted(map(Path, glob.glob(source, recursive=True))), source, reading)[:limit]
    if path.suffix.lower() in SUFFIXES:
        raise DataError("no such image", where=source)
    if path.is_dir() and reading.ann is None:
        found = [one for one in sorted(path.iterdir()) if one.suffix.lower() in SUFFIXES]
        if found:
            return _lone(found, source, reading)[:limit]
        if not any(path.iterdir()):
            raise DataError("the folder is empty", where=source, hint="name an image, a folder of images or a data set")
    if path.is_file() and reading.format == "auto" and not _may_annotate(path):
        hint = f"images end in {', '.join(sorted(SUFFIXES))}"
        raise DataError("neither an image nor an annotation file", where=source, hint=hint)
    return _of_data(source, reading, of_data if limit is None else limit)


def _may_annotate(path: Path) -> bool:
    """Whether a file can list the objects of images: JSON, or a list of VOC's."""
    return path.suffix.lower() == ".json" or "ImageSets" in path.absolute().parts


def _lone(paths: Sequence[Path], source: str, reading: Reading) -> list[Picture]:
    images = [path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not images:
        raise DataError("no image there", where=source, hint=f"images end in {', '.join(sorted(SUFFIXES))}")
    return [Picture(path, allow_truncated=reading.allow_truncated) for path in images]


def _of_data(source: str, reading: Reading, limit: int | None) -> list[Picture]:
    options: dict[str, Any] = {"root": reading.root, "ann": reading.ann, "format": reading.format}
    index = open_index(
        source,
        reading.split,
        strict=reading.strict,
        follow_symlinks=reading.follow_symlinks,
        size=reading.size,
        **options,
    )
    if not index.records:
        raise DataError("no image in this split", where=str(index.annotation_path))
    return [
        Picture(
            find_image(index.image_root, record.file_name, follow_symlinks=reading.follow_symlinks),
            record,
            reading.allow_truncated,
            index.padding,
        )
        for record in index.records[:limit]
    ]
