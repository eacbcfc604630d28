"""Records, image files and selection labels, made into batches."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sptcore.data.images import find_image, read_image
from sptcore.data.rasterize import instance_mask
from sptcore.data.records import DatasetIndex, ImageRecord, Instance
from sptcore.errors import ResourceError, SptError
from sptcore.labels.geometry import Geometry, whole_image
from sptcore.labels.store import LabelStore
from sptcore.labels.transform import labels_for
from sptcore.tasks.base import Batch
from sptcore.training.augment import draw_geometry
from sptcore.training.config import TrainConfig
from sptcore.training.sampler import Draw, image_generator
from sptcore.training.threads import SMALL_IMAGE

_DIVISOR = 32
_SMALLEST_BOX = 1.0

Grids = dict[int, np.ndarray]
GeometryRule = Callable[[ImageRecord, Draw], Geometry]


@dataclass(frozen=True)
class DrawnGeometry:
    """The augmentation of training, a function of (seed, epoch, image index)."""

    config: TrainConfig

    def __call__(self, record: ImageRecord, draw: Draw) -> Geometry:
        generator = image_generator(self.config.seed, draw)
        return draw_geometry(self.config, record.width, record.height, generator)


@dataclass(frozen=True)
class WholeImage:
    """The whole image fitted into `res`, as evaluation sees it."""

    res: tuple[int, int]

    def __call__(self, record: ImageRecord, draw: Draw) -> Geometry:
        return whole_image(record.width, record.height, self.res)


class PackedRecords(Sequence[ImageRecord]):
    """Records in one block of bytes, so that worker processes share it instead of copying objects page by page."""

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


@dataclass(frozen=True)
class Failure:
    """An error met in a worker process, carried to the main one, where it is raised as it was."""

    error: SptError


class ImageDataset(Dataset):
    """The images of a split in the frame of the network.

    `strides`: grids of selection labels to look up in `labels`; None of both without selection. `category_ids`: the
    model's classes in order, for targets; None gives no targets (evaluation).
    """

    def __init__(
        self,
        index: DatasetIndex,
        geometry: GeometryRule,
        *,
        labels: LabelStore | None = None,
        strides: Sequence[int] = (),
        category_ids: Sequence[int] | None = None,
        masks: bool = False,
        allow_truncated: bool = False,
        follow_symlinks: bool = False,
    ) -> None:
        self.records = PackedRecords(index.records)
        self.image_root = index.image_root
        self.geometry = geometry
        self.labels = labels
        self.strides = tuple(strides)
        self.class_of = None if category_ids is None else {c: n for n, c in enumerate(category_ids, start=1)}
        self.masks = masks
        self.allow_truncated = allow_truncated
        self.follow_symlinks = follow_symlinks

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, draw: Draw) -> Sample | Failure:
        try:
            return self.load(draw)
        except SptError as error:
            return Failure(error)

    def load(self, draw: Draw) -> Sample:
        """The sample of one draw. Raises DataError for an image that cannot be used."""
        record = self.records[draw.index]
        path = find_image(self.image_root, record.file_name, follow_symlinks=self.follow_symlinks)
        image = read_image(path, size=(record.width, record.height), allow_truncated=self.allow_truncated)
        geometry = self.geometry(record, draw)
        return Sample(
            image=geometry.image(image),
            image_id=record.image_id,
            original_size=(record.height, record.width),
            target={} if self.class_of is None else self._target(record, geometry),
            grids=self._grids(record, geometry),
        )

    def _target(self, record: ImageRecord, geometry: Geometry) -> dict[str, np.ndarray]:
        """Boxes, classes and masks of the objects to learn: no crowds, none marked difficult, none cropped away."""
        assert self.class_of is not None
        kept = [one for one in record.instances if self._is_learned(one)]
        boxes = geometry.boxes(np.array([one.box_xyxy for one in kept], dtype=np.float64))
        visible = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= _SMALLEST_BOX)
        kept = [kept[number] for number in visible]
        target = {
            "boxes": boxes[visible].astype(np.float32),
            "labels": np.array([self.class_of[one.category_id] for one in kept], dtype=np.int64),
        }
        if self.masks:
            shape = (len(kept), geometry.out[1], geometry.out[0])
            target["masks"] = np.zeros(shape, dtype=np.uint8)
            for row, one in zip(target["masks"], kept, strict=True):
                row[:] = geometry.mask(instance_mask(one, record.height, record.width))
        return target

    def _is_learned(self, instance: Instance) -> bool:
        assert self.class_of is not None
        return not (instance.is_crowd or instance.is_difficult) and instance.category_id in self.class_of

    def _grids(self, record: ImageRecord, geometry: Geometry) -> Grids | None:
        """Selection labels in the new frame; the stored levels serve an image that is used as it is."""
        if self.labels is None or not self.strides:
            return None
        if geometry.affine.is_identity and geometry.out == geometry.native:
            return self.labels.levels(record.image_id, self.strides).grids
        return labels_for(self.labels.mask(record.image_id), geometry.affine, geometry.out, self.strides)


def collate(samples: Sequence[Sample | Failure]) -> Batch | Failure:
    """Pad the samples right and bottom to one size, a multiple of 32, images and label grids alike."""
    good: list[Sample] = []
    for sample in samples:
        if isinstance(sample, Failure):
            return sample
        good.append(sample)
    height, width = (_DIVISOR * math.ceil(max(s.image.shape[axis] for s in good) / _DIVISOR) for axis in (0, 1))
    images = np.zeros((len(good), 3, height, width), dtype=np.uint8)
    for row, sample in zip(images, good, strict=True):
        row[:, : sample.image.shape[0], : sample.image.shape[1]] = sample.image.transpose(2, 0, 1)
    return Batch(
        images=torch.from_numpy(images),
        image_sizes=torch.tensor([sample.image.shape[:2] for sample in good]),
        original_sizes=torch.tensor([sample.original_size for sample in good]),
        image_ids=[sample.image_id for sample in good],
        targets=[{name: torch.from_numpy(array) for name, array in sample.target.items()} for sample in good],
        select_labels=_stack_grids([sample.grids for sample in good], height, width),
    )


def _stack_grids(
    grids: Sequence[dict[int, np.ndarray] | None], height: int, width: int
) -> dict[int, torch.Tensor] | None:
    if grids[0] is None:
        return None
    stacked = {}
    for stride in grids[0]:
        padded = np.zeros((len(grids), height // stride, width // stride), dtype=bool)
        for row, grid in zip(padded, grids, strict=True):
            assert grid is not None
            row[: grid[stride].shape[0], : grid[stride].shape[1]] = grid[stride]
        stacked[stride] = torch.from_numpy(padded)
    return stacked


def default_workers(res: tuple[int, int], processors: int) -> int:
    """Loading processes when nobody says: none for small images, where they cost more than they save."""
    return 0 if res[0] * res[1] <= SMALL_IMAGE else min(8, max(1, processors // 2))


def load_batches(
    dataset: ImageDataset, draws: Iterable[list[Draw]], *, workers: int, pin: bool = False
) -> Iterator[Batch]:
    """The batches of `draws`, in order, loaded here (`workers` 0) or by worker processes.

    Raises the DataError of an image that cannot be used, and ResourceError when a worker process dies.
    """
    if workers == 0:
        for batch in draws:
            yield _raised(collate([dataset[draw] for draw in batch]))
        return
    listed = list(draws)
    loader = DataLoader(
        dataset,
        batch_sampler=listed,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        worker_init_fn=_calm_worker,
    )
    position = 0
    try:
        for position, batch in enumerate(loader):  # noqa: B007
            yield _raised(batch)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        images = [dataset.records[draw.index].file_name for draw in listed[min(position + 1, len(listed) - 1)]]
        message = f"a loading process died near {', '.join(images)}: {str(error).splitlines()[0]}"
        raise ResourceError(message, hint="use fewer --workers, or 0; the system may have run out of memory") from error


def _raised(batch: Batch | Failure) -> Batch:
    if isinstance(batch, Failure):
        raise batch.error
    return batch


def _calm_worker(worker: int) -> None:
    """One thread in each loading process, and Ctrl-C left to the parent."""
    import signal

    import cv2

    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
