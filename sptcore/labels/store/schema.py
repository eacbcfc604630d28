"""What is in a label store: names, types, attributes, and the digest that seals its index (docs/formats.md).

Only integer data sets of fixed size and byte-string attributes of fixed length; no filters, no links, no times, so that
the same content is the same bytes and any HDF5 reader opens it.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from sptcore.labels.pyramid import checked_strides

SCHEMA = "spt-selection-labels"
VERSION = (1, 0)
WHOLE = "1/1"
RLE = "mask/rle"
REPORT = "report/json"
COLUMNS = {
    "image/id": "<i8",
    "image/height": "<i4",
    "image/width": "<i4",
    "image/object_pixels": "<i8",
    "image/n_objects": "<i4",
    "image/flags": "|u1",
    "image/crc32": "<u4",
    "image/name_offsets": "<i8",
    "image/name_bytes": "|u1",
    "mask/rle_offsets": "<i8",
}
LARGEST_SIDE = 65_535


class Flag(enum.IntFlag):
    """What is special about an image."""

    EMPTY = 1  # no object pixel
    CROWD = 2  # has a crowd region
    BOX_ONLY = 4  # its mask comes from boxes alone
    REPAIRED = 8  # some of its annotations were left out


@dataclass(frozen=True)
class StoreHeader:
    """Where a store's content comes from and by which rules: the attributes of the file that its maker decides.

    `params_json` are the settings of the build, `part` is "1/1", or "k/n" for one shard of n.
    """

    tool_version: str
    source_format: str
    source_sha256: str
    source_bytes: int
    params_json: str
    ratio_from: str
    crowd: str
    box_convention: str
    strides: tuple[int, ...]
    part: str = WHOLE

    def attributes(self, n_images: int) -> dict[str, str]:
        """Every attribute of the file but `index_sha256` and `complete`."""
        own = {name: str(value) for name, value in asdict(self).items()}
        own["strides"] = ",".join(str(stride) for stride in self.strides)
        return own | {
            "schema": SCHEMA,
            "schema_version": ".".join(str(number) for number in VERSION),
            "params_sha256": hashlib.sha256(self.params_json.encode()).hexdigest(),
            "label_rule": "touch",
            "grid": "ceil;origin-top-left",
            "mask_coding": "coco-rle",
            "bit_order": "big",
            "n_images": str(n_images),
        }

    @classmethod
    def of(cls, attributes: dict[str, str]) -> StoreHeader:
        """From the attributes of a file. Raises ValueError or KeyError where they are not of this schema."""
        own = {field.name: attributes[field.name] for field in fields(cls)}
        strides = tuple(int(stride) for stride in own.pop("strides").split(","))
        source_bytes = int(own.pop("source_bytes"))
        number, _, total = own["part"].partition("/")
        if checked_strides(strides) != strides or not 1 <= int(number) <= int(total):
            raise ValueError(f"strides {strides} or part {own['part']!r}")
        if not isinstance(json.loads(own["params_json"]), dict):
            raise ValueError("params_json is no JSON object")
        return cls(**own, strides=strides, source_bytes=source_bytes)

    @property
    def params(self) -> dict[str, object]:
        """The settings of the build."""
        return json.loads(self.params_json)


ATTRIBUTES = frozenset(
    {field.name for field in fields(StoreHeader)}
    | {"schema", "schema_version", "params_sha256", "label_rule", "grid", "mask_coding", "bit_order", "n_images"}
    | {"index_sha256", "complete"}
)


def bits_name(stride: int) -> str:
    """The data set with the packed levels of a stride."""
    return f"levels/s{stride}/bits"


def offsets_name(stride: int) -> str:
    """The data set that tells where each image's packed level begins."""
    return f"levels/s{stride}/offsets"


def index_names(strides: Sequence[int]) -> list[str]:
    """The data sets of the index, in the order in which they are written and sealed."""
    return [*COLUMNS, *(offsets_name(stride) for stride in strides)]


def data_names(strides: Sequence[int]) -> list[str]:
    """The data sets with the images' own bytes, each checked by the image's CRC when it is read."""
    return [RLE, *(bits_name(stride) for stride in strides)]


def dtype_of(name: str) -> np.dtype:
    """The type of a data set."""
    return np.dtype(COLUMNS.get(name, "<i8" if name.endswith("/offsets") else "|u1"))


def packed_sizes(heights: np.ndarray, widths: np.ndarray, stride: int) -> np.ndarray:
    """Bytes of each image's packed level: one bit a cell, whole bytes an image."""
    rows, columns = (-(-sides.astype(np.int64) // stride) for sides in (heights, widths))
    return (rows * columns + 7) // 8


def seal(attributes: dict[str, str], index: dict[str, np.ndarray], report: bytes) -> str:
    """SHA-256 over the attributes in order of name, the index data sets in their order, and the report.

    Attributes go in as `name=value` lines, a data set as a line `name type length` and its bytes. `index_sha256` and
    `complete` are left out.
    """
    digest = hashlib.sha256()
    for name in sorted(attributes.keys() - {"index_sha256", "complete"}):
        digest.update(f"{name}={attributes[name]}\n".encode())
    for name, column in index.items():
        digest.update(f"{name} {column.dtype.str} {len(column)}\n".encode())
        digest.update(np.ascontiguousarray(column).view(np.uint8).data)
    digest.update(f"{REPORT} |u1 {len(report)}\n".encode())
    digest.update(report)
    return digest.hexdigest()


def index_faults(index: dict[str, np.ndarray], sizes: dict[str, int], strides: Sequence[int]) -> Iterator[str]:
    """What is impossible in an index, as sentences; `sizes` are the lengths of all data sets."""
    heights, widths = index["image/height"], index["image/width"]
    for name, column in (("image/height", heights), ("image/width", widths)):
        if len(column) and not 1 <= column.min() <= column.max() <= LARGEST_SIDE:
            yield f"{name} has a side outside 1 ... {LARGEST_SIDE}"
    if len(np.unique(index["image/id"])) != len(heights):
        yield "image/id has an image twice"
    pairs = {"image/name_offsets": "image/name_bytes", "mask/rle_offsets": RLE}
    pairs |= {offsets_name(stride): bits_name(stride) for stride in strides}
    for name, target in pairs.items():
        offsets = index[name]
        if offsets[0] != 0 or offsets[-1] != sizes[target] or (np.diff(offsets) < 0).any():
            yield f"{name} does not run from 0 to the {sizes[target]} bytes of {target}"
    for stride in strides:
        if not np.array_equal(np.diff(index[offsets_name(stride)]), packed_sizes(heights, widths, stride)):
            yield f"{offsets_name(stride)} does not fit the sizes of the images"


def concatenate(indexes: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """One index out of several, their images in that order."""
    result = {}
    for name in indexes[0]:
        columns = [index[name] for index in indexes]
        if name.endswith("offsets"):
            ends = np.concatenate([[0], np.cumsum([column[-1] for column in columns])])
            columns = [np.zeros(1, dtype=np.int64), *(c[1:] + end for c, end in zip(columns, ends[:-1], strict=True))]
        result[name] = np.concatenate(columns).astype(dtype_of(name), copy=False)
    return result
