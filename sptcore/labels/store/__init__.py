"""The label store: object masks and selection levels of a data set in one HDF5 file (docs/formats.md).

`LabelWriter` makes one, `LabelStore` reads it, `merge_stores` joins shards; `schema` says what is in the file.
"""

from sptcore.labels.store.reader import ImageLabels, LabelStore
from sptcore.labels.store.schema import Flag, StoreHeader
from sptcore.labels.store.writer import LabelEntry, LabelWriter, merge_stores, publish

__all__ = [
    "Flag",
    "ImageLabels",
    "LabelEntry",
    "LabelStore",
    "LabelWriter",
    "StoreHeader",
    "merge_stores",
    "publish",
]
