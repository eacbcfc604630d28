"""The kernels of the inference branch: interpreted, compiled for an absent GPU, without a wait, on a real GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from sptcore.models.variants import build_backbone
from sptcore.ops.attend_selected import without_waiting
from sptcore.ops.attend_selected.operator import attend_branch
from tests.support.interpreter import SHARED_LIMIT, build_for_sm90, compiled_kernels, run_interpreted
from tests.support.networks import randomise
from tests.support.numerics import assert_same

CASES_FILE = Path(__file__).with_name("interpreted_kernel.py")
TRITON_TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}


@pytest.mark.slow
def test_under_the_interpreter():
    run_interpreted(CASES_FILE)


@pytest.mark.parametrize("name", ["_gather_linear", "_linear_scatter"])
@pytest.mark.parametrize(
    ("dtype", "grid_dtype"),
    [(torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float32, torch.float32)],
    ids=str,
)
def test_compiles_for_sm90_without_spills(name, dtype, grid_dtype, monkeypatch, tmp_path):
    """At the width of stage 3 of T and S, in one dtype and as under autocast (fp32 tokens, bf16 weights)."""
    kernel = compiled_kernels("attend_selected")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    chosen = kernel.options(dtype)
    warps, stages = chosen.pop("num_warps"), chosen.pop("num_stages")
    gathers = name == "_gather_linear"
    constants = chosen | {"NUM_IN": 384, "NUM_OUT": 1152 if gathers else 384} | ({"GAINED": True} if gathers else {})
    function = getattr(kernel, name)
    types = dict.fromkeys(function.arg_names, TRITON_TYPES[dtype])
    types |= {"grid_ptr": TRITON_TYPES[grid_dtype], "gain_ptr": "*fp32", "index_ptr": "*i64", "count_ptr": "*i32"}
    build = build_for_sm90(function, constants, types, warps=warps, stages=stages)
    assert build.spilled == 0
    assert build.shared < SHARED_LIMIT
    assert build.tensor_core == (dtype != torch.float32)


def run_without_data(backbone: torch.nn.Module) -> None:
    """Run a backbone on CUDA tensors that have no data: whatever asks for data, and would wait for a GPU, raises."""
    with FakeTensorMode(), torch.no_grad():
        for module in backbone.modules():
            for name, value in module.named_parameters(recurse=False):
                setattr(module, name, torch.nn.Parameter(torch.empty(value.shape, device="cuda")))
        backbone(torch.empty(2, 3, 64, 96, device="cuda"))


def test_nothing_waits_for_the_device(monkeypatch):
    """With the branch the whole backbone never asks for data; without it, it does."""
    attend, packing = compiled_kernels("attend_selected"), compiled_kernels("packing")
    monkeypatch.setattr("sptcore.ops.backend.kernel_obstacle", lambda device_type, index=None: None)
    monkeypatch.setattr("sptcore.ops.windows.is_traced", lambda: True)  # keeps tensors without data out of the cache
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr("sptcore.ops.attend_selected.attend_whole", attend_branch)  # not the operator's fake
    for module in (attend, packing):
        monkeypatch.setattr(module, "_launch", lambda *arguments, **options: None)
    with without_waiting():
        run_without_data(build_backbone("spt-nano").eval())
    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        run_without_data(build_backbone("spt-nano").eval())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@torch.no_grad()
def test_on_a_gpu_a_backbone_replays_from_a_graph():
    """Captured on one batch, replayed on another with another selection: what the ordinary road gives."""
    backbone = randomise(build_backbone("spt-nano")).eval().cuda()
    first, second = (torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(i)).cuda() for i in (1, 2))
    images = first.clone()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), without_waiting():
        backbone(images)  # compiles, and fills the caches
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = backbone(images)
    for batch in (first, second):
        images.copy_(batch)
        graph.replay()
        expected = backbone(batch)
        for key, value in expected.maps.items():
            assert_same(captured.maps[key], value, tolerance=1e-3)


@torch.no_grad()
def test_without_waiting_a_cpu_is_refused(monkeypatch):
    """The road is taken or refused, never replaced; it ends with the `with`."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    backbone = build_backbone("spt-nano").eval()
    images = torch.zeros(1, 3, 32, 32)
    with without_waiting(), pytest.raises(ValueError, match="attend_selected"):
        backbone(images)
    backbone(images)
