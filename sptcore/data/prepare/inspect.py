"""Looking a data set over: which official parts are there, what the annotations hold, and whether the images fit."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from sptcore.data import formats
from sptcore.data.format import Source
from sptcore.data.images import find_image, image_size
from sptcore.data.locate import splits_of
from sptcore.data.padding import NO_PADDING
from sptcore.data.prepare.official import OFFICIAL, Part, layout_home
from sptcore.data.records import DatasetIndex, ImageRecord
from sptcore.errors import DataError
from sptcore.progress import SILENT, Progress, track

_THREADS = 4
_TURNED = (5, 6, 7, 8)


@dataclass(frozen=True)
class PartFound:
    """How many files of an official part are there, and where it would come from."""

    name: str
    found: int
    expected: int
    archive: str
    optional: bool

    @property
    def state(self) -> str:
        """`complete`, `partial` or `missing`."""
        return "complete" if self.found >= self.expected else "partial" if self.found else "missing"


@dataclass(frozen=True)
class Problem:
    """An image that does not fit its annotation: `kind` is one of a few fixed words."""

    kind: str
    split: str
    file_name: str
    detail: str = ""


@dataclass(frozen=True)
class SplitFound:
    """What the annotations of a split hold; `dropped` counts by cause what no other command will use either."""

    split: str
    annotation: Path
    image_root: Path
    images: int
    images_present: int
    objects: int
    classes: int
    has_masks: bool
    dropped: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find_parts(kind: str, root: Path) -> tuple[PartFound, ...]:
    """The official parts of a set of format `kind` below `root`; none for a format of a plug-in."""
    official = OFFICIAL.get(kind)
    if official is None:
        return ()
    home = layout_home(kind, root)
    return tuple(
        PartFound(part.name, _count(home, part), part.expected, part.archive, part.optional) for part in official.parts
    )


def _count(home: Path, part: Part) -> int:
    """Files in the folders of a part, or the files themselves."""
    places = sorted(home.glob(part.pattern))
    return sum(len(os.listdir(place)) if place.is_dir() else 1 for place in places)


def look_over(source: Source, *, check: bool, progress: Progress = SILENT) -> tuple[list[SplitFound], list[Problem]]:
    """Read every split; with `check`, compare the header of every image with its annotation.

    Raises DataError for a faulty annotation file.
    """
    found, problems = [], []
    for split in splits_of(source):
        progress.note(f"reading the annotations of {split}")
        index = formats()[source.format].read(source, split)
        missing = list(_missing(index))
        problems += [Problem("image missing", split, name) for name in missing]
        found.append(_split_found(index, len(missing)))
        if check:
            problems += _wrong_images(index, set(missing), source, progress)
    return found, problems


def _split_found(index: DatasetIndex, n_missing: int) -> SplitFound:
    return SplitFound(
        split=index.split,
        annotation=index.annotation_path,
        image_root=index.image_root,
        images=len(index.records),
        images_present=len(index.records) - n_missing,
        objects=sum(len(record.instances) for record in index.records),
        classes=len(index.categories),
        has_masks=index.has_masks,
        dropped=dict(Counter(dropped.cause for dropped in index.dropped)),
        counts=dict(index.counts),
        notes=index.notes,
    )


def _missing(index: DatasetIndex) -> Iterator[str]:
    """Names of images that are not there; every folder is listed once."""
    folders: dict[str, set[str]] = {}
    for record in index.records:
        folder, name = os.path.split(record.file_name)
        if folder not in folders:
            place = index.image_root / folder
            folders[folder] = set(os.listdir(place)) if place.is_dir() else set()
        if name not in folders[folder]:
            yield record.file_name


def _wrong_images(index: DatasetIndex, missing: set[str], source: Source, progress: Progress) -> list[Problem]:
    records = [record for record in index.records if record.file_name not in missing]

    follow = source.options.follow_symlinks

    def problem_of(record: ImageRecord) -> Problem | None:
        fault = image_fault(index.image_root, record, padding=source.padding, follow_symlinks=follow)
        return None if fault is None else Problem(fault[0], index.split, record.file_name, fault[1])

    with ThreadPoolExecutor(_THREADS) as pool:
        answers = pool.map(problem_of, records)
        shown = track(answers, progress, f"checking images of {index.split}", total=len(records))
        return [problem for problem in shown if problem is not None]


def image_fault(
    root: Path, record: ImageRecord, *, padding: tuple[int, int] = NO_PADDING, follow_symlinks: bool = False
) -> tuple[str, str] | None:
    """What is wrong with the image file of a record, kind and detail, by its header alone; None for nothing."""
    try:
        return _size_fault(find_image(root, record.file_name, follow_symlinks=follow_symlinks), record, padding)
    except FileNotFoundError:
        return "image missing", ""
    except DataError as error:
        return "image unreadable", error.message
    except OSError as error:
        return "image unreadable", error.strerror or str(error)


def _size_fault(path: Path, record: ImageRecord, padding: tuple[int, int]) -> tuple[str, str] | None:
    """What is wrong with an image's header: kind and detail. Raises DataError for what is no image."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise DataError("not a regular file", where=str(path))
    width, height, orientation = image_size(path)
    stated = (record.width, record.height)
    if (width, height) == stated or (width, height) == (stated[0] * padding[0], stated[1] * padding[1]):
        return None
    detail = f"{width}x{height}, its annotation says {stated[0]}x{stated[1]}"
    if (height, width) == stated and orientation in _TURNED:
        return "image turned by EXIF", f"{detail}: made on the picture as EXIF orientation {orientation} turns it"
    return "image of another size", detail
