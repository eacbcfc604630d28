"""Averaged weights: the rule of their decay, and what their checkpoint holds."""

from __future__ import annotations

import torch
from torch import nn

from sptcore.training.state import AveragedWeights


def test_the_average_follows_its_rule() -> None:
    """The first update copies; then the decay is (1 + n) / (10 + n), at most the one asked for."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = AveragedWeights(model, 0.3)
    wanted = None
    for updates in range(6):
        for parameter in model.parameters():
            parameter.data.normal_()
        model[1].running_mean.normal_()
        average.update_parameters(model)
        now = min(0.3, (1 + updates) / (10 + updates)) if updates else 0.0
        new = model[0].weight.detach()
        wanted = new.clone() if wanted is None else now * wanted + (1 - now) * new
        torch.testing.assert_close(average.module[0].weight.detach(), wanted)
        assert torch.equal(average.module[1].running_mean, model[1].running_mean)
    assert int(average.n_averaged) == 6


def test_a_restored_average_goes_on_bit_for_bit() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    one, other = AveragedWeights(model, 0.9), AveragedWeights(nn.Linear(3, 2), 0.9)
    for _ in range(3):
        model.weight.data.normal_()
        one.update_parameters(model)
    assert set(one.state_dict()) == {"n_averaged", "module.weight", "module.bias"}
    other.load_state_dict(one.state_dict())
    model.weight.data.normal_()
    for average in (one, other):
        average.update_parameters(model)
    assert torch.equal(one.module.weight, other.module.weight)
