"""How much of every image is object: block by block, in any process, kept on disk so that a stopped run can go on."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from sptcore.data.format import Block, Format, Loaded, ReadOptions, Source
from sptcore.data.padding import NO_PADDING, pad_index
from sptcore.data.rasterize import PixelRule, counted_instances, object_pixels
from sptcore.data.records import DatasetIndex, Dropped, ImageRecord
from sptcore.errors import IntegrityError
from sptcore.files import as_fault

BLOCK = 512  # images


class ImageMeasure(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One image: object pixels, objects that count, whether it has a crowd, whether its objects lack masks to go by."""

    image_id: int
    file_name: str
    width: int
    height: int
    object_pixels: int
    n_objects: int
    has_crowd: bool
    unmasked: bool = False


class BlockMeasure(msgspec.Struct, frozen=True):
    """A block's images, what was dropped from them, what was kept but noticed, whether any object has a mask."""

    images: list[ImageMeasure]
    dropped: list[Dropped]
    counts: dict[str, int]
    has_masks: bool


@dataclass(frozen=True)
class RecordBlock:
    """Records that were read already, as a block."""

    records: tuple[ImageRecord, ...]

    def load(self) -> Loaded:
        """The records."""
        return Loaded(self.records)


class OpenSplit:
    """A split ready to be measured and cut: streamed where the format can, else read whole. A padded set is padded."""

    def __init__(self, source: Source, format: Format, split: str) -> None:
        self.split = split
        self.format = format
        self._source = source
        padded = source.padding != NO_PADDING
        self._stream = None if padded else format.stream(source, split)
        self._index = None if self._stream else format.read(source, split)
        if padded and self._index is not None:
            self._index = pad_index(self._index, source.padding)

    @property
    def header(self) -> DatasetIndex:
        """The index; without records when the split is streamed."""
        return self._stream.header if self._stream is not None else self._whole

    @property
    def n_images(self) -> int:
        """How many images the split has."""
        return self._stream.n_images if self._stream is not None else len(self._whole.records)

    def index(self) -> DatasetIndex:
        """The split with its records; a streamed one is read for it."""
        return self._index or self.format.read(self._source, self.split)

    @property
    def _whole(self) -> DatasetIndex:
        assert self._index is not None
        return self._index

    def blocks(self) -> Iterator[Block]:
        """The images in order, BLOCK at a time."""
        if self._stream is not None:
            yield from self._stream.blocks(BLOCK)
            return
        records = self._whole.records
        yield from (RecordBlock(records[start : start + BLOCK]) for start in range(0, len(records), BLOCK))

    def write_subset(self, keep: set[int], out: Path, dropped: Iterable[Dropped]) -> list[Path]:
        """Write the kept images' annotations below `out`."""
        if self._stream is not None:
            return self._stream.write_subset(keep, out, list(dropped))
        return self.format.write_subset(self._whole, keep, out)


def measure_block(block: Block, rule: PixelRule) -> BlockMeasure:
    """Read a block and measure its images. Raises DataError for a mask picture that is missing or wrong."""
    loaded = block.load()
    images = [
        ImageMeasure(
            record.image_id,
            record.file_name,
            record.width,
            record.height,
            object_pixels(record, rule),
            len(counted_instances(record, rule)),
            any(instance.is_crowd for instance in record.instances),
            rule.ratio_from == "masks" and _unmasked(record),
        )
        for record in loaded.records
    ]
    has_masks = any(instance.segmentation is not None for record in loaded.records for instance in record.instances)
    return BlockMeasure(images, list(loaded.dropped), dict(loaded.counts), has_masks)


def _unmasked(record: ImageRecord) -> bool:
    """Whether an image has objects and none of them a mask, so that nothing is known of its pixels by masks alone."""
    return bool(record.instances) and all(instance.segmentation is None for instance in record.instances)


def joined(parts: Iterable[BlockMeasure], header: DatasetIndex) -> BlockMeasure:
    """All blocks of a split as one, with what the file as a whole showed."""
    images: list[ImageMeasure] = []
    dropped = list(header.dropped)
    counts = Counter(header.counts)
    has_masks = header.has_masks
    for part in parts:
        images += part.images
        dropped += part.dropped
        counts.update(part.counts)
        has_masks |= part.has_masks
    return BlockMeasure(images, dropped, dict(sorted(counts.items())), has_masks)


class Stage:
    """Blocks measured so far, in a folder beside the output; each split of it belongs to one source and one rule."""

    def __init__(self, target: Path, *, resume: bool) -> None:
        """Open the folder; without `resume` what lies there is thrown away."""
        self.folder = target.with_name(f".{target.name}.spt-work")
        if not resume:
            self.remove()

    def claim(self, split: str, fingerprint: str) -> None:
        """Say what the blocks of `split` belong to. Raises IntegrityError when those that lie there are of another."""
        mark = self.folder / f"{split}.fingerprint"
        if mark.is_file() and mark.read_text() != fingerprint:
            raise IntegrityError(
                f"what is to be resumed of {split} was begun with another source or another rule",
                where=str(self.folder),
                hint="run again without --resume",
            )
        try:
            self.folder.mkdir(exist_ok=True)
            mark.write_text(fingerprint)
        except OSError as error:
            raise as_fault(error, self.folder) from error

    def get(self, split: str, number: int) -> BlockMeasure | None:
        """A block measured earlier, None for one that is not there or was cut short."""
        try:
            return msgspec.json.decode((self.folder / f"{split}-{number}.json").read_bytes(), type=BlockMeasure)
        except (OSError, msgspec.DecodeError):
            return None

    def put(self, split: str, number: int, part: BlockMeasure) -> None:
        """Keep a measured block."""
        path = self.folder / f"{split}-{number}.json"
        temp = path.with_suffix(".tmp")
        try:
            temp.write_bytes(msgspec.json.encode(part))
            os.replace(temp, path)
        except OSError as error:
            raise as_fault(error, path) from error

    def has_work(self) -> bool:
        """Whether any block is there to be resumed."""
        return any(self.folder.glob("*.json"))

    def remove(self) -> None:
        """Throw the folder away."""
        try:
            shutil.rmtree(self.folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise as_fault(error, self.folder) from error


def fingerprint(header: DatasetIndex, n_images: int, rule: PixelRule, options: ReadOptions) -> str:
    """What measured blocks depend on, as one hash: the source, how it is read, the rule for pixels, a block's size."""
    parts = {
        "format": header.format,
        "source": header.source_sha256,
        "images": n_images,
        "rule": {**msgspec.structs.asdict(rule), "classes": rule.classes and sorted(rule.classes)},
        "strict": options.strict,
        "size": options.size,
        "block": BLOCK,
    }
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


def measurer(rule: PixelRule) -> partial[BlockMeasure]:
    """`measure_block` under one rule, in a form that crosses to other processes."""
    return partial(measure_block, rule=rule)


def first_image(block: Block) -> str:
    """How a block is called in an error: its first image."""
    images = getattr(block, "images", None) or getattr(block, "records", ())
    return f"the {len(images)} images from {images[0].file_name!r} on" if images else "an empty block"
