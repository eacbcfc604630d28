"""Writing a part of a PASCAL VOC set in its own layout: lists filtered line by line, XML and masks byte for byte."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from sptcore.data.images import read_regular_file
from sptcore.data.records import DatasetIndex
from sptcore.data.source_file import check_marks
from sptcore.data.voc.layout import listed_name

_DEVKIT = Path("VOCdevkit")


def image_folder(index: DatasetIndex) -> Path:
    """`VOCdevkit/VOC2012/JPEGImages`, with the year of the source."""
    return _DEVKIT / _year(index) / "JPEGImages"


def write_subset(index: DatasetIndex, keep: Collection[int], out: Path) -> list[Path]:
    """Write the images whose id is in `keep` into the folder `out`: lists, XML and masks, not the images.

    Every list of the split in Main and Segmentation is filtered, those by class too. `trainval` lists hold what was
    written of train and val so far, so that writing the splits in any order gives the same files. Returns what was
    written. Raises DataError for a source file that is gone, IntegrityError for one that has changed since it was read.
    """
    home, target = index.annotation_path.parents[2], out / _DEVKIT / _year(index)
    ids = set(keep)
    names = {os.path.splitext(record.file_name)[0] for record in index.records if record.image_id in ids}
    written = _copy_all(home, target, "Annotations", [f"{name}.xml" for name in sorted(names)])
    for folder in ("SegmentationClass", "SegmentationObject"):
        masks = {Path(entry).stem: entry for entry in _listing(home / folder)}
        written += _copy_all(home, target, folder, [masks[name] for name in sorted(names & masks.keys())])
    written += _write_lists(home, target, index, names)
    check_marks(index.marks)
    return written


def _write_lists(home: Path, target: Path, index: DatasetIndex, names: set[str]) -> list[Path]:
    own = index.annotation_path.relative_to(home)
    written = [_filter(home / own, target / own, names)]
    for folder in ("Main", "Segmentation"):
        lists = _listing(home / "ImageSets" / folder)
        for entry in (entry for entry in lists if _is_list_of(entry, index.split)):
            path = Path("ImageSets", folder, entry)
            if path != own:
                written.append(_filter(home / path, target / path, names))
        if index.split in ("train", "val"):
            known = _names_in(target / "ImageSets" / folder / "train.txt")
            known |= _names_in(target / "ImageSets" / folder / "val.txt")
            for entry in (entry for entry in lists if _is_list_of(entry, "trainval")):
                path = Path("ImageSets", folder, entry)
                written.append(_filter(home / path, target / path, known))
    return written


def _is_list_of(entry: str, split: str) -> bool:
    return entry == f"{split}.txt" or entry.endswith(f"_{split}.txt")


def _filter(source: Path, target: Path, names: set[str]) -> Path:
    """Copy the lines that name one of `names`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lines = read_regular_file(source).splitlines(keepends=True)
    target.write_bytes(b"".join(line for line in lines if _name(line) in names))
    return target


def _names_in(path: Path) -> set[str]:
    return {_name(line) for line in path.read_bytes().splitlines()} if path.is_file() else set()


def _name(line: bytes) -> str:
    return listed_name(line.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace"))


def _copy_all(home: Path, target: Path, folder: str, entries: list[str]) -> list[Path]:
    """Copy files of a folder into the folder of that name, which is made when there is any."""
    here, there = home / folder, target / folder
    if entries:
        there.mkdir(parents=True, exist_ok=True)
    copies = [(here / entry, there / entry) for entry in entries]
    for path, copy in copies:
        copy.write_bytes(read_regular_file(path))
    return [copy for _, copy in copies]


def _listing(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def _year(index: DatasetIndex) -> str:
    name = index.annotation_path.parents[2].name
    return name if name.startswith("VOC2") else "VOC2012"
