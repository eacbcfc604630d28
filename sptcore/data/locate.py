"""Where a data set lies: from what a person types to a Source, and from there to records.

A name is looked up below `--root`, `$SPT_DATA`, `./data` and `.`; a path is taken as it is; a folder that make-sparse
wrote is known by its manifest, which keeps where the images are. A name that is not found is an error that tells where
we looked, never another set.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sptcore.data import formats
from sptcore.data.format import Format, ReadOptions, Source
from sptcore.data.padding import NO_PADDING, pad_index, parse_padding
from sptcore.data.records import DatasetIndex
from sptcore.errors import DataError, UsageError, did_you_mean

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = "spt.sparse-set/1"
SNIFFED = 4096
_SPLIT = re.compile(r"(?<![a-z])(?:train|val|test)")  # of instances_val2017, not of constrained


@dataclass(frozen=True)
class Place:
    """How a person may narrow the search: `--root`, `--ann`, `--format`, and how the set is to be read."""

    root: Path | None
    ann: Path | None
    format: str
    options: ReadOptions


def locate(
    data: str | Path,
    *,
    root: Path | str | None = None,
    ann: Path | str | None = None,
    format: str = "auto",
    options: ReadOptions | None = None,
) -> Source:
    """The data set called `data`: a format's name, `sample`, a name below a data root, a folder or an annotation file.

    Raises DataError when it is not found or its format is not known, UsageError for an unknown format.
    """
    if format != "auto" and format not in formats():
        raise UsageError(f"no format {format!r}", hint=did_you_mean(format, formats()) or f"one of: {_names()}")
    place = Place(_path(root), _path(ann), format, options or ReadOptions())
    if place.ann is not None:
        source = _by_annotation(str(data), place.ann, place)
    elif data == "sample":
        source = _sample(place)
    else:
        source = _by_path(Path(data), place) if _is_path(str(data)) else _by_name(str(data), place)
    return replace(source, options=place.options)


def open_index(
    data: str | Path,
    split: str,
    *,
    root: Path | str | None = None,
    ann: Path | str | None = None,
    format: str = "auto",
    strict: bool = False,
    follow_symlinks: bool = False,
    size: tuple[int, int] | None = None,
) -> DatasetIndex:
    """All records of a split ("train", "val") of a data set.

    Raises DataError when it is not found or invalid; with `strict` for the first annotation that would be left out.
    """
    options = ReadOptions(strict=strict, follow_symlinks=follow_symlinks, size=size)
    return read_split(locate(data, root=root, ann=ann, format=format, options=options), split)


def read_split(source: Source, split: str) -> DatasetIndex:
    """All records of a split of a located set, on their canvas where the set is a padded one. Raises DataError."""
    index = formats()[source.format].read(source, split)
    return index if source.padding == NO_PADDING else pad_index(index, source.padding)


def splits_of(source: Source) -> list[str]:
    """The splits of a located set, "train" and "val" first; one for a lone annotation file."""
    if source.annotation is None:
        return formats()[source.format].splits(source.root)
    named = _SPLIT.search(source.annotation.stem.lower())
    return [named[0] if named else "train"]


def search_roots(root: Path | None = None) -> list[Path]:
    """The folders names are looked up in, in order."""
    named = [root, _path(os.environ.get("SPT_DATA") or None), Path("data"), Path()]
    return list(dict.fromkeys(folder for folder in named if folder is not None))


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder that make-sparse wrote, None for any other folder. Raises DataError when damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None  # a manifest of something else
    if not isinstance(manifest, dict) or not str(manifest.get("schema", "")).startswith("spt.sparse-set/"):
        return None
    if manifest["schema"] != MANIFEST_SCHEMA or not isinstance(manifest.get("splits"), dict):
        raise DataError(f"a manifest this version does not know ({manifest['schema']})", where=str(path))
    return manifest


def _by_path(path: Path, place: Place) -> Source:
    if path.is_file():
        return _by_annotation(str(path), path, place)
    if not path.is_dir():
        raise DataError("no such folder or file", where=str(path), hint="give a data set's name, folder or file")
    source = _in_folder(path.name or path.resolve().name, path, place)
    if source is None:
        raise _unknown_layout(path, place)
    return source


def _by_name(name: str, place: Place) -> Source:
    looked = []
    for folder in _candidates(name, place):
        looked.append(folder)
        source = _in_folder(name, folder, _narrowed(name, place)) if folder.is_dir() else None
        if source is not None:
            return source
    raise _not_found(name, looked, place)


def _candidates(name: str, place: Place) -> Iterator[Path]:
    known = formats().get(name)
    for base in search_roots(place.root):
        yield base / name
        if known is not None:
            yield from (base / folder for folder in known.folders if folder != name)
            if read_manifest(base) is None:
                yield base


def _narrowed(name: str, place: Place) -> Place:
    """A format's own name also says the format."""
    return replace(place, format=name) if place.format == "auto" and name in formats() else place


def _in_folder(name: str, folder: Path, place: Place) -> Source | None:
    """The set at `folder`, None when it is of no known layout."""
    manifest = read_manifest(folder)
    if manifest is not None:
        return _sparse_set(folder, manifest, place)
    table = formats() if place.format == "auto" else {place.format: formats()[place.format]}
    found = next((known for known in table.values() if known.detect(folder)), None)
    return None if found is None else Source(name, found.name, folder)


def _sparse_set(folder: Path, manifest: dict[str, Any], place: Place) -> Source:
    """A set written by make-sparse: its images lie below it, or where its manifest says."""
    where = str(folder / MANIFEST)
    kind, origin = manifest.get("format"), manifest.get("origin")
    if kind not in formats():
        raise DataError(f"the manifest names a format that is not installed: {kind!r}", where=where)
    if not isinstance(origin, dict) or not all(isinstance(part, dict) for part in manifest["splits"].values()):
        raise DataError("the manifest is damaged", where=where, hint="write the set again with make-sparse")
    roots = {}
    for split, part in manifest["splits"].items():
        image_root = part.get("image_root")
        if isinstance(image_root, str):
            roots[split] = (folder / image_root).absolute() if not os.path.isabs(image_root) else Path(image_root)
    base, pad = origin.get("root"), manifest.get("pad")
    padding = parse_padding(pad) if isinstance(pad, str) else NO_PADDING
    above = _path(base) if isinstance(base, str) else None
    return Source(folder.resolve().name, kind, folder, None, above, roots, padding=padding)


def _by_annotation(name: str, annotation: Path, place: Place) -> Source:
    if not annotation.exists():
        raise DataError("the annotation file is missing", where=str(annotation))
    kind = place.format
    if kind == "auto":
        kind = name if name in formats() else _sniff(annotation)
    root = _root_of_annotation(name, annotation, formats()[kind], place)
    label = name if name in formats() or Path(name).is_dir() else annotation.stem
    return Source(label, kind, root, annotation)


def _root_of_annotation(name: str, annotation: Path, kind: Format, place: Place) -> Path:
    """The folder of the set that a file given with `--ann` belongs to: its images lie below it.

    The folder that `data` names, else the set of that name below `--root`, else the layout the file itself lies in.
    """
    if place.root is None and Path(name).is_dir():
        return Path(name)
    if place.root is not None:
        below = (folder for folder in _candidates(name, place) if folder.is_relative_to(place.root))
        return next((folder for folder in (place.root, *below) if kind.detect(folder)), place.root)
    found = _layout_above(annotation, kind)
    if found is None and name == kind.name:
        found = next((folder for folder in _candidates(name, place) if kind.detect(folder)), None)
    return found or _folder_above(annotation)


def _layout_above(annotation: Path, kind: Format) -> Path | None:
    """The nearest folder above a file that holds a known layout."""
    return next((folder for folder in annotation.absolute().parents[:4] if kind.detect(folder)), None)


def _folder_above(annotation: Path) -> Path:
    """The folder that a file's folder `annotations` lies in, else its own."""
    above = annotation.absolute().parents
    return above[1] if above[0].name == "annotations" else above[0]


def _sniff(annotation: Path) -> str:
    """The format of what `--ann` names, by its suffix and its first bytes."""
    if annotation.suffix == ".txt" and "ImageSets" in annotation.parts:
        return "voc"
    if annotation.is_dir():  # of bitmasks: the other formats take a file
        return "bdd"
    with annotation.open("rb") as stream:
        head = stream.read(SNIFFED)
    looks_like_frames = b'"frames"' in head or (head.lstrip()[:1] == b"[" and b'"name"' in head)
    return "bdd" if looks_like_frames and "bdd" in formats() else "coco"


def _sample(place: Place) -> Source:
    from sptcore.data.sample import FOLDERS, sample_root

    layout = "coco" if place.format == "auto" else place.format
    if layout not in FOLDERS:
        raise UsageError(f"the sample has no layout {layout!r}", hint=f"one of: {', '.join(FOLDERS)}")
    return Source("sample", layout, sample_root(layout) / FOLDERS[layout])


def _is_path(data: str) -> bool:
    """A word with a separator, or one that names a file or folder here and is no data name."""
    return os.sep in data or data in (".", "..") or (data not in formats() and Path(data).exists())


def _path(value: Path | str | None) -> Path | None:
    return None if value is None else Path(value).expanduser()


def _names() -> str:
    return ", ".join(formats())


def _unknown_layout(path: Path, place: Place) -> DataError:
    wanted = formats().values() if place.format == "auto" else [formats()[place.format]]
    layouts = "; ".join(f"{known.title}: {known.layout}" for known in wanted)
    return DataError("no data set of a known layout here", where=str(path), hint=f"looked for {layouts}")


def _not_found(name: str, looked: list[Path], place: Place) -> DataError:
    known: Format | None = formats().get(name)
    folders = ", ".join(dict.fromkeys(str(folder) for folder in looked))
    if known is None:
        hint = did_you_mean(name, [*formats(), "sample"]) or f"names: {_names()}, sample; or give a path"
    else:
        hint = f"get it from {known.home} ({known.layout}), then: --root DIR, or SPT_DATA=DIR"
    return DataError(f"the data set {name!r} is not found", where=f"looked in {folders}", hint=hint)
