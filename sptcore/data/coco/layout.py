"""Where a COCO set keeps its annotation files and images.

Known layouts below a root: `annotations/instances_<name>.json` (or `annotations/train.json` and the like) with images
in `<name>/`, `images/<name>/`, `images/` or the root; and `<name>/_annotations.coco.json` beside its images.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sptcore.data.format import Source
from sptcore.data.records import DatasetIndex
from sptcore.errors import DataError

_BESIDE = "_annotations.coco.json"
_INSTANCES = re.compile(r"instances_(.+)\.json")
_PLAIN = re.compile(r"((?:train|val|valid|validation|test)(?:20\d\d)?)\.json")
_YEAR = re.compile(r"(.*[^\d])(20\d\d)")
_ALIASES = {"valid": "val", "validation": "val"}
PROBES = 20


def detect(root: Path) -> bool:
    """Whether an annotation file of a known layout lies below `root`."""
    return bool(_annotation_files(root))


def splits(root: Path) -> list[str]:
    """The splits below `root`, "train" and "val" first. train2017 is "train"; of two years the later one is."""
    names = _split_files(root)
    ordered = [name for name in ("train", "val") if name in names]
    return ordered + sorted(name for name in names if name not in ordered)


def annotation_file(source: Source, split: str) -> Path:
    """The annotation file of `split`. Raises DataError naming the splits there are."""
    if source.annotation is not None:
        return source.annotation
    files = _annotation_files(source.root)
    chosen = _split_files(source.root).get(split) or files.get(split)
    if chosen is None:
        found = ", ".join(splits(source.root)) or "none"
        raise DataError(f"no split {split!r} (found: {found})", where=str(source.root))
    return chosen


def annotation_stem(annotation: Path) -> str:
    """`train2017` of instances_train2017.json, `train` of train/_annotations.coco.json, else the file's stem."""
    match = _INSTANCES.fullmatch(annotation.name)
    if match:
        return match[1]
    return annotation.parent.name if annotation.name == _BESIDE else annotation.stem


def place_of_images(source: Source, split: str, annotation: Path, file_names: Sequence[str]) -> Path:
    """The folder the file names are relative to: the first known place that holds one of the first images."""
    if split in source.image_roots:
        return Path(source.image_roots[split])
    if annotation.name == _BESIDE:
        return annotation.parent
    names = dict.fromkeys([annotation_stem(annotation), split])
    places = [source.root / middle / name for name in names for middle in ("", "images")]
    places += [source.root / "images", source.root]
    for place in places:
        if any((place / name).exists() for name in file_names[:PROBES]):
            return place
    return places[0]


def relative_annotation(index: DatasetIndex) -> Path:
    """Where a subset of `index` keeps its annotation file, below its own root, in a layout `detect` knows."""
    source = index.annotation_path
    if source.name == _BESIDE:
        return Path(source.parent.name, _BESIDE)
    named = _INSTANCES.fullmatch(source.name) or (_PLAIN.fullmatch(source.name) and source.parent.name == "annotations")
    return Path("annotations", source.name if named else f"instances_{index.split}.json")


def _annotation_files(root: Path) -> dict[str, Path]:
    """Full name of a split (`train2017`) -> its file."""
    found = {}
    for path in sorted((root / "annotations").glob("*.json")):
        match = _INSTANCES.fullmatch(path.name) or _PLAIN.fullmatch(path.name)
        if match:
            found.setdefault(match[1], path)
    for path in sorted(root.glob(f"*/{_BESIDE}")):
        found.setdefault(path.parent.name, path)
    return found


def _split_files(root: Path) -> dict[str, Path]:
    files = _annotation_files(root)
    return {_short(name): files[name] for name in sorted(files)}  # a later year overwrites an earlier one


def _short(name: str) -> str:
    match = _YEAR.fullmatch(name)
    plain = match[1].rstrip("_-") if match else name
    return _ALIASES.get(plain, plain)


def subset_image_folder(index: DatasetIndex) -> Path:
    """Where the images of a subset belong, relative to its root: as in the source, else `images`."""
    annotation = index.annotation_path
    root = annotation.parent.parent
    if index.image_root != root and index.image_root.is_relative_to(root):
        return index.image_root.relative_to(root)
    return Path(annotation_stem(annotation) if _INSTANCES.fullmatch(annotation.name) else "images")
