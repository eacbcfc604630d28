"""Profiles of compiled backbones: the same outputs, alone and inside a detector; weights and counts untouched."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters

from sptcore.profiling.subjects import Built, Case, Setting, Subject, subject, uniform_selections
from sptcore.profiling.tables import grids
from tests.support.numerics import assert_same

pytestmark = pytest.mark.slow
SETTING = Setting("backbone", 64, 96, compiled=True)


def small(*ratios: float) -> Subject:
    """Of few blocks, since every one is traced."""
    one = subject("spt-nano")
    config = replace(one.config, depths=(1, 1, 1, 1), num_spa_blocks=2)
    return replace(one, config=config, selections=uniform_selections(config, ratios))


@pytest.mark.parametrize("scope", ["backbone", "detector"])
def test_outputs_are_those_of_the_eager_pass(scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and run without the compiler's code, which `models/test_compile.py` runs."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    setting = replace(SETTING, scope=scope)
    one = small(0.25, 0.5)
    built = Built(one, setting)
    body = built.backbone
    for number, selection in enumerate(one.selections):
        case = Case(built, selection, setting)
        forward = case._compiled()
        with torch.inference_mode():
            for found, expected in zip(forward(case.images), case.forward(), strict=True):
                assert_same(found, expected, tolerance=1e-4)
        case.inference()()
        graphs = counters["stats"]["unique_graphs"]
        assert graphs > number
        case.inference()()
        assert counters["stats"]["unique_graphs"] == graphs
    assert any(module is body for module in built.model.modules())


def test_the_title_says_so() -> None:
    from sptcore.profiling.job import ProfileReport, ProfileRow

    row = ProfileRow("backbone", "swin-nano", "dense", (), 1, 1, 1, 1)
    assert grids(ProfileReport(SETTING, (row,), {}))[0].title == "backbone at 96 x 64, batch 1, compiled"
    eager = replace(SETTING, compiled=False)
    assert grids(ProfileReport(eager, (row,), {}))[0].title == "backbone at 96 x 64, batch 1"
