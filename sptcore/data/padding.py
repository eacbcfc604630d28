"""IN-S: an image in the upper left of a black canvas, so that three quarters of its tokens carry nothing.

Padding (columns, rows) makes the canvas columns x rows times the size of the image, black before normalisation. Boxes
and masks keep their coordinates. Input sizes whose cells end at the image's edge keep the labels sharp: 128, 256, 448.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np

from sptcore.data.images import find_image, image_size, read_image
from sptcore.data.rasterize import on_canvas
from sptcore.data.records import DatasetIndex, ImageRecord
from sptcore.errors import DataError, UsageError
from sptcore.progress import SILENT, Progress, track

NO_PADDING = (1, 1)
_MOST = 8


def parse_padding(text: str) -> tuple[int, int]:
    """(columns, rows) of "2x2". Raises UsageError for anything but two numbers from 1 to 8."""
    match = re.fullmatch(r"([1-9])x([1-9])", text.strip().lower())
    if match is None or max(int(match[1]), int(match[2])) > _MOST:
        raise UsageError(f"no padding {text!r}", hint="columns and rows of the canvas, such as --pad 2x2")
    return int(match[1]), int(match[2])


def pad_image(image: np.ndarray, padding: tuple[int, int]) -> np.ndarray:
    """The image (H, W, C) in the upper left of a black canvas (rows * H, columns * W, C)."""
    height, width = image.shape[:2]
    canvas = np.zeros((padding[1] * height, padding[0] * width, *image.shape[2:]), image.dtype)
    canvas[:height, :width] = image
    return canvas


def pad_index(index: DatasetIndex, padding: tuple[int, int]) -> DatasetIndex:
    """The index with sizes and masks of the canvas, and the names of images that were written as PNG.

    Raises ValueError for an index that is padded already.
    """
    if index.padding != NO_PADDING:
        raise ValueError(f"the index is padded already: {index.padding}")
    records = tuple(_padded_record(index.image_root, record, padding) for record in index.records)
    return msgspec.structs.replace(index, records=records, padding=padding)


def _padded_record(root: Path, record: ImageRecord, padding: tuple[int, int]) -> ImageRecord:
    width, height = padding[0] * record.width, padding[1] * record.height
    return msgspec.structs.replace(
        record,
        file_name=_name_on_disk(root, record.file_name),
        width=width,
        height=height,
        instances=on_canvas(record, width, height),
    )


def _name_on_disk(root: Path, file_name: str) -> str:
    written = PurePosixPath(file_name).with_suffix(".png").as_posix()
    return written if not (root / file_name).exists() and (root / written).exists() else file_name


def image_mask(record: ImageRecord, padding: tuple[int, int]) -> np.ndarray:
    """Where the image itself lies on the canvas of a padded record, uint8 (H, W) of 0 and 1: the label of IN-S."""
    mask = np.zeros((record.height, record.width), np.uint8)
    mask[: record.height // padding[1], : record.width // padding[0]] = 1
    return mask


def read_canvas(
    index: DatasetIndex, record: ImageRecord, *, allow_truncated: bool = False, follow_symlinks: bool = False
) -> np.ndarray:
    """The image of a record, uint8 (H, W, 3) RGB of the record's size, padded here unless its file is padded already.

    Raises DataError for an image of any other size.
    """
    path = find_image(index.image_root, record.file_name, follow_symlinks=follow_symlinks)
    return read_on_canvas(path, record, index.padding, allow_truncated=allow_truncated)


def read_on_canvas(
    path: Path, record: ImageRecord, padding: tuple[int, int], *, allow_truncated: bool = False
) -> np.ndarray:
    """As `read_canvas`, for the file of a record."""
    canvas = (record.width, record.height)
    bare = (canvas[0] // padding[0], canvas[1] // padding[1])
    if padding == NO_PADDING or image_size(path)[:2] == canvas:
        return read_image(path, size=canvas, allow_truncated=allow_truncated)
    return pad_image(read_image(path, size=bare, allow_truncated=allow_truncated), padding)


def write_padded(
    index: DatasetIndex,
    keep: Collection[int],
    folder: Path,
    padding: tuple[int, int],
    *,
    allow_truncated: bool = False,
    follow_symlinks: bool = False,
    progress: Progress = SILENT,
) -> list[Path]:
    """Write the kept images of an index without padding into `folder`, padded, as PNG under the stem of their names.

    Returns the files. Raises DataError for an image that cannot be read, and for two that would share a file.
    """
    from PIL import Image

    ids, written = set(keep), []
    kept = [record for record in index.records if record.image_id in ids]
    _refuse_shared_stems(index, kept)
    for record in track(kept, progress, "padding images"):
        target = (folder / record.file_name).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        image = read_canvas(index, record, allow_truncated=allow_truncated, follow_symlinks=follow_symlinks)
        canvas = pad_image(image, padding)
        Image.fromarray(canvas).save(target, compress_level=6)
        written.append(target)
    return written


def _refuse_shared_stems(index: DatasetIndex, records: Collection[ImageRecord]) -> None:
    """Raise DataError for two images whose names differ in their ending only: both would be written to one PNG."""
    names: dict[PurePosixPath, str] = {}
    for record in records:
        known = names.setdefault(PurePosixPath(record.file_name).with_suffix(".png"), record.file_name)
        if known != record.file_name:
            raise DataError(
                f"{known!r} and {record.file_name!r} would be written to the same PNG", where=str(index.image_root)
            )
