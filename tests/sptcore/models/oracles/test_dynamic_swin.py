"""O23, DynamicSwin's half: with nothing to save it is Swin."""

from __future__ import annotations

import pytest
import torch

from sptcore.models.backbone import HierarchicalBackbone
from sptcore.models.config import BackboneConfig
from sptcore.models.weights import load_torchvision_swin
from sptcore.profiling.forced import forced_selection
from tests.support.networks import randomise, small_config, small_swin, tokens
from tests.support.numerics import assert_differs, assert_same

SIZE = (96, 160)


def dynamic_config(blocks: tuple[int, ...] = (1, 2, 3), ratios: tuple[float, ...] = (0.7, 0.5, 0.3)) -> BackboneConfig:
    """DynamicSwin of six narrow blocks in stage 3."""
    return small_config(
        depths=(2, 2, 6, 2),
        num_spa_blocks=len(blocks),
        predictor_blocks=blocks,
        keep_ratios=ratios,
        selector="predictor",
        attention="window",
        bypass="fast_mlp",
    )


def dynamic_and_swin(ratios: tuple[float, ...]) -> tuple[HierarchicalBackbone, HierarchicalBackbone]:
    """Both with the weights of one torchvision Swin; what DynamicSwin has beside them is random."""
    weights = small_swin(depths=[2, 2, 6, 2]).state_dict()
    dynamic = HierarchicalBackbone(dynamic_config(ratios=ratios))
    swin = HierarchicalBackbone(small_config(depths=(2, 2, 6, 2), num_spa_blocks=0))
    for model in (dynamic, swin):
        randomise(model)
        report = load_torchvision_swin(model, weights)
        assert all(".selector." in name or ".fast." in name or "norms." in name for name in report.missing)
    dynamic.norms.load_state_dict(swin.norms.state_dict())
    return dynamic, swin


@torch.no_grad()
def test_o23_evaluation_at_ratio_1_equals_swin():
    dynamic, swin = dynamic_and_swin((1.0, 1.0, 1.0))
    images = tokens(2, 3, *SIZE)
    ours, swins = dynamic.eval()(images), swin.eval()(images)
    assert all(placed.selection.ratio == 1 for placed in ours.selections)
    for key, expected in swins.maps.items():
        assert_same(ours.maps[key], expected, tolerance=1e-5)


@torch.no_grad()
def test_o23_evaluation_below_ratio_1_differs():
    """Negative control: the short way is another function."""
    dynamic, swin = dynamic_and_swin((1.0, 1.0, 0.9))
    images = tokens(2, 3, *SIZE)
    ours, swins = dynamic.eval()(images).maps, swin.eval()(images).maps
    assert_same(ours["1"], swins["1"], tolerance=1e-5)
    assert_differs(ours["2"], swins["2"])


@pytest.mark.parametrize("spared", [0, 1])
def test_o23_all_masks_1_in_training_equals_swin(spared):
    """The slow stream is Swin's; with one token spared it is not."""
    dynamic, swin = dynamic_and_swin((0.7, 0.5, 0.3))
    images = tokens(1, 3, *SIZE)
    masks = [torch.ones(1, 6, 10, dtype=torch.bool) for _ in range(3)]
    masks[2].view(-1)[:spared] = False
    with forced_selection(dynamic.train(), masks):
        ours = dynamic(images)
    swins = swin.train()(images)
    assert_same(ours.maps["1"], swins.maps["1"], tolerance=1e-5)
    for key in ("2", "3"):
        if spared:
            assert_differs(ours.maps[key], swins.maps[key])
        else:
            assert_same(ours.maps[key], swins.maps[key], tolerance=1e-5)
