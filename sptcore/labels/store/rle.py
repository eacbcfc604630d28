"""COCO's compressed run lengths: the mask of an image as a short text, read back without trusting it.

The text holds the lengths of alternating runs of 0 and 1 down the columns, from the fourth on as the difference to the
one two before; each in groups of five bits, low bits first, with 32 added where more follow, as characters from '0' on
(pycocotools, maskApi.c, rleToString). pycocotools returns memory it never wrote when the lengths sum too short; this
reads nothing it has not checked.
"""

from __future__ import annotations

import cv2
import numpy as np

_LONGEST = 8  # groups of a number: lengths below 2^40


def encode(mask: np.ndarray) -> bytes:
    """The text of a mask (H, W) of 0 and 1, the same bytes pycocotools gives."""
    from pycocotools import mask as coco_mask

    columns = np.asarray(cv2.transpose(np.ascontiguousarray(mask, dtype=np.uint8)), dtype=np.uint8)  # (W, H)
    counts = coco_mask.encode(columns.T)["counts"]  # column-major, as pycocotools wants it
    return counts if isinstance(counts, bytes) else counts.encode()


def decode(text: bytes, height: int, width: int) -> np.ndarray:
    """The mask, uint8 0/1 (height, width). Raises ValueError for a text that does not give height x width pixels."""
    lengths = run_lengths(text)
    if lengths.min() < 0 or lengths.max() > height * width or int(lengths.sum()) != height * width:
        raise ValueError(f"the run lengths do not add up to {height} x {width} pixels")
    values = np.zeros(len(lengths), dtype=np.uint8)
    values[1::2] = 1
    return np.asarray(cv2.transpose(np.repeat(values, lengths).reshape(width, height)))  # columns -> rows


def run_lengths(text: bytes) -> np.ndarray:
    """The run lengths in the text, int64. Raises ValueError for characters or numbers that cannot be there."""
    digits = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if len(digits) == 0 or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise ValueError("not a run-length text")
    last = np.flatnonzero(digits & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    groups = last - first + 1
    if groups.max() > _LONGEST:
        raise ValueError("a run length is too long")
    place = np.arange(len(digits)) - np.repeat(first, groups)
    numbers = np.add.reduceat((digits & 31) << (5 * place), first)
    numbers -= np.where(digits[last] & 16, np.left_shift(1, 5 * groups), 0)  # two's complement
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers
