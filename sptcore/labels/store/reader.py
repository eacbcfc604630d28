"""Reading a label store: any image's mask and levels in microseconds, every byte checked before it is used."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sptcore.errors import EnvironmentFault, IntegrityError
from sptcore.labels import pyramid
from sptcore.labels.pyramid import SelectionPyramid
from sptcore.labels.store import rle, schema
from sptcore.labels.store.layout import REBUILD, Fault, faults_of, open_layout
from sptcore.labels.store.schema import Flag, StoreHeader
from sptcore.progress import SILENT, Progress, track

_STRIPE = 1 << 24  # bytes of a data set that are read at once when all of it is wanted


@dataclass(frozen=True)
class ImageLabels:
    """What the index knows of an image. Sizes in pixels; `object_pixels` is the numerator of the object-pixel ratio."""

    image_id: int
    file_name: str
    width: int
    height: int
    object_pixels: int
    n_objects: int
    flags: Flag


class LabelStore:
    """The masks and selection levels of a data set, by image id.

    The file is opened when something is first asked for, once per process: a store may be made before workers start and
    goes to them by fork or spawn. It is read without HDF5 after that (positions in the file, no shared state). Whatever
    is not as it was written raises IntegrityError; a file that is not there, DataError.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._content: _Content | None = None
        self._seal: str | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "seal": self.seal}

    def __setstate__(self, state: dict) -> None:
        self.path, self._seal, self._content = state["path"], state["seal"], None

    def __enter__(self) -> LabelStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.image_ids)

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, int | np.integer) and self._open().find(int(image_id)) is not None

    def close(self) -> None:
        """Let go of the file; the next question opens it again."""
        if self._content is not None:
            self._content.close()
            self._content = None

    def _open(self) -> _Content:
        if self._content is None:
            self._content = _Content(self.path)
            if self._seal not in (None, self._content.attributes["index_sha256"]):
                self.close()
                raise IntegrityError("the label store was replaced while it was in use", where=str(self.path))
        return self._content

    @property
    def attrs(self) -> dict[str, str]:
        """The attributes of the file."""
        return dict(self._open().attributes)

    @property
    def header(self) -> StoreHeader:
        """Source and rules of the content."""
        return self._open().header

    @property
    def seal(self) -> str:
        """`index_sha256`: two stores with the same seal hold the same labels."""
        return self._open().attributes["index_sha256"]

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides that are stored; others are derived from the masks."""
        return self.header.strides

    @property
    def image_ids(self) -> np.ndarray:
        """The ids of all images, int64, in the order of the source."""
        return self._open().index["image/id"]

    @property
    def index(self) -> dict[str, np.ndarray]:
        """The index data sets by name (read-only arrays)."""
        return self._open().index

    @property
    def report(self) -> dict[str, object]:
        """What was dropped or repaired when the store was built, by cause."""
        return json.loads(self.report_bytes)

    @property
    def report_bytes(self) -> bytes:
        """The report as it stands in the file."""
        return self._open().report

    def image(self, image_id: int) -> ImageLabels:
        """Name, size and counts of an image. Raises KeyError for an id that is not in the store."""
        content = self._open()
        return content.describe(content.row_of(image_id))

    def mask(self, image_id: int) -> np.ndarray:
        """The object mask at the image's own resolution, uint8 0/1 (H, W). Raises KeyError for an unknown id."""
        content = self._open()
        row = content.row_of(image_id)
        return content.mask(row, content.checked_bytes(row)[0])

    def levels(self, image_id: int, strides: Iterable[int] | None = None) -> SelectionPyramid:
        """The label grids of an image under the identity transform, of the stored strides or of any others.

        Raises KeyError for an unknown id, ValueError for strides that are no powers of two.
        """
        content = self._open()
        row = content.row_of(image_id)
        height, width = content.size(row)
        text, *packed = content.checked_bytes(row)
        stored = {
            stride: unpack(bits, pyramid.grid_shape(height, width, stride))
            for stride, bits in zip(content.header.strides, packed, strict=True)
        }
        wanted = content.header.strides if strides is None else pyramid.checked_strides(strides)
        if not set(wanted) <= stored.keys():
            stored = pyramid.levels(content.mask(row, text), wanted)
        return SelectionPyramid(int(image_id), (width, height), {stride: stored[stride] for stride in wanted})

    def verify(self, progress: Progress = SILENT) -> int:
        """Check every byte of every image against the sealed index; the number of images.

        Raises IntegrityError that names the data set and the image.
        """
        content = self._open()
        checked = 0
        for row, pieces in track(content.all_bytes(), progress, "verify the label store", len(self)):
            content.check(row, pieces)
            checked += 1
        return checked

    def read_all(self, name: str) -> Iterator[np.ndarray]:
        """The bytes of one data set of the images' own data, in pieces."""
        content = self._open()
        extent = content.layout.extents[name]
        for start in range(0, extent.length, _STRIPE):
            yield content.read(name, start, min(start + _STRIPE, extent.length))


def unpack(bits: bytes | np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A packed level (one bit a cell, rows first, high bits first) as a bool grid of `shape`."""
    flat = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=shape[0] * shape[1])
    return flat.reshape(shape).view(np.bool_)


class _Content:
    """An opened store of this process: the descriptor, the index in memory, the order of the ids."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor, self.layout = open_layout(path)
        try:
            with faults_of(path):
                self._load_index()
        except BaseException:
            self.close()
            raise
        ids = self.index["image/id"]
        self._sorted = bool((np.diff(ids) > 0).all())
        self._order = None if self._sorted else np.argsort(ids, kind="stable")
        self._ordered_ids = ids if self._order is None else ids[self._order]

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        descriptor, self.descriptor = getattr(self, "descriptor", -1), -1
        if descriptor >= 0:
            os.close(descriptor)

    @property
    def attributes(self) -> dict[str, str]:
        return self.layout.attributes

    @property
    def header(self) -> StoreHeader:
        return self.layout.header

    def _load_index(self) -> None:
        names = schema.index_names(self.header.strides)
        extents = self.layout.extents
        self.index = {name: self.read(name, 0, extents[name].length) for name in names}
        self.report = self.read(schema.REPORT, 0, extents[schema.REPORT].length).tobytes()
        if schema.seal(self.attributes, self.index, self.report) != self.attributes["index_sha256"]:
            raise Fault("the index does not match its SHA-256 (index_sha256): the label store is damaged")
        sizes = {name: extent.length for name, extent in extents.items()}
        for fault in schema.index_faults(self.index, sizes, self.header.strides):
            raise Fault(fault)

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Entries [start, stop) of a data set, read-only."""
        extent = self.layout.extents[name]
        size = extent.dtype.itemsize
        return np.frombuffer(self._bytes(extent.start + start * size, (stop - start) * size), dtype=extent.dtype)

    def _bytes(self, start: int, length: int) -> bytes:
        try:
            data = os.pread(self.descriptor, length, start)
            while len(data) < length:
                more = os.pread(self.descriptor, length - len(data), start + len(data))
                if not more:
                    raise IntegrityError("the label store ends too early", where=str(self.path))
                data += more
        except OSError as error:
            raise EnvironmentFault(f"cannot read: {error.strerror}", where=str(self.path)) from error
        return data

    def find(self, image_id: int) -> int | None:
        at = int(np.searchsorted(self._ordered_ids, image_id))
        if at == len(self._ordered_ids) or self._ordered_ids[at] != image_id:
            return None
        return at if self._order is None else int(self._order[at])

    def row_of(self, image_id: int) -> int:
        row = self.find(image_id)
        if row is None:
            raise KeyError(f"image {image_id} is not in the label store {self.path}")
        return row

    def size(self, row: int) -> tuple[int, int]:
        return int(self.index["image/height"][row]), int(self.index["image/width"][row])

    def name(self, row: int) -> str:
        start, stop = self.index["image/name_offsets"][row : row + 2]
        return self.index["image/name_bytes"][start:stop].tobytes().decode("utf-8", "surrogatepass")

    def describe(self, row: int) -> ImageLabels:
        index = self.index
        height, width = self.size(row)
        return ImageLabels(
            image_id=int(index["image/id"][row]),
            file_name=self.name(row),
            width=width,
            height=height,
            object_pixels=int(index["image/object_pixels"][row]),
            n_objects=int(index["image/n_objects"][row]),
            flags=Flag(int(index["image/flags"][row])),
        )

    def checked_bytes(self, row: int) -> list[bytes]:
        """The mask's text and each packed level of an image, after their CRC was found right."""
        pieces = []
        for name, offsets in self._pairs():
            start, stop = int(offsets[row]), int(offsets[row + 1])
            pieces.append(self._bytes(self.layout.extents[name].start + start, stop - start))
        self.check(row, pieces)
        return pieces

    def _pairs(self) -> Iterator[tuple[str, np.ndarray]]:
        yield schema.RLE, self.index["mask/rle_offsets"]
        for stride in self.header.strides:
            yield schema.bits_name(stride), self.index[schema.offsets_name(stride)]

    def all_bytes(self) -> Iterator[tuple[int, list[memoryview]]]:
        """Row by row what `checked_bytes` reads, not yet checked, read in large pieces."""
        pairs = list(self._pairs())
        n_images, step = len(self.index["image/id"]), 4096
        for first in range(0, n_images, step):
            last = min(first + step, n_images)
            stripes = []
            for name, offsets in pairs:
                begin = int(offsets[first])
                data = self._bytes(self.layout.extents[name].start + begin, int(offsets[last]) - begin)
                stripes.append((memoryview(data), (offsets[first : last + 1] - begin).tolist()))
            for row in range(first, last):
                at = row - first
                yield row, [data[cuts[at] : cuts[at + 1]] for data, cuts in stripes]

    def check(self, row: int, pieces: Iterable[bytes | memoryview]) -> None:
        pieces = list(pieces)
        crc = 0
        for piece in pieces:
            crc = zlib.crc32(piece, crc)
        if crc != self.index["image/crc32"][row]:
            name, image = self._blame(row, [bytes(piece) for piece in pieces]), self.describe(row)
            message = (
                f"the label store is damaged in {name} at image {image.image_id} ({image.file_name!r}): wrong CRC-32"
            )
            raise IntegrityError(message, where=str(self.path), hint=REBUILD.format(path=self.path))

    def _blame(self, row: int, pieces: list[bytes]) -> str:
        """Which data set no longer agrees with the others."""
        strides = self.header.strides
        try:
            truth = pyramid.levels(rle.decode(pieces[0], *self.size(row)), strides)
        except ValueError:
            return schema.RLE
        wrong = [k for k, bits in zip(strides, pieces[1:], strict=True) if np.packbits(truth[k]).tobytes() != bits]
        return schema.bits_name(wrong[0]) if len(wrong) == 1 else schema.RLE

    def mask(self, row: int, text: bytes) -> np.ndarray:
        try:
            return rle.decode(text, *self.size(row))
        except ValueError as error:
            image = self.describe(row)
            message = f"the mask of image {image.image_id} ({image.file_name!r}) in {schema.RLE} is no mask: {error}"
            raise IntegrityError(message, where=str(self.path), hint=REBUILD.format(path=self.path)) from error
