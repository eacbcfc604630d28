"""The job `prepare`: unpack official archives, tell what of a data set is there, check it. Nothing is downloaded."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sptcore.data import formats
from sptcore.data.format import ReadOptions
from sptcore.data.locate import locate
from sptcore.data.prepare.archive import unpack
from sptcore.data.prepare.inspect import PartFound, Problem, SplitFound, find_parts, look_over
from sptcore.data.prepare.official import OFFICIAL
from sptcore.errors import DataError, UsageError
from sptcore.progress import SILENT, Progress

__all__ = ["PartFound", "PrepareReport", "Problem", "SplitFound", "prepare"]


@dataclass(frozen=True)
class PrepareReport:
    """What was found. `home` is the official page; `problems` are images that do not fit their annotations."""

    name: str
    format: str
    root: Path
    home: str
    parts: tuple[PartFound, ...]
    splits: tuple[SplitFound, ...]
    problems: tuple[Problem, ...]
    checked: bool
    unpacked: dict[str, int]

    @property
    def missing(self) -> tuple[PartFound, ...]:
        """Parts that every use of the set needs and that are not there."""
        return tuple(part for part in self.parts if part.state == "missing" and not part.optional)

    @property
    def problem_counts(self) -> dict[str, int]:
        """How many images have each kind of problem."""
        return dict(Counter(problem.kind for problem in self.problems))


def prepare(
    data: str,
    *,
    root: Path | None = None,
    archives: Sequence[Path] = (),
    check: bool = False,
    format: str = "auto",
    options: ReadOptions | None = None,
    progress: Progress = SILENT,
) -> PrepareReport:
    """Unpack `archives`, then look the set called `data` over: parts, counts, missing images, with `check` all headers.

    Archives go to the set's own folder below `root`, `$SPT_DATA` or `./data`. Raises DataError when there is no such
    set, naming what to get and where; UsageError for archives of a set that has no official ones.
    """
    unpacked = _unpack_all(data, root, archives, progress)
    try:
        source = locate(data, root=root, format=format, options=options)
    except DataError as error:
        raise _incomplete(data, root) or error from error
    splits, problems = look_over(source, check=check, progress=progress)
    known = formats()[source.format]
    return PrepareReport(
        name=source.name,
        format=source.format,
        root=source.root,
        home="" if data == "sample" else known.home,
        parts=() if data == "sample" else find_parts(source.format, source.root),
        splits=tuple(splits),
        problems=tuple(problems),
        checked=check,
        unpacked=unpacked,
    )


def _unpack_all(data: str, root: Path | None, archives: Sequence[Path], progress: Progress) -> dict[str, int]:
    """Unpack every archive; the number of new files of each."""
    if not archives:
        return {}
    official = OFFICIAL.get(data)
    if official is None:
        raise UsageError(f"{data!r} has no official archives", hint=f"--archive goes with: {', '.join(OFFICIAL)}")
    absent = [path for path in archives if not path.is_file()]
    if absent:
        raise DataError("the archive is missing", where=str(absent[0]), hint=f"get it from {formats()[data].home}")
    folder = _own_folder(data, root)
    return {path.name: unpack(path, folder, strip=official.strip, progress=progress) for path in archives}


def _own_folder(data: str, root: Path | None) -> Path:
    base = root or Path(os.environ.get("SPT_DATA") or "data")
    return base.expanduser() / OFFICIAL[data].folder


def _incomplete(data: str, root: Path | None) -> DataError | None:
    """What to get, when some parts of an official set are there but not enough to know it by."""
    folder = _own_folder(data, root) if data in OFFICIAL else None
    parts = find_parts(data, folder) if folder else ()
    if folder is None or not any(part.found for part in parts):
        return None
    lacking = [part for part in parts if part.state == "missing" and not part.optional]
    files = ", ".join(dict.fromkeys(part.archive for part in lacking))
    names = ", ".join(part.name for part in lacking)
    return DataError(
        f"the set is not complete: no {names}", where=str(folder), hint=f"get {files} from {formats()[data].home}"
    )
