"""What a reader leaves out or mends while it reads, kept in one place so that nothing is lost silently."""

from __future__ import annotations

from collections import Counter

from sptcore.data.records import Box, Dropped
from sptcore.errors import DataError

# Corners further out than this many image sides (plus 1,000 pixels) are taken for garbage (docs/faults.md, row 5).
_SIDES, _MARGIN = 4, 1000


class Ledger:
    """Collects dropped annotations and counts; with `strict`, the first dropped annotation is a DataError.

    A reader sets `image_id` as it comes to an image.
    """

    def __init__(self, file: str, strict: bool = False) -> None:
        self.file = file
        self.strict = strict
        self.image_id = -1
        self.dropped: list[Dropped] = []
        self.counts: Counter[str] = Counter()

    def drop(self, cause: str, where: str, detail: str = "", entry: int = -1) -> None:
        """Leave one annotation out. `cause` is one of a few fixed words, `detail` says what was found."""
        if self.strict:
            raise DataError(f"{cause}{': ' + detail if detail else ''}", where=f"{self.file}: {where}")
        self.dropped.append(Dropped(cause, where, detail, entry, self.image_id))

    def keep_box(self, box: Box, width: int, height: int, where: str, *, slack: float = 0.0) -> Box | None:
        """The half-open box clipped to the image, or None when it was dropped.

        A box that sticks out by more than `slack` pixels is counted as "box clipped".
        """
        x1, y1, x2, y2 = box
        limit = _SIDES * max(width, height) + _MARGIN
        if not all(-limit <= value <= limit for value in box):
            self.drop("out of range", where, f"box {_show(box)}")
        elif x1 >= x2 or y1 >= y2:
            self.drop("empty box", where, f"box {_show(box)}")
        elif x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
            self.drop("box outside the image", where, f"box {_show(box)} in an image of {width}x{height}")
        else:
            if x1 < -slack or y1 < -slack or x2 > width + slack or y2 > height + slack:
                self.counts["box clipped"] += 1
            return (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
        return None


def name_notes(names: list[str]) -> list[str]:
    """What is odd about the names of a split's images: some occur twice, or differ in case only."""
    if len(set(names)) != len(names):
        return [f"{len(names) - len(set(names))} images share their file name with another image"]
    if len({name.casefold() for name in names}) != len(names):
        return ["file names differ in upper and lower case only: some file systems cannot hold them side by side"]
    return []


def _show(box: Box) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"
