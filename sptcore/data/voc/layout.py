"""Where things lie in a PASCAL VOC devkit, and which classes it has.

VOCdevkit/VOC2012/{Annotations,ImageSets/{Main,Segmentation},JPEGImages,SegmentationClass,SegmentationObject}
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sptcore.data.images import check_file_name, read_regular_file
from sptcore.data.records import Category
from sptcore.errors import DataError

VOC_CLASSES = frozenset(
    (
        *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    )
)
SPLIT_LISTS = ("train", "val", "test")
LIST_FOLDERS = ("Main", "Segmentation")
_CLASS_LIST = re.compile(r"(.+)_(train|val|trainval|test)\.txt")
_FLAG = re.compile(r"\s+(?:-1|0|1)$")
_NAME = re.compile(rb"<name>\s*([^<]+?)\s*</name>")


@dataclass(frozen=True)
class Home:
    """The folder of one devkit year, `VOC2012`."""

    path: Path

    @classmethod
    def find(cls, root: Path) -> Home | None:
        """The devkit year at or just below `root`: itself, `VOC2012`, `VOCdevkit/VOC2012`; the newest if several."""
        years = [entry for below in (".", "VOCdevkit") for entry in _years(root / below)]
        for candidate in (root, *years):
            if (candidate / "Annotations").is_dir() and (candidate / "ImageSets").is_dir():
                return cls(candidate)
        return None

    def list_path(self, split: str) -> Path | None:
        """The list of images of a split, in `ImageSets/Main` else `ImageSets/Segmentation`."""
        paths = [self.path / "ImageSets" / folder / f"{split}.txt" for folder in LIST_FOLDERS]
        return next((path for path in paths if path.is_file()), None)

    def splits(self) -> list[str]:
        """Those of train, val and test that have a list; `trainval` alone where there is nothing else."""
        found = [split for split in SPLIT_LISTS if self.list_path(split)]
        return found or (["trainval"] if self.list_path("trainval") else [])

    @cached_property
    def categories(self) -> tuple[Category, ...]:
        """The 20 classes of VOC, or the set's own in alphabetical order, numbered from 1.

        A set's own classes are those that have a list in `ImageSets/Main`, else those named in any annotation.
        """
        names = self._listed_classes() or self._named_classes()
        classes = VOC_CLASSES if names <= VOC_CLASSES else names
        return tuple(Category(number, name) for number, name in enumerate(sorted(classes), 1))

    def _listed_classes(self) -> set[str]:
        folder = self.path / "ImageSets" / "Main"
        entries = os.listdir(folder) if folder.is_dir() else []
        return {match[1] for entry in entries if (match := _CLASS_LIST.fullmatch(entry))}

    def _named_classes(self) -> set[str]:
        """Names of objects in all annotations: a part of an object has a `<name>` too, its class lists would tell."""
        from sptcore.data.voc.xml import parse_annotation

        names: set[str] = set()
        folder = self.path / "Annotations"
        for entry in sorted(os.listdir(folder)):
            if not entry.endswith(".xml"):
                continue
            path = folder / entry
            data = read_regular_file(path)
            if not {name.decode("utf-8", "replace") for name in _NAME.findall(data)} <= names:
                names.update(thing.name for thing in parse_annotation(data, path).objects if thing.name)
        return names


def read_list(path: Path) -> list[str]:
    """The image names of an image-set list, one a line. Raises DataError naming the line."""
    names: dict[str, int] = {}
    for number, line in enumerate(decoded_lines(path), 1):
        name = listed_name(line)
        if not name:
            continue
        if check_file_name(name) or "/" in name or name.startswith("."):
            raise DataError(f"not a plain image name: {name[:80]!r}", where=f"{path}:{number}")
        if name in names:
            raise DataError(f"image {name} is listed twice, first in line {names[name]}", where=f"{path}:{number}")
        names[name] = number
    return list(names)


def listed_name(line: str) -> str:
    """The image a line of a list names: the line without the 1, 0 or -1 that lists by class put after it."""
    return _FLAG.sub("", line.strip())


def decoded_lines(path: Path) -> list[str]:
    """The lines of a text file, their ends kept. Raises DataError with the offset of a byte that is no UTF-8."""
    data = read_regular_file(path)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"invalid UTF-8 at byte {error.start}", where=str(path)) from error
    return [line.decode() for line in data.removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True)]


def _years(folder: Path) -> list[Path]:
    return sorted(folder.glob("VOC2*"), reverse=True) if folder.is_dir() else []
