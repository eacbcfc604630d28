"""Whole evaluations under torch.compile: the same features, one graph, and no new one for another selection."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from sptcore.models.variants import build_backbone
from sptcore.ops.attend_selected.operator import attend_whole
from tests.sptcore.ops.attend_selected.test_operator import BYPASSES, arguments
from tests.support.networks import randomise
from tests.support.numerics import assert_same

pytestmark = pytest.mark.slow

SIZES = torch.tensor([[64, 96], [50, 70]])
SWIN = {"depths": (1, 1, 2, 1)}  # one shifted block; every further block is traced, and takes seconds
SPT = SWIN | {"num_spa_blocks": 2, "select_threshold": 0.5, "score_propagation": False}


def backbone(name: str, **settings) -> nn.Module:
    model = randomise(build_backbone(name, **settings)).eval()
    torch._dynamo.reset()
    counters.clear()
    return model


def batch(seed: int, height: int = 64) -> Tensor:
    return torch.randn(2, 3, height, 96, generator=torch.Generator().manual_seed(seed)) * (1 + seed)


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def check(model: nn.Module, compiled: nn.Module, images: Tensor) -> tuple[float, ...]:
    """Features within 1e-4 of the eager ones; returns the ratios of the blocks that select."""
    expected, found = model(images, SIZES), compiled(images, SIZES)
    for key, value in expected.maps.items():
        assert_same(found.maps[key], value, tolerance=1e-4)
    for one, other in zip(expected.selections, found.selections, strict=True):
        assert torch.equal(one.selection.mask, other.selection.mask)
    return tuple(float(one.selection.ratio) for one in expected.selections)


CASES = [
    ("swin-nano", SWIN),
    ("spt-nano", SPT),
    ("spt-nano", SPT | {"bypass": "proj"}),
    ("spt-nano", SPT | {"ffn": "selected"}),
]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
@torch.inference_mode()
def test_one_graph_for_every_selection(name, settings):
    model = backbone(name, **settings)
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)
    ratios = {check(model, compiled, batch(seed)) for seed in range(3)}
    assert len(ratios) == (3 if name == "spt-nano" else 1)
    assert graphs() == 1
    compiled(batch(0, height=128))  # the control: another shape is another graph
    assert graphs() == 2


@torch.inference_mode()
def test_attention_within_windows_breaks_the_graph_and_computes_the_same():
    model = backbone("spt-nano", **SPT | {"depths": (1, 1, 1, 1)}, attention="window_gather")
    compiled = torch.compile(model, backend="eager", dynamic=False)
    ratios = {check(model, compiled, batch(seed)) for seed in range(2)}
    before = graphs()
    ratios |= {check(model, compiled, batch(seed)) for seed in range(2, 5)}
    assert len(ratios) > 3
    assert graphs() == before > 1


@pytest.mark.parametrize("settings", [{}, {"bypass": "proj"}, {"ffn": "selected"}], ids=str)
@torch.inference_mode()
def test_under_autocast_the_operator_computes_what_the_ordinary_road_does(settings):
    """A graph runs with autocast off: the operator has to be told the dtype, which the weights do."""
    model = backbone("spt-nano", **SPT | {"depths": (1, 1, 1, 1), "num_spa_blocks": 1}, **settings)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
    with torch.autocast("cpu", torch.bfloat16):
        check(model, compiled, batch(0))


@pytest.mark.parametrize("bypass", BYPASSES)
@torch.inference_mode()
def test_the_operator_in_the_compilers_own_code(bypass, monkeypatch, tmp_path):
    """The last stage of torch.compile, without the loops around the operator, whose C++ takes a minute to build."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    backbone("spt-nano", **SPT)  # forgets what was compiled before
    given = {ratio: arguments("stream", ratio, bypass) for ratio in (0.0, 0.3, 1.0)}
    compiled = torch.compile(lambda *inputs: attend_whole(*inputs), fullgraph=True, dynamic=False)
    for one in given.values():
        assert torch.equal(compiled(*one), attend_whole(*one))
    assert graphs() == 1
