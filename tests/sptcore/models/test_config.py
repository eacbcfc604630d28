"""BackboneConfig: round trip, what it derives, what it refuses."""

from __future__ import annotations

import pytest

from sptcore.errors import UsageError
from sptcore.models.config import BackboneConfig
from sptcore.models.variants import VARIANTS, backbone_config, build_backbone


@pytest.mark.parametrize("name", [name for name, config in VARIANTS.items() if not config.is_plain])
def test_a_config_survives_its_dict(name):
    config = backbone_config(name, container_len=16, tau=0.5)
    assert BackboneConfig.from_dict(config.to_dict()) == config
    assert BackboneConfig.from_dict(VARIANTS[name].to_dict()) == VARIANTS[name]


@pytest.mark.parametrize(
    ("blocks", "per_stage", "entry"),
    [
        (0, (0, 0, 0, 0), None),
        (2, (0, 0, 0, 2), 3),
        (3, (0, 0, 1, 2), 2),
        (8, (0, 0, 6, 2), 2),
        (10, (0, 2, 6, 2), 1),
        (12, (2, 2, 6, 2), None),
    ],
)
def test_selecting_blocks_are_counted_from_the_last_backwards(blocks, per_stage, entry):
    config = backbone_config("spt-t", num_spa_blocks=blocks)
    assert config.spa_blocks == per_stage
    assert config.entry_stage == entry


def test_score_maps_need_gates_and_propagation():
    assert backbone_config("spt-t", score_propagation=False).entry_stage is None
    assert backbone_config("spt-t", selector="ground_truth").entry_stage is None
    assert backbone_config("spt-t", selector="topk").entry_stage == 2
    assert backbone_config("spt-t", selector="topk", topk_score="l2").entry_stage is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"selector": "gates"},
        {"noise": "normal"},
        {"scope": "window"},
        {"rpb": "cpb"},
        {"bypass": "drop"},
        {"ffn": "none"},
        {"train_packing": "dense"},
        {"eval_packing": "dense"},
        {"topk_score": "l1"},
        {"num_spa_blocks": 13},
        {"num_spa_blocks": -1},
        {"select_threshold": 1.5},
        {"select_ratio": -0.1},
        {"tau": 0.0},
        {"drop_path": 1.0},
        {"min_tokens_per_image": -1},
        {"rpb": "slot", "container_len": 64},
        {"container_len": 0},
        {"window_size": 0},
        {"depths": (2, 2, 6)},
        {"num_heads": (5, 6, 12, 24)},
        {"out_stages": ()},
        {"out_stages": (4, 3)},
        {"out_stages": (5,)},
        {"bypass": "proj", "ffn": "selected"},
        {"attention": "window"},
        {"deformable_stages": (3, 4)},
        {"no_such_setting": 1},
    ],
    ids=str,
)
def test_settings_that_do_not_exist_are_refused(wrong):
    with pytest.raises(UsageError):
        build_backbone("spt-t", **wrong)


def test_a_near_miss_is_answered_with_the_right_word():
    with pytest.raises(UsageError) as caught:
        build_backbone("spt-tiny")
    assert "spt-t" in str(caught.value)
    with pytest.raises(UsageError) as caught:
        build_backbone("stp-nano")
    assert caught.value.hint == "did you mean 'spt-nano'?"
    with pytest.raises(UsageError) as caught:
        build_backbone("spt-nano", select_treshold=0.1)
    assert caught.value.hint == "did you mean 'select_threshold'?"
