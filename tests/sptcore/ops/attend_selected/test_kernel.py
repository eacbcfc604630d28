"""The kernels of the inference branch: interpreted, compiled for an absent GPU, without a wait, on a real GPU."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from sptcore.models.variants import build_backbone
from sptcore.ops.attend_selected import PackingRule, attend_selected, without_waiting
from sptcore.ops.attend_selected.operator import attend_branch
from sptcore.ops.layer_norm.operator import gate_branch
from sptcore.ops.selection import Selection
from tests.sptcore.ops.attend_selected.test_operator import BYPASSES, a_block, branch_of, inputs
from tests.support.interpreter import SHARED_LIMIT, build_for_sm90, compiled_kernels, run_interpreted
from tests.support.networks import randomise
from tests.support.numerics import assert_rounds_like_on_average, assert_same

CASES_FILE = Path(__file__).with_name("interpreted_kernel.py")
RULE = PackingRule(7, 3, "aligned", 49)
TRITON_TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}


@pytest.mark.slow
def test_under_the_interpreter():
    run_interpreted(CASES_FILE)


KERNELS = {
    "qkv": ("_gather_linear", {"NUM_OUT": 1152, "SCALED": True, "GELU": False}),
    "fc1": ("_gather_linear", {"NUM_OUT": 1536, "SCALED": False, "GELU": True}),
    "fc2": ("_linear_scatter", {"NUM_IN": 1536, "NUM_OUT": 384}),
    "proj": ("_linear_scatter", {"NUM_OUT": 384}),
    "proj of all": ("_mixed_linear", {"NUM_OUT": 384}),
}


@pytest.mark.parametrize("layer", KERNELS)
@pytest.mark.parametrize(
    ("dtype", "grid_dtype"),
    [(torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float32, torch.float32)],
    ids=str,
)
def test_compiles_for_sm90_without_spills(layer, dtype, grid_dtype, monkeypatch, tmp_path):
    """At the width of stage 3 of T and S, in one dtype and as under autocast (fp32 tokens, bf16 weights)."""
    kernel = compiled_kernels("attend_selected")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    chosen = kernel.options(dtype)
    warps, stages = chosen.pop("num_warps"), chosen.pop("num_stages")
    name, constants = KERNELS[layer]
    function = getattr(kernel, name)
    types = dict.fromkeys(function.arg_names, TRITON_TYPES[dtype])
    types |= dict.fromkeys(("grid_ptr", "norm_weight_ptr", "norm_bias_ptr"), TRITON_TYPES[grid_dtype])
    types |= dict.fromkeys(("scale_ptr", "mean_ptr", "rstd_ptr"), "*fp32") | {"num_tokens": "i32"}
    types |= {"index_ptr": "*i64", "row_ptr": "*i64", "count_ptr": "*i32"}
    types |= {"out_ptr": TRITON_TYPES[grid_dtype]} if name == "_mixed_linear" else {}
    build = build_for_sm90(function, {"NUM_IN": 384} | chosen | constants, types, warps=warps, stages=stages)
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


ROADS = [{}, {"bypass": "proj"}, {"ffn": "selected"}, {"ffn": "selected", "selector": "topk"}]


@pytest.mark.parametrize("settings", ROADS, ids=str)
def test_nothing_waits_for_the_device(settings, monkeypatch):
    """On this road the whole backbone never asks for data; on the ordinary one it does."""
    monkeypatch.setattr("sptcore.ops.backend.kernel_obstacle", lambda device_type, index=None: None)
    monkeypatch.setattr("sptcore.ops.windows.is_traced", lambda: True)  # keeps tensors without data out of the cache
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr("sptcore.ops.attend_selected.attend_whole", attend_branch)  # not the operators' fakes
    monkeypatch.setattr("sptcore.ops.layer_norm.read_gate", gate_branch)
    launched = []
    for operation in ("attend_selected", "layer_norm", "packing"):
        module = compiled_kernels(operation)
        monkeypatch.setattr(module, "_launch", lambda kernel, *rest, **switches: launched.append(kernel.fn.__name__))
    with without_waiting():
        run_without_data(build_backbone("spt-nano", **settings).eval())
    assert ("_mixed_linear" in launched) == ("bypass" in settings)
    assert set(launched) >= {"_gate_stats", "_gather_linear"}
    assert ("_row_stats" in launched) == ("ffn" in settings)  # the first norm's are the gate's
    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        run_without_data(build_backbone("spt-nano", **settings).eval())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("settings", ROADS, ids=str)
@torch.no_grad()
def test_on_a_gpu_a_backbone_replays_from_a_graph(settings):
    """Captured on one batch, replayed on another with another selection: what the ordinary road gives."""
    backbone = randomise(build_backbone("spt-nano", **settings)).eval().cuda()
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("bypass", BYPASSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@torch.no_grad()
def test_on_a_gpu_the_branch_rounds_as_the_reference(dtype, bypass):
    """O27, in bf16 too, which the interpreter cannot multiply."""
    x, selection = inputs(0.4)
    x, block = x.to(dtype), a_block(selection, bypass).to(dtype)
    exact = attend_selected(x.double(), selection, branch_of(deepcopy(block).double()), RULE, impl="reference")
    x, branch = x.to("cuda"), branch_of(block.to("cuda"))
    selection = Selection(*(one.to("cuda") for one in (selection.logits, selection.weight, selection.valid)))
    found, reference = (attend_selected(x, selection, branch, RULE, impl=impl) for impl in ("kernel", "reference"))
    assert_rounds_like_on_average(found.cpu(), reference.cpu(), exact)


@torch.no_grad()
def test_without_waiting_a_cpu_is_refused(monkeypatch):
    """The road is taken or refused, never replaced; it ends with the `with`."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    backbone = build_backbone("spt-nano").eval()
    images = torch.zeros(1, 3, 32, 32)
    with without_waiting(), pytest.raises(ValueError, match="cannot run"):
        backbone(images)
    backbone(images)
