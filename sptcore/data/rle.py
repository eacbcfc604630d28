"""COCO's compressed run lengths, decoded with checks that pycocotools does not make (maskApi.c, rleFrString)."""

from __future__ import annotations

from typing import Any

import numpy as np

MAX_LETTERS = 7  # a run needs at most 6 letters of 5 bits below 100 megapixels


class RunLengthFault(ValueError):
    """A text or a list of counts that is no run-length code."""


def decoded_counts(text: str) -> list[int]:
    """The counts of a compressed run-length string. Raises RunLengthFault for anything malformed.

    Letters carry 5 bits and a continuation bit from code 48 on, lowest group first, sign in bit 4 of the last one; from
    the fourth count on the difference to the count before the previous one is stored.
    """
    try:
        letters = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError as error:
        raise RunLengthFault("letters that are not ASCII") from error
    if not len(letters) or letters.min() < 0 or letters.max() > 63:
        raise RunLengthFault("empty" if not len(letters) else "letters outside the code")
    ends = np.flatnonzero(letters < 32)
    if not len(ends) or ends[-1] != len(letters) - 1:
        raise RunLengthFault("the last count is cut off")
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1
    if sizes.max() > MAX_LETTERS:
        raise RunLengthFault("a count is too long")
    group = np.arange(len(letters)) - np.repeat(starts, sizes)
    values = np.add.reduceat((letters & 31) << (5 * group), starts)
    values -= np.where(letters[ends] & 16, 1 << (5 * sizes), 0)
    counts = values.copy()  # counts[0] stands alone, odd and even places add up on their own
    counts[1::2] = np.cumsum(values[1::2])
    counts[2::2] = np.cumsum(values[2::2])
    return counts.tolist()


def fill_fault(counts: list[int], height: int, width: int) -> str | None:
    """Why `counts` are no mask of this size, None when they are: all counts at least 0, their sum height x width."""
    if not counts:
        return "no counts"
    if min(counts) < 0:
        return "a negative count"
    total = sum(counts)
    return None if total == height * width else f"sum {total}, not {height * width}"


def without_empty_runs(counts: list[int]) -> list[int]:
    """The same mask with no run of length 0 but the first.

    pycocotools merges into a buffer of height x width + 1 counts; a list padded with empty runs would overrun it.
    """
    if 0 not in counts[1:]:
        return counts
    kept = [counts[0]]
    parity = 0
    for place, count in enumerate(counts[1:], start=1):
        if not count:
            continue
        if place % 2 == parity:
            kept[-1] += count
        else:
            kept.append(count)
            parity = 1 - parity
    return kept


def compressed(counts: list[int], height: int, width: int) -> bytes:
    """The compressed string of checked counts."""
    from pycocotools import mask as coco_mask

    plain: Any = {"size": [height, width], "counts": counts}  # its stubs know no dict of lists
    return coco_mask.frPyObjects(plain, height, width)["counts"]
