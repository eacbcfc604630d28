"""Frames of a Scalabel file turned into records, a block at a time: what a worker reads and validates."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Raw

from sptcore.data.bdd.categories import Classes, is_ground
from sptcore.data.bdd.masks import MaskFault, outline, run_lengths
from sptcore.data.bdd.schema import Attributes, Box2D, Frame, Label, LooseFrame, Poly2D, RunLengths
from sptcore.data.bdd.sizes import USUAL, frame_size
from sptcore.data.coco.schema import coordinate_limit
from sptcore.data.format import Loaded
from sptcore.data.images import find_image
from sptcore.data.ledger import Ledger
from sptcore.data.records import Box, ImageRecord, Instance, Polygons, Rle
from sptcore.errors import DataError

GROUND_LEFT_OUT = "lane or drivable area labels left out"
SIZE_ASSUMED = f"images not there, {USUAL[0]}x{USUAL[1]} assumed"
MASK_FROM_BOX = "no mask, box used"
MAX_LABELS = 10_000  # a frame; frame n has the instance ids n * 10,000 and on
_SLACK = 1.0  # a box that ends on the last pixel ends one pixel further as a half-open box

_FRAMES = msgspec.json.Decoder(list[Frame])
_LABEL = msgspec.json.Decoder(Label)


@dataclass(frozen=True)
class Rules:
    """What all frames of a file share. `size` is that of frames which state none, None to look at their images."""

    path: Path
    top: str  # JSON path of the array of frames: "" or "frames"
    classes: Classes
    image_root: Path
    images_present: bool
    size: tuple[int, int] | None
    expects_masks: bool
    strict: bool
    follow_symlinks: bool


@dataclass(frozen=True)
class BddBlock:
    """Frames `first`, `first + 1` ... of a file as a JSON array."""

    rules: Rules
    first: int
    text: bytes

    def load(self) -> Loaded:
        """Validate the labels. Raises DataError for a faulty frame, with `strict` for a faulty label."""
        return _Loading(self).run()


class _Loading:
    """One pass over a block."""

    def __init__(self, block: BddBlock) -> None:
        self.rules = block.rules
        self.block = block
        self.ledger = Ledger(str(block.rules.path), block.rules.strict)
        self._inside: set[str] = set()

    def run(self) -> Loaded:
        records = tuple(self._record(frame, at) for at, frame in self._frames())
        return Loaded(records, tuple(self.ledger.dropped), dict(self.ledger.counts))

    def _frames(self) -> Iterator[tuple[int, Frame]]:
        """Position in the file and frame; all decoded at once where they are sound, else one by one."""
        try:
            frames: list[Frame] = _FRAMES.decode(self.block.text)
        except (msgspec.DecodeError, RecursionError):
            raws = msgspec.json.decode(self.block.text, type=list[Raw])
            frames = [self._loose_frame(raw, at) for at, raw in enumerate(raws, self.block.first)]
        return enumerate(frames, self.block.first)

    def _loose_frame(self, raw: Raw, at: int) -> Frame:
        self.ledger.image_id = at + 1
        try:
            loose = msgspec.json.decode(raw, type=LooseFrame)
        except (msgspec.DecodeError, RecursionError) as error:
            raise DataError(_reason(error), where=f"{self.rules.path}: {self._frame(at)}") from error
        labels = []
        for number, part in enumerate(loose.labels or ()):
            try:
                labels.append(_LABEL.decode(part))
            except (msgspec.DecodeError, RecursionError) as error:
                self.ledger.drop("malformed label", f"{self._frame(at)}.labels[{number}]", _reason(error))
                labels.append(Label(category=""))
        return Frame(loose.name, labels, loose.size)

    def _frame(self, at: int) -> str:
        return f"{self.rules.top}[{at}]"

    def _record(self, frame: Frame, at: int) -> ImageRecord:
        self.ledger.image_id = at + 1
        width, height = self._size(frame)
        instances, first_id = [], (at + 1) * MAX_LABELS
        if len(frame.labels or ()) >= MAX_LABELS:
            raise DataError(f"more than {MAX_LABELS - 1} labels", where=f"{self.rules.path}: {self._frame(at)}")
        for number, label in enumerate(frame.labels or ()):
            instance = self._plain_box(label, width, height, first_id + number)
            if instance is None:
                where = f"{self._frame(at)}.labels[{number}]"
                instance = self._instance(label, (width, height), where, first_id + number)
            if instance is not None:
                instances.append(instance)
        return ImageRecord(at + 1, frame.name, width, height, tuple(instances))

    def _size(self, frame: Frame) -> tuple[int, int]:
        if frame.size is not None:
            return frame.size.width, frame.size.height
        if self.rules.size is not None:
            return self.rules.size
        found = frame_size(self._image(frame.name)) if self.rules.images_present else None
        if found is None:
            self.ledger.counts[SIZE_ASSUMED] += 1
        return found or USUAL

    def _image(self, name: str) -> Path:
        """Where an image lies. Raises DataError when a link leads out of the root; every folder is looked at once."""
        root, folder = self.rules.image_root, os.path.dirname(name)
        if self.rules.follow_symlinks:
            return root / name
        if folder not in self._inside:
            find_image(root, folder or ".")
            self._inside.add(folder)
        path = root / name
        return find_image(root, name) if os.path.islink(path) else path

    def _plain_box(self, label: Label, width: int, height: int, own_id: int) -> Instance | None:
        """The object of a label that is a box inside its image and nothing else, as nearly all are; None for others.

        What it returns is what `_instance` would, at a third of the time.
        """
        box, known = label.box2d, self.rules.classes.numbers.get(label.category or "")
        if box is None or known is None or label.poly2d or label.rle or self.rules.expects_masks:
            return None
        x1, y1, x2, y2 = box.x1, box.y1, box.x2, box.y2
        if not (0.0 <= x1 <= x2 and 0.0 <= y1 <= y2 and x2 + 1.0 <= width and y2 + 1.0 <= height):
            return None
        is_crowd = known[1] or _is_crowd(label.attributes)
        return Instance(own_id, known[0], (x1, y1, x2 + 1.0, y2 + 1.0), is_crowd=is_crowd)

    def _instance(self, label: Label, size: tuple[int, int], where: str, own_id: int) -> Instance | None:
        """The object of a label; None for what is no object, or was dropped."""
        name = label.category
        known = self.rules.classes.numbers.get(name or "")
        if known is None:
            self._left_out(name, where)
            return None
        mask = self._mask(label, size, where)
        box = self._box(label.box2d, mask, size, where)
        if box is None:
            return None
        if mask is None and self.rules.expects_masks:
            self.ledger.counts[MASK_FROM_BOX] += 1
        category_id, like_crowd = known
        return Instance(own_id, category_id, box, mask, is_crowd=like_crowd or _is_crowd(label.attributes))

    def _left_out(self, name: str | None, where: str) -> None:
        if name == "":  # counted as malformed already
            return
        if name is not None and is_ground(name):
            self.ledger.counts[GROUND_LEFT_OUT] += 1
        elif name is None:
            self.ledger.drop("label without a category", where)
        else:
            self.ledger.drop("unknown category", where, repr(name[:80]))

    def _box(self, box: Box2D | None, mask: Polygons | Rle | None, size: tuple[int, int], where: str) -> Box | None:
        if box is not None:
            corners = (box.x1, box.y1, box.x2 + 1.0, box.y2 + 1.0)
            if box.x1 > box.x2 or box.y1 > box.y2:
                shown = f"x1 {box.x1:g}, x2 {box.x2:g}, y1 {box.y1:g}, y2 {box.y2:g}"
                self.ledger.drop("box with its corners swapped", f"{where}.box2d", shown)
                return None
            if box.x1 >= 0.0 and box.y1 >= 0.0 and corners[2] <= size[0] and corners[3] <= size[1]:
                return corners
            return self.ledger.keep_box(corners, *size, f"{where}.box2d", slack=_SLACK)
        if mask is not None:
            return self.ledger.keep_box(_extent(mask), *size, where, slack=_SLACK)
        self.ledger.drop("label without a box or a closed outline", where)
        return None

    def _mask(self, label: Label, size: tuple[int, int], where: str) -> Polygons | Rle | None:
        """Run lengths where the label has them, they follow from the polygons; else the closed polygons."""
        if _given(label.rle):
            try:
                return run_lengths(msgspec.json.decode(label.rle, type=RunLengths), *size)
            except (msgspec.DecodeError, RecursionError, MaskFault) as error:
                self.ledger.drop("malformed run lengths", f"{where}.rle", _reason(error))
        if not _given(label.poly2d):
            return None
        parts = []
        for number, polygon in enumerate(self._polygons(label.poly2d, where)):
            try:
                parts.append(outline(polygon, coordinate_limit(*size)))
            except MaskFault as fault:
                self.ledger.drop("malformed polygon", f"{where}.poly2d[{number}]", str(fault))
        return Polygons(parts=parts) if parts else None

    def _polygons(self, raw: Raw, where: str) -> list[Poly2D]:
        try:
            return msgspec.json.decode(raw, type=list[Poly2D])
        except (msgspec.DecodeError, RecursionError) as error:
            self.ledger.drop("malformed polygon", f"{where}.poly2d", _reason(error))
            return []


def _given(raw: Raw) -> bool:
    text = memoryview(raw)
    return bool(text.nbytes) and text != b"null"


def _is_crowd(attributes: Attributes | None) -> bool:
    return attributes is not None and (bool(attributes.crowd) or bool(attributes.ignored))


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:160]


def _extent(mask: Polygons | Rle) -> Box:
    """The tightest box around a mask."""
    if isinstance(mask, Rle):
        from pycocotools import mask as coco_mask

        x, y, w, h = coco_mask.toBbox({"size": [mask.height, mask.width], "counts": mask.counts}).tolist()
        return x, y, x + w, y + h
    xs = [x for part in mask.coordinates() for x in part[0::2]]
    ys = [y for part in mask.coordinates() for y in part[1::2]]
    return min(xs), min(ys), max(xs), max(ys)
