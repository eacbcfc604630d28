"""Which task a data set is for, when nobody says: the one its format was made for."""

from __future__ import annotations

from pathlib import Path

from sptcore.data.locate import locate
from sptcore.errors import SptError

_BY_FORMAT = {"tiny-imagenet": "classify"}


def task_for(data: str, *, root: Path | None = None, ann: Path | None = None, format: str = "auto") -> str:
    """classify for images with one class each, detect for everything else, the built-in sample among it.

    A set that is not found counts as detect; whoever opens it says that it is not there.
    """
    if data == "sample" and format == "auto":
        return "detect"
    if data in _BY_FORMAT or format in _BY_FORMAT:
        return _BY_FORMAT.get(format) or _BY_FORMAT[data]
    try:
        found = locate(data, root=root, ann=ann, format=format).format
    except SptError:
        return "detect"
    return _BY_FORMAT.get(found, "detect")
