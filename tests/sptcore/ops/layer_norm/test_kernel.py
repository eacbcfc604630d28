"""The kernels of the gate: interpreted, and compiled for an absent GPU."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sptcore.ops.layer_norm import Norm, gate_stats
from tests.support.interpreter import SHARED_LIMIT, build_for_sm90, compiled_kernels, run_interpreted

CASES_FILE = Path(__file__).with_name("interpreted_kernel.py")
TRITON_TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}


@pytest.mark.slow
def test_under_the_interpreter():
    run_interpreted(CASES_FILE)


@pytest.mark.parametrize("autocast", [False, True])
@torch.no_grad()
def test_the_gate_reads_the_dtype_that_the_layer_returns(autocast, monkeypatch):
    """On a GPU that is the dtype of the tokens, under autocast float32."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: autocast)
    monkeypatch.setattr("sptcore.ops.layer_norm.choose_impl", lambda *_, **__: "kernel")
    with FakeTensorMode(), patch("sptcore.ops.layer_norm.read_gate") as read:
        x, norm, weight = (torch.empty(*size, 16, device="cuda", dtype=torch.half) for size in ((2, 3, 5), (), (1,)))
        gate_stats(x, Norm(norm, norm, 1e-5), weight, weight[0, :1])
    *_, rounded = read.call_args.args
    assert rounded is not autocast


@pytest.mark.parametrize("channels", [384, 1024])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("name", "switches"),
    [("_gate_stats", {"ROUNDED": True}), ("_row_stats", {"GATHERED": True}), ("_row_stats", {"GATHERED": False})],
    ids=str,
)
def test_compiles_for_sm90_without_spills(name, switches, dtype, channels, monkeypatch, tmp_path):
    """At the widths of stage 3 of T and S and of stage 4 of B."""
    kernel = compiled_kernels("layer_norm")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    chosen = kernel.options(channels)
    warps = chosen.pop("num_warps")
    function = getattr(kernel, name)
    types = dict.fromkeys(function.arg_names, "*fp32") | {"grid_ptr": TRITON_TYPES[dtype], "index_ptr": "*i64"}
    types |= {"count_ptr": "*i32", "num_rows": "i32", "eps": "fp32"}
    build = build_for_sm90(function, {"CHANNELS": channels} | chosen | switches, types, warps=warps)
    assert build.spilled == 0
    assert build.shared < SHARED_LIMIT
