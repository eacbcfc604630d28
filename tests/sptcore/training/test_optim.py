"""Parameter groups and the learning rate."""

from __future__ import annotations

import pytest
import torch

from sptcore.models.variants import build_backbone
from sptcore.training.config import TrainConfig, load_preset, make_config
from sptcore.training.optim import base_lr, build_optimizer, lr_factor, param_groups, set_lr

PAPER = make_config(load_preset("detect-paper"))


def test_groups_follow_the_recipe() -> None:
    model = build_backbone("spt-nano")
    groups = param_groups(model, weight_decay=0.05, gate_lr_mult=20)
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    of = {name: (group["lr_mult"], group["weight_decay"]) for group in groups for name in group["names"]}
    assert of["stages.2.blocks.0.selector.gate.weight"] == (20, 0.05)
    assert of["stages.2.blocks.0.selector.gate.bias"] == (20, 0.0)
    assert of["gate.weight"] == (20, 0.05)
    assert of["stages.0.blocks.0.norm1.weight"] == (1, 0.0)
    assert of["norms.0.bias"] == (1, 0.0)
    assert of["stages.0.blocks.0.attn.relative_position_bias_table"] == (1, 0.0)
    assert of["stages.0.blocks.0.mlp.fc1.bias"] == (1, 0.05)
    assert of["patch_embed.proj.weight"] == (1, 0.05)


def test_tables_and_norms_of_the_baselines_do_not_decay() -> None:
    of = {}
    for name in ("dynamicswin-nano", "dat-nano"):
        groups = param_groups(build_backbone(name), weight_decay=0.05, gate_lr_mult=20)
        of |= {name: (group["lr_mult"], group["weight_decay"]) for group in groups for name in group["names"]}
    block = "stages.2.blocks.1"
    for name in ("selector.predictor.norm.weight", "fast.norm.bias", "attn.offsets.norm.weight"):
        assert of[f"{block}.{name}"] == (1, 0.0)
    assert of[f"{block}.attn.relative_position_bias_table"] == (1, 0.0)
    for name in ("selector.predictor.view.weight", "fast.fc.weight", "attn.offsets.conv.weight"):
        assert of[f"{block}.{name}"] == (1, 0.05)


def test_without_decay_of_biases_nothing_of_one_dimension_decays() -> None:
    model = build_backbone("spt-nano")
    groups = param_groups(model, weight_decay=0.05, gate_lr_mult=1, decay_biases=False)
    decayed = {name for group in groups if group["weight_decay"] for name in group["names"]}
    parameters = dict(model.named_parameters())
    spared = {name for name in parameters if "relative_position_bias" in name or parameters[name].ndim < 2}
    assert decayed == set(parameters) - spared
    assert "stages.0.blocks.0.mlp.fc1.bias" not in decayed


def test_warm_up_in_epochs_and_a_cosine_that_ends_above_zero() -> None:
    config = make_config({"schedule": "cosine", "epochs": 10, "warmup": 7, "warmup_epochs": 2.0, "min_lr_share": 0.01})
    factors = [lr_factor(step, config=config, steps_per_epoch=50) for step in range(501)]
    assert factors[0] == pytest.approx(0.001, rel=1e-6)
    assert factors[50] == pytest.approx(0.5005)
    assert factors[100] == max(factors) == 1
    assert factors[300] == pytest.approx(0.505)
    assert factors[500] == pytest.approx(0.01)
    short = config.model_copy(update={"warmup_epochs": 0.001})
    assert lr_factor(0, config=short, steps_per_epoch=100) == 1.0, "less than a step: none, not the 7 steps"
    steps = config.model_copy(update={"warmup_epochs": 0.0})
    assert lr_factor(7, config=steps, steps_per_epoch=50) == 1


def test_frozen_parameters_are_left_out() -> None:
    model = torch.nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert [group["names"] for group in param_groups(model, weight_decay=0.1, gate_lr_mult=1)] == [["weight"]]


def test_set_lr_respects_the_groups() -> None:
    optimizer = build_optimizer(build_backbone("spt-nano"), make_config({"gate_lr_mult": 20.0}))
    set_lr(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5, 10.0}


def test_the_rate_is_scaled_to_the_images_of_a_step() -> None:
    assert base_lr(PAPER, 16) == pytest.approx(1e-4)
    assert base_lr(PAPER, 2) == pytest.approx(1e-4 / 8)
    assert base_lr(make_config({"lr": 1e-3, "scale_lr": False}), 2) == 1e-3


def test_warm_up_then_drops_at_epochs_27_and_33_of_36() -> None:
    def factor(step: int) -> float:
        return lr_factor(step, config=PAPER, steps_per_epoch=500)

    assert factor(0) == pytest.approx(0.001)
    assert factor(500) == pytest.approx(0.001 + 0.999 * 0.5)
    assert factor(1000) == factor(27 * 500 - 1) == 1
    assert factor(27 * 500) == factor(33 * 500 - 1) == pytest.approx(0.1)
    assert factor(33 * 500) == pytest.approx(0.01)


def test_the_cosine_ends_near_zero_and_a_short_run_warms_up_half_of_it() -> None:
    config = make_config({"schedule": "cosine", "epochs": 2, "warmup": 1000})
    factors = [lr_factor(step, config=config, steps_per_epoch=10) for step in range(20)]
    assert max(factors) == factors[9] or max(factors) == factors[10]
    assert factors[-1] < 0.05


def test_the_factor_is_a_function_of_the_step_alone() -> None:
    config = TrainConfig()
    once = [lr_factor(step, config=config, steps_per_epoch=7) for step in range(252)]
    assert once[::-1] == [lr_factor(step, config=config, steps_per_epoch=7) for step in reversed(range(252))]
