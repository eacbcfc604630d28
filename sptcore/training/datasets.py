"""Records, image files and selection labels, made into samples in the frame of the network."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from sptcore.data.padding import NO_PADDING, read_canvas
from sptcore.data.records import DatasetIndex, ImageRecord
from sptcore.labels.geometry import Geometry, whole_image
from sptcore.labels.store import LabelStore
from sptcore.training.appearance import Appearance
from sptcore.training.augment import draw_geometry
from sptcore.training.config import TrainConfig
from sptcore.training.sampler import Draw, image_generator
from sptcore.training.targets import TargetRule

Grids = dict[int, np.ndarray]
GeometryRule = Callable[[ImageRecord, Draw], Geometry]


@dataclass(frozen=True)
class DrawnGeometry:
    """The augmentation of training, a function of (seed, epoch, image index)."""

    config: TrainConfig
    padding: tuple[int, int] = NO_PADDING

    def __call__(self, record: ImageRecord, draw: Draw) -> Geometry:
        generator = image_generator(self.config.seed, draw)
        return draw_geometry(self.config, record.width, record.height, generator, self.padding)


@dataclass(frozen=True)
class WholeImage:
    """The whole image fitted into `res`, as evaluation sees it."""

    res: tuple[int, int]
    padding: tuple[int, int] = NO_PADDING

    def __call__(self, record: ImageRecord, draw: Draw) -> Geometry:
        return whole_image(record.width, record.height, self.res, self.padding)


class PackedRecords(Sequence[ImageRecord]):
    """Records in one block of bytes, so that loading processes share it instead of copying objects page by page."""

    def __init__(self, records: Iterable[ImageRecord]) -> None:
        parts = [pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL) for record in records]
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(parts), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        number = range(len(self))[index]
        first = int(self._ends[number - 1]) if number else 0
        return pickle.loads(self._bytes[first : int(self._ends[number])].data)


@dataclass(frozen=True, eq=False)
class Sample:
    """One image in the frame of the network, as arrays: `image` (h, w, 3) uint8, boxes, labels, masks, label grids."""

    image: np.ndarray
    image_id: int
    original_size: tuple[int, int]
    target: dict[str, np.ndarray]
    grids: Grids | None


class ImageDataset:
    """The images of a split in the frame of the network.

    `strides`: grids of selection labels to look up in `labels`; None of both without selection. `targets`: what is to
    be learned of an image; None gives no targets (evaluation). `appearance` alters the pixels in training. Images of a
    padded set lie on their canvas, whether their files do or not.
    """

    def __init__(
        self,
        index: DatasetIndex,
        geometry: GeometryRule,
        *,
        labels: LabelStore | None = None,
        strides: Sequence[int] = (),
        targets: TargetRule | None = None,
        appearance: Appearance | None = None,
        allow_truncated: bool = False,
        follow_symlinks: bool = False,
    ) -> None:
        self.records = PackedRecords(index.records)
        self.source = msgspec.structs.replace(index, records=())
        self.geometry = geometry
        self.labels = labels
        self.strides = tuple(strides)
        self.targets = targets
        self.appearance = appearance
        self.allow_truncated = allow_truncated
        self.follow_symlinks = follow_symlinks

    def __len__(self) -> int:
        return len(self.records)

    def load(self, draw: Draw) -> Sample:
        """The sample of one draw. Raises DataError for an image that cannot be used."""
        record = self.records[draw.index]
        image = read_canvas(
            self.source, record, allow_truncated=self.allow_truncated, follow_symlinks=self.follow_symlinks
        )
        geometry, alter = self.geometry(record, draw), self.appearance
        return Sample(
            image=geometry.image(image, None if alter is None else lambda seen: alter(seen, draw)),
            image_id=record.image_id,
            original_size=(record.height, record.width),
            target={} if self.targets is None else self.targets(record, geometry),
            grids=self._grids(record, geometry),
        )

    def _grids(self, record: ImageRecord, geometry: Geometry) -> Grids | None:
        """Selection labels in the new frame; the stored levels serve an image that is used as it is."""
        if self.labels is None or not self.strides:
            return None
        if geometry.changes_nothing and geometry.frame == (record.width, record.height):
            return self.labels.levels(record.image_id, self.strides).grids
        return geometry.labels(self.labels.mask(record.image_id), self.strides)
