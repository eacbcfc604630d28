"""The two kinds of body, found wherever they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sptcore.models.bodies import apply_schedule, find_backbone
from sptcore.models.classifier import Classifier
from sptcore.models.variants import build_backbone
from sptcore.profiling.forced import forced_selection


@pytest.mark.parametrize("name", ["swin-nano", "vit-nano"])
def test_a_backbone_is_found_in_what_stands_on_it(name):
    backbone = build_backbone(name)
    assert find_backbone(backbone) is backbone
    assert find_backbone(nn.Sequential(Classifier(backbone, 3))) is backbone
    with pytest.raises(ValueError, match="no backbone in a Linear"):
        find_backbone(nn.Linear(2, 2))


def test_the_schedule_reaches_a_vit_and_asks_nothing_of_others():
    model = nn.ModuleList([build_backbone("evit-nano"), build_backbone("vit-nano"), build_backbone("spt-nano")])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    apply_schedule(model, 0.0)
    assert find_backbone(model).pruning.train_rate == 1.0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_labels_forced_on_a_vit_are_taken_back():
    backbone = build_backbone("vit-gt-nano").eval()
    masks = [torch.rand(1, 4, 5) < 0.1 * block for block in range(6)]
    with torch.no_grad(), forced_selection(backbone, masks):
        features = backbone(torch.randn(1, 3, 64, 80))
    assert all(torch.equal(one.selection.mask, mask) for one, mask in zip(features.selections, masks, strict=True))
    assert backbone.forced is None
    with pytest.raises(ValueError, match="1 masks for 6"), forced_selection(backbone, masks[:1]):
        raise AssertionError("not reached")
