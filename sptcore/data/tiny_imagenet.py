"""Tiny ImageNet (Stanford CS231n): 64x64 images of 200 classes, each with one box.

    wnids.txt  words.txt  train/WNID/{images/*.JPEG,WNID_boxes.txt}  val/{images/*.JPEG,val_annotations.txt}

Boxes are 0-based and inclusive, so x2 and y2 grow by one and a box of one pixel has x1 = x2 in the file. A class is its
place in wnids.txt, from 0. Every line is checked, and a faulty one is an error that names it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sptcore.data.format import Source
from sptcore.data.images import check_file_name, read_regular_file
from sptcore.data.records import Box, Category, DatasetIndex, ImageRecord, Instance
from sptcore.data.source_file import Mark, check_marks
from sptcore.errors import DataError

SIDE = 64
_IMAGES_A_CLASS = 10_000  # image 17 of class 3 has the id 4 * 10,000 + 17
_TRAIN_NAME = re.compile(r"n\d+_(\d{1,4})\.\w+")
_VAL_NAME = re.compile(r"val_(\d{1,9})\.\w+")
_VAL_FILE = "val_annotations.txt"


def detect(root: Path) -> bool:
    """Whether `root` holds Tiny ImageNet."""
    return (root / "wnids.txt").is_file() and bool(splits(root))


def splits(root: Path) -> list[str]:
    """Those of train and val that are there; the test images have no labels."""
    found = {"train": (root / "train").is_dir(), "val": (root / "val" / _VAL_FILE).is_file()}
    return [split for split, is_there in found.items() if is_there]


def read(source: Source, split: str) -> DatasetIndex:
    """All images of a split: by class in the order of wnids.txt for train, in the order of the file for val.

    Raises DataError naming file and line for anything unexpected.
    """
    if source.annotation is not None:
        raise DataError("Tiny ImageNet is a folder, not one file", where=str(source.annotation), hint="use --root DIR")
    if split not in splits(source.root):
        found = ", ".join(splits(source.root)) or "none"
        raise DataError(f"no split {split!r} (found: {found})", where=str(source.root))
    reading = _Reading(source, split)
    lines = list(reading.train_lines() if split == "train" else reading.val_lines())
    reading.refuse_repeated(lines)
    ids = _image_ids(lines, _TRAIN_NAME if split == "train" else _VAL_NAME)
    return DatasetIndex(
        format="tiny-imagenet",
        split=split,
        annotation_path=source.root,
        image_root=reading.image_root,
        categories=reading.categories,
        records=tuple(reading.record(line, ids[at], at + 1) for at, line in enumerate(lines)),
        source_sha256=reading.digest.hexdigest(),
        marks=reading.marks,
    )


def image_folder(index: DatasetIndex) -> Path:
    """`train` or `val`: file names go on with the class and `images`."""
    return Path(index.split)


def write_subset(index: DatasetIndex, keep: Collection[int], out: Path) -> list[Path]:
    """Write the lines of the kept images into `out`, byte for byte; wnids.txt and words.txt stay whole.

    Every class keeps its number, and its box file, empty if need be. Raises DataError for a source file that is gone,
    IntegrityError for one that has changed since it was read.
    """
    root, ids = index.annotation_path, set(keep)
    kept = {Path(record.file_name).name for record in index.records if record.image_id in ids}
    written = [_filter(root, out, Path(name), None) for name in ("wnids.txt", "words.txt") if (root / name).is_file()]
    if index.split == "val":
        written.append(_filter(root, out, Path("val", _VAL_FILE), kept))
    else:
        wnids = _wnids(root / "wnids.txt")
        written += [_filter(root, out, Path("train", wnid, f"{wnid}_boxes.txt"), kept) for wnid in wnids]
    check_marks(index.marks)
    return written


@dataclass(frozen=True)
class _Line:
    """A checked line of a box file."""

    where: str
    class_id: int
    file_name: str
    box: Box

    @property
    def name(self) -> str:
        return self.file_name.rsplit("/", 1)[-1]


@dataclass
class _Reading:
    """One pass over a split."""

    source: Source
    split: str
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    marks: dict[str, Mark] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root = self.source.root
        self.image_root = Path(self.source.image_roots.get(self.split, self.root / self.split))
        self.size = self.source.options.size or (SIDE, SIDE)
        self.wnids = _wnids(self.root / "wnids.txt", self.marks)
        self.digest.update("\n".join(self.wnids).encode())
        self._class_ids = {wnid: number for number, wnid in enumerate(self.wnids)}
        self.categories = _categories(self.root, self.wnids, self.marks)

    def train_lines(self) -> Iterator[_Line]:
        for number, wnid in enumerate(self.wnids):
            folder = self.root / "train" / wnid
            path = folder / f"{wnid}_boxes.txt"
            if not path.is_file():
                raise DataError(
                    f"no box file for class {wnid}: {path}", where=f"{self.root / 'wnids.txt'}:{number + 1}"
                )
            present = self._present(Path(wnid, "images"))
            for where, fields in self._fields(path, 5):
                name = _checked_name(fields[0], where, present)
                yield _Line(where, number, f"{wnid}/images/{name}", self._box(fields[1:], where))

    def val_lines(self) -> Iterator[_Line]:
        present = self._present(Path("images"))
        for where, fields in self._fields(self.root / "val" / _VAL_FILE, 6):
            name = _checked_name(fields[0], where, present)
            class_id = self._class_ids.get(fields[1])
            if class_id is None:
                raise DataError(f"class {fields[1][:40]!r} is not in wnids.txt", where=where)
            yield _Line(where, class_id, f"images/{name}", self._box(fields[2:], where))

    def _present(self, folder: Path) -> dict[str, str] | None:
        """The images of a folder: stem -> name; None where there is no such folder and nothing can be missing."""
        path = self.image_root / folder
        return {os.path.splitext(name)[0]: name for name in sorted(os.listdir(path))} if path.is_dir() else None

    def _fields(self, path: Path, count: int) -> Iterator[tuple[str, list[str]]]:
        data = read_regular_file(path, self.marks)
        self.digest.update(data)
        for number, line in enumerate(data.splitlines(), 1):
            where = f"{path}:{number}"
            try:
                fields = line.decode("utf-8").split("\t")
            except UnicodeDecodeError as error:
                raise DataError("invalid UTF-8", where=where) from error
            if len(fields) != count:
                raise DataError(f"{len(fields)} fields separated by tabs instead of {count}", where=where)
            yield where, fields

    def _box(self, fields: list[str], where: str) -> Box:
        if not all(re.fullmatch(r"\d{1,5}", text.strip()) for text in fields):
            raise DataError(f"a box is four numbers from 0: {' '.join(fields)[:60]!r}", where=where)
        x1, y1, x2, y2 = (int(text) for text in fields)
        width, height = self.size
        if x1 > x2 or y1 > y2 or x2 >= width or y2 >= height:
            raise DataError(f"box [{x1}, {y1}, {x2}, {y2}] is no part of an image of {width}x{height}", where=where)
        return float(x1), float(y1), x2 + 1.0, y2 + 1.0

    def refuse_repeated(self, lines: list[_Line]) -> None:
        counts = Counter(line.file_name for line in lines)
        again = next((line for line in reversed(lines) if counts[line.file_name] > 1), None)
        if again is not None:
            raise DataError(f"{again.file_name} is listed twice", where=again.where)

    def record(self, line: _Line, image_id: int, instance_id: int) -> ImageRecord:
        instance = Instance(instance_id, line.class_id, line.box)
        return ImageRecord(image_id, line.file_name, *self.size, (instance,), line.class_id)


def _checked_name(name: str, where: str, present: dict[str, str] | None) -> str:
    """The image's name on the disk, where it may end in .png instead. Raises DataError when it is not there."""
    if check_file_name(name) or "/" in name:
        raise DataError(f"not a plain image name: {name[:80]!r}", where=where)
    if present is None:
        return name
    found = present.get(os.path.splitext(name)[0])
    if found is None:
        raise DataError(f"the image {name} is missing", where=where)
    return found


def _image_ids(lines: list[_Line], pattern: re.Pattern[str]) -> list[int]:
    """Ids from the official names, the same in every subset; the place in the split where a name is of another kind."""
    numbers = [pattern.fullmatch(line.name) for line in lines]
    if not all(numbers):
        return list(range(1, len(lines) + 1))
    if pattern is _VAL_NAME:
        return [int(match[1]) for match in numbers if match]
    return [(line.class_id + 1) * _IMAGES_A_CLASS + int(m[1]) for line, m in zip(lines, numbers, strict=True) if m]


def _wnids(path: Path, marks: dict[str, Mark] | None = None) -> list[str]:
    """The WordNet ids of the classes, in the order that numbers them."""
    wnids: list[str] = []
    for number, line in enumerate(read_regular_file(path, marks).splitlines(), 1):
        wnid = line.decode("utf-8", "replace").strip()
        if not re.fullmatch(r"n\d{1,12}", wnid) or wnid in wnids:
            what = "listed twice" if wnid in wnids else "no WordNet id such as n01698640"
            raise DataError(f"{wnid[:40]!r} is {what}", where=f"{path}:{number}")
        wnids.append(wnid)
    return wnids


def _categories(root: Path, wnids: list[str], marks: dict[str, Mark]) -> tuple[Category, ...]:
    """Classes by the first of their names in words.txt, by their WordNet id where they have none or share it."""
    words: dict[str, str] = {}
    if (root / "words.txt").is_file():
        for line in read_regular_file(root / "words.txt", marks).decode("utf-8", "replace").splitlines():
            wnid, _, names = line.partition("\t")
            words[wnid] = names.split(",")[0].strip()
    names = [words.get(wnid) or wnid for wnid in wnids]
    counts = Counter(names)
    unique = [name if counts[name] == 1 else wnid for name, wnid in zip(names, wnids, strict=True)]
    return tuple(Category(number, name) for number, name in enumerate(unique))


def _filter(root: Path, out: Path, path: Path, names: set[str] | None) -> Path:
    """Copy a text file, only the lines that begin with one of `names` (by stem) if given."""
    target = out / path
    target.parent.mkdir(parents=True, exist_ok=True)
    data = read_regular_file(root / path)
    if names is not None:
        stems = {os.path.splitext(name)[0] for name in names}
        data = b"".join(line for line in data.splitlines(keepends=True) if _stem(line) in stems)
    target.write_bytes(data)
    return target


def _stem(line: bytes) -> str:
    return os.path.splitext(line.split(b"\t")[0].decode("utf-8", "replace"))[0]
