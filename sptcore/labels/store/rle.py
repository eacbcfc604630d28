"""The mask of an image as COCO's compressed run lengths, read back without trusting them.

pycocotools returns memory it never wrote when the lengths sum too short; here nothing is used that was not checked.
"""

from __future__ import annotations

import cv2
import numpy as np

from sptcore.data.rle import decoded_counts


def encode(mask: np.ndarray) -> bytes:
    """The text of a mask (H, W) of 0 and 1, the same bytes pycocotools gives."""
    from pycocotools import mask as coco_mask

    columns = np.asarray(cv2.transpose(np.ascontiguousarray(mask, dtype=np.uint8)), dtype=np.uint8)  # (W, H)
    counts = coco_mask.encode(columns.T)["counts"]  # column-major, as pycocotools wants it
    return counts if isinstance(counts, bytes) else counts.encode()


def decode(text: bytes, height: int, width: int) -> np.ndarray:
    """The mask, uint8 0/1 (height, width). Raises ValueError for a text that does not give height x width pixels."""
    lengths = np.array(decoded_counts(text.decode("latin-1")), dtype=np.int64)
    if lengths.min() < 0 or lengths.max() > height * width or int(lengths.sum()) != height * width:
        raise ValueError(f"the run lengths do not add up to {height} x {width} pixels")
    values = np.zeros(len(lengths), dtype=np.uint8)
    values[1::2] = 1
    return np.asarray(cv2.transpose(np.repeat(values, lengths).reshape(width, height)))  # columns -> rows
