"""The compaction kernels: under the interpreter, compiled for a GPU that is absent, and on a real one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sptcore.ops.packing import plan_packing
from tests.sptcore.ops.test_packing import CASES, random_mask
from tests.support.interpreter import SHARED_LIMIT, build_for_sm90, compiled_kernels, run_interpreted

CASES_FILE = Path(__file__).with_name("interpreted_kernel.py")


def test_under_the_interpreter():
    run_interpreted(CASES_FILE)


def test_on_a_cpu_the_kernel_is_refused_and_never_replaced(monkeypatch):
    mask = random_mask([5])
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        plan_packing(mask, 7, 0, impl="kernel")
    compiled_kernels("packing")  # not interpreted: the variable comes too late
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="before"):
        plan_packing(mask, 7, 0, impl="kernel")


@pytest.mark.parametrize("name", ["_count", "_write"])
def test_compiles_for_sm90_without_spills(name, monkeypatch, tmp_path):
    kernel = compiled_kernels("packing")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types = {"mask_ptr": "*u8", "num_tokens": "i32", "num_positions": "i32"}
    types |= dict.fromkeys(("cells_ptr", "counts_ptr", "firsts_ptr", "token_ptr", "image_ptr", "position_ptr"), "*i64")
    build = build_for_sm90(getattr(kernel, name), {"BLOCK": kernel.BLOCK}, types, warps=4)
    assert build.spilled == 0
    assert build.shared < SHARED_LIMIT


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("counts", CASES, ids=str)
@pytest.mark.parametrize("mode", ["stream", "aligned"])
def test_on_a_gpu_equals_the_reference(counts, mode):
    mask = random_mask(counts)
    expected = plan_packing(mask, 7, 3, mode, impl="reference")
    found = plan_packing(mask.cuda(), 7, 3, mode, impl="kernel")
    assert found.num_containers == expected.num_containers
    for name in ("token_index", "image_id", "position", "slot", "cu_seqlens"):
        assert torch.equal(getattr(found, name).cpu(), getattr(expected, name)), name
