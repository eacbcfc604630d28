from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from sptcore.data.rle import compressed, decoded_counts, fill_fault, without_empty_runs


@given(st.lists(st.integers(0, 1 << 20), min_size=1, max_size=40))
def test_codes_of_pycocotools_are_read_back(counts: list[int]) -> None:
    width = max(1, sum(counts))
    code = coco_mask.frPyObjects({"size": [1, width], "counts": counts}, 1, width)["counts"]
    assert decoded_counts(code.decode()) == counts
    assert compressed(counts, 1, width) == code


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32))
def test_masks_come_back(height: int, width: int, seed: int) -> None:
    mask = np.asfortranarray(np.random.default_rng(seed).random((height, width)) < 0.5, np.uint8)
    counts = decoded_counts(coco_mask.encode(mask)["counts"].decode())
    assert fill_fault(counts, height, width) is None
    painted = np.repeat(np.arange(len(counts)) % 2, counts).reshape(width, height).T
    assert np.array_equal(painted, mask)


@given(st.text(max_size=30))
def test_any_text_is_counts_or_a_fault(text: str) -> None:
    from sptcore.data.rle import RunLengthFault

    try:
        counts = decoded_counts(text)
    except RunLengthFault:
        return
    assert all(isinstance(count, int) for count in counts)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_empty_runs_go_and_the_mask_stays(counts: list[int]) -> None:
    plain = without_empty_runs(counts)
    assert 0 not in plain[1:]
    before, after = (np.repeat(np.arange(len(runs)) % 2, runs) for runs in (counts, plain))
    assert np.array_equal(before, after)
