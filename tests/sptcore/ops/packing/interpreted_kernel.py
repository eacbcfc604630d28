"""The compaction kernels under Triton's interpreter; `test_kernel.py` runs this file in a child process."""

from __future__ import annotations

import os

import pytest
import torch

from sptcore.ops.packing import kernel, plan_packing
from sptcore.ops.windows import window_order
from tests.sptcore.ops.test_packing import CASES, random_mask

assert os.environ.get("TRITON_INTERPRET") == "1", "run by test_kernel.py, which sets TRITON_INTERPRET=1"


@pytest.mark.parametrize("counts", CASES, ids=str)
@pytest.mark.parametrize("mode", ["stream", "aligned"])
@pytest.mark.parametrize("shift", [0, 3])
def test_packing_equals_the_reference(counts, mode, shift):
    """Every field, bit for bit: the order is that of the windows, whatever the schedule."""
    mask = random_mask(counts)
    expected = plan_packing(mask, 7, shift, mode, impl="reference")
    found = plan_packing(mask, 7, shift, mode, impl="kernel")
    assert found.num_containers == expected.num_containers
    for name in ("token_index", "image_id", "position", "slot", "cu_seqlens"):
        value = getattr(found, name)
        assert value.dtype == getattr(expected, name).dtype
        assert torch.equal(value, getattr(expected, name)), name


@pytest.mark.parametrize("grid", [(1, 1), (7, 9), (50, 80), (31, 33)])
def test_packing_of_several_blocks(grid):
    """Grids below and above one block of 1,024 places (up to 5 blocks an image), with pad cells and without."""
    mask = torch.rand(3, *grid, generator=torch.Generator().manual_seed(2)) < 0.4
    expected = plan_packing(mask, 7, 3, impl="reference")
    assert torch.equal(plan_packing(mask, 7, 3, impl="kernel").token_index, expected.token_index)


def test_packing_of_a_mask_that_is_a_view():
    mask = random_mask([17, 49]).transpose(1, 2)
    expected = plan_packing(mask, 7, 3, impl="reference")
    assert torch.equal(plan_packing(mask, 7, 3, impl="kernel").token_index, expected.token_index)


def test_buffers_behind_the_tokens_are_zero():
    """The buffers have room for every token; `counts` says on the device how many there are."""
    mask = random_mask([17, 0, 49])
    order = window_order(*mask.shape[1:], window_size=7, shift_size=3, device=mask.device)
    *rows, counts = kernel.compact(mask.flatten(1), order.cells)
    assert counts.tolist() == [17, 0, 49]
    for row in rows:
        assert row.shape == (mask.numel(),)
        assert row[:66].any()
        assert not row[66:].any()


def test_packing_without_images():
    packing = plan_packing(torch.zeros(0, 7, 7, dtype=torch.bool), 7, 0, impl="kernel")
    assert packing.num_tokens == packing.num_containers == 0
