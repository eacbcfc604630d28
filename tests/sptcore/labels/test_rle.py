"""The run-length text: pycocotools' own bytes, and nothing believed that does not add up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from sptcore.labels.store.rle import decode, encode


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([0, 0.01, 0.3, 0.99, 1]), st.integers(0, 2**32 - 1))
def test_same_text_and_same_mask_as_pycocotools(height, width, density, seed):
    mask = (np.random.default_rng(seed).random((height, width)) < density).astype(np.uint8)
    text = encode(mask)
    assert text == coco_mask.encode(np.asfortranarray(mask))["counts"]
    decoded = decode(text, height, width)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, mask)
    np.testing.assert_array_equal(decoded, coco_mask.decode({"size": [height, width], "counts": text}))


def test_long_runs_and_negative_differences():
    mask = np.zeros((4000, 5000), np.uint8)
    mask[:, 1000:1001] = 1
    mask[17, 3] = 1
    np.testing.assert_array_equal(decode(encode(mask), 4000, 5000), mask)


@pytest.mark.parametrize("text", [b"", b"\x00", b"/", b"p", b"ZP", b"o" * 20 + b"0", b"\xff5", b"5\n"])
def test_texts_that_are_no_run_lengths(text):
    with pytest.raises(ValueError):
        decode(text, 4, 4)


@pytest.mark.parametrize(("height", "width"), [(10, 11), (9, 10), (1, 1), (65535, 65535)])
def test_lengths_that_do_not_fill_the_image(height, width):
    with pytest.raises(ValueError, match="add up"):
        decode(encode(np.eye(10, dtype=np.uint8)), height, width)


def test_random_texts_never_give_a_mask_of_another_size():
    rng = np.random.default_rng(3)
    accepted = 0
    for _ in range(3000):
        text = bytes(rng.integers(48, 112, rng.integers(1, 6)).tolist())
        try:
            mask = decode(text, 3, 5)
        except ValueError:
            continue
        accepted += 1
        assert mask.shape == (3, 5)
        assert set(np.unique(mask)) <= {0, 1}
    assert accepted > 0
