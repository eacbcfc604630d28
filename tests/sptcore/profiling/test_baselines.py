"""Costs of DynamicSwin and DAT: the formulas are what runs, in evaluation and in training."""

from __future__ import annotations

import pytest
import torch

from sptcore.models.variants import backbone_config, build_backbone
from sptcore.profiling.counted import count_backbone
from sptcore.profiling.job import ProfileRequest, profile
from sptcore.profiling.macs import backbone_macs, detector_macs, group_costs, stage_grids, total
from sptcore.profiling.subjects import Setting, subject
from sptcore.profiling.tables import grids, to_dict


@pytest.mark.parametrize("size", [(96, 128), (75, 101)])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("depths", [(2, 2, 2, 2), (1, 1, 6, 1)])
def test_dynamic_blocks_count_as_the_formula_says(size, training, depths):
    """O25 for DynamicSwin, at its own ratios: a count of each image, rounded down."""
    places = {"depths": depths, "predictor_blocks": (1, 2, 4), "keep_ratios": (0.7, 0.55, 0.31), "num_spa_blocks": 3}
    backbone = build_backbone("dynamicswin-nano", **(places if depths[2] > 2 else {})).train(training)
    found = count_backbone(backbone, torch.randn(2, 3, *size))
    stages = backbone_macs(backbone.config, *size, backbone.config.keep_ratios, batch=2, training=training)
    assert found.macs == total(stages)[0]
    costs = [cost for stage in stages for cost in stage.costs if cost.block]
    for name, (actual, _) in group_costs(costs, "block").items():
        stage, block = (int(part) - 1 for part in name.split("."))
        assert found.by_module[f"stages.{stage}.blocks.{block}"] == actual


@pytest.mark.parametrize("training", [False, True])
def test_deformable_blocks_count_as_the_formula_says(training):
    """O25 for DAT: every block; and at the size of DAT-T, where nothing is computed."""
    backbone = build_backbone("dat-nano").train(training)
    found = count_backbone(backbone, torch.empty(2, 3, 75, 101))
    stages = backbone_macs(backbone.config, 75, 101, batch=2)
    assert found.macs == total(stages)[0]
    costs = [cost for stage in stages for cost in stage.costs if cost.block]
    for name, (actual, _) in group_costs(costs, "block").items():
        stage, block = (int(part) - 1 for part in name.split("."))
        assert found.by_module[f"stages.{stage}.blocks.{block}"] == actual
    large = build_backbone("dat-t").train(training)
    assert count_backbone(large, torch.empty(1, 3, 800, 1280)).macs == total(backbone_macs(large.config, 800, 1280))[0]


@pytest.mark.parametrize(("size", "gmacs"), [("t", 272.4), ("s", 370.9), ("b", 524.9)])
def test_the_paper_s_count_of_dynamicswin_is_that_of_training(size, gmacs):
    """Predictors and short ways on top of Swin; the paper prints 272, and 363 and 517, which nothing explains."""
    config = backbone_config(f"dynamicswin-{size}")
    swin = total(detector_macs(backbone_config(f"swin-{size}"), 800, 1280))[1]
    training = total(detector_macs(config, 800, 1280, config.keep_ratios, training=True))[1]
    assert training / 1e9 == pytest.approx(gmacs, abs=0.05)
    assert total(detector_macs(config, 800, 1280, config.keep_ratios))[1] < swin < training


def test_dynamicswin_saves_what_its_ratios_say():
    """Six blocks of Swin-T's third stage, by hand: five with two ways, three predictors."""
    config, tokens, channels = backbone_config("dynamicswin-t"), 80 * 50, 384
    swin = total(backbone_macs(backbone_config("swin-t"), 800, 1280))[0]
    predictor = channels**2 + channels * 192 + 192 * 96 + 96 * 2
    saved = sum(round(tokens * (1 - ratio)) * 7 * channels**2 for ratio in (0.7, 0.5, 0.3, 0.3, 0.3))
    ours = total(backbone_macs(config, 800, 1280, config.keep_ratios))[0]
    assert ours == swin + 3 * tokens * predictor - saved


def test_an_image_of_dat_costs_what_was_published():
    """4.6, 9.0 and 15.8 GMACs at 224 x 224."""
    published = {"t": 4.6, "s": 9.0, "b": 15.8}
    for size, gmacs in published.items():
        found = total(backbone_macs(backbone_config(f"dat-{size}"), 224, 224))[0] / 1e9
        assert found == pytest.approx(gmacs, abs=0.1)
    assert stage_grids(224, 224)[2] == (14, 14)


def test_a_profile_has_one_row_at_its_own_ratios_and_the_cost_of_training():
    """Whatever ratio is asked for: DynamicSwin's are part of the model."""
    rivals = tuple(subject(name, (0.1, 0.9)) for name in ("swin-nano", "dynamicswin-nano", "dat-nano"))
    report = profile(ProfileRequest(rivals, Setting("backbone", 75, 101, batch=2), latency=False))
    assert report.miscounted == []
    rows = report.of_scope("backbone")
    assert [row.name for row in rows] == ["swin-nano dense", "dynamicswin-nano own", "dat-nano dense"]
    assert rows[1].block_ratios == (0.7,)
    config = rivals[1].config
    expected = total(backbone_macs(config, 75, 101, config.keep_ratios, batch=2, training=True))
    assert [row.macs_training for row in rows] == [None, expected, None]
    table = grids(report)[0]
    figures = dict(zip(table.columns, table.rows[1], strict=True))
    assert figures["training GMACs"] > figures["GMACs"]
    plain = to_dict(report)["rows"]
    assert plain[0]["macs_training"] == plain[0]["macs_actual"] < plain[1]["macs_training"]
