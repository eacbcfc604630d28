"""Whole evaluations under torch.compile: the same features, one graph, and no new one for another selection."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from sptcore.models.variants import build_backbone
from tests.support.networks import randomise
from tests.support.numerics import assert_same

pytestmark = pytest.mark.slow

SIZES = torch.tensor([[64, 96], [50, 70]])


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


@pytest.mark.parametrize("name", ["swin-nano", "spt-nano"])
@torch.inference_mode()
def test_one_graph_for_every_selection(name):
    settings = {"select_threshold": 0.5, "score_propagation": False} if name == "spt-nano" else {}
    model = backbone(name, **settings)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    ratios = {check(model, compiled, batch(seed)) for seed in range(3)}
    assert len(ratios) == (3 if name == "spt-nano" else 1)
    assert graphs() == 1
    compiled(batch(0, height=128))  # the control: another shape is another graph
    assert graphs() == 2


@pytest.mark.parametrize("bypass", ["proj", "skip_block"])
@torch.inference_mode()
def test_other_bypasses_break_the_graph_and_compute_the_same(bypass):
    model = backbone("spt-nano", select_threshold=0.5, score_propagation=False, bypass=bypass)
    compiled = torch.compile(model, backend="eager")
    ratios = {check(model, compiled, batch(seed)) for seed in range(2)}
    before = graphs()
    ratios |= {check(model, compiled, batch(seed)) for seed in range(2, 5)}
    assert len(ratios) > 3
    assert graphs() == before


@torch.inference_mode()
def test_compiled_down_to_machine_code():
    model = backbone("spt-nano", select_threshold=0.5, score_propagation=False)
    compiled = torch.compile(model, fullgraph=True)
    for seed in range(3):
        check(model, compiled, batch(seed))
    assert graphs() == 1
