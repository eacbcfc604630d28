"""The settings of a plain ViT, and how many tokens its keep rate comes to."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace

import pytest
import tomlkit

from sptcore.errors import UsageError
from sptcore.models.config import BackboneConfig
from sptcore.models.variants import VARIANTS, backbone_config, config_from_dict
from sptcore.models.vit.config import ViTConfig

DYNAMIC = ViTConfig(selector="predictor", select_blocks=(3, 6, 9))
EVIT = ViTConfig(selector="class_attention", select_blocks=(3, 6, 9))
PLAIN = [name for name, config in VARIANTS.items() if config.is_plain]


@pytest.mark.parametrize("name", PLAIN)
def test_a_config_survives_json_and_toml(name):
    config = backbone_config(name, drop_path=0.05)
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config_from_dict(tomllib.loads(tomlkit.dumps(config.to_dict()))) == config
    assert isinstance(config, ViTConfig)


def test_twelve_variants_of_four_families():
    assert [
        f"{family}-{size}" for size in ("nano", "s", "b") for family in ("vit", "vit-gt", "dynamicvit", "evit")
    ] == PLAIN
    assert VARIANTS["dynamicvit-b"].to_dict()["ratio_loss_weight"] == 5.0


def test_a_dict_without_a_body_is_a_hierarchical_backbone():
    assert isinstance(config_from_dict(BackboneConfig().to_dict()), BackboneConfig)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"heads": 5}, "divide"),
        ({"selector": "gate"}, "does not exist in a ViT"),
        ({"select_blocks": (1,)}, "belong together"),
        ({"selector": "predictor"}, "belong together"),
        ({"selector": "predictor", "select_blocks": (12,)}, r"0\.\.11"),
        ({"keep_rate": 0.0}, "keep_rate"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"position_grid": (14,)}, "position_grid"),
        ({"shrink_span": (0.5, 0.1)}, "shrink_span"),
        ({"ratio_loss_weight": -1.0}, "negative"),
    ],
)
def test_values_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(UsageError, match=said):
        ViTConfig(**settings)


def test_a_setting_of_another_body_is_refused_by_name():
    with pytest.raises(UsageError, match="'window_size' is not a setting of a ViT"):
        backbone_config("vit-s", window_size=7)
    with pytest.raises(UsageError, match="'dim' is not a setting"):
        backbone_config("swin-t", dim=7)


def test_dynamicvit_keeps_powers_of_its_rate():
    assert DYNAMIC.kept_tokens(196) == (137, 96, 67)
    assert DYNAMIC.kept_tokens(100) == (70, 49, 34)  # exact: 100 * .7 * .7 is below 49 in floating point
    assert DYNAMIC.kept_tokens(1) == (1, 1, 1)


def test_evit_keeps_a_share_of_what_is_there_its_fused_token_too():
    """helpers of EViT: 196 -> 138 + 1 fused -> ceil(.7 x 139) = 98, + 1 -> ceil(.7 x 99) = 70."""
    assert EVIT.kept_tokens(196) == (138, 98, 70)
    assert replace(EVIT, fuse_token=False).kept_tokens(196) == (138, 97, 68)
    assert EVIT.kept_tokens(196, 1.0) == (196, 196, 196)
    assert replace(EVIT, keep_rate=0.1).kept_tokens(30)[0] == 3  # not the 4 of a rounded product
    assert ViTConfig().kept_tokens(196) == ()


def test_what_is_asked_of_every_config():
    config = backbone_config("evit-nano")
    assert config.with_outputs((2, 3)) is config
    assert config.select_places == ((3, 1), (3, 3))
    assert config.spa_blocks == (0, 0, 2, 0)
    assert config.fixed_ratios == pytest.approx((0.7, 0.49))
    assert backbone_config("vit-gt-nano").fixed_ratios is None
    assert (config.uses_gates, config.entry_stage, config.eval_packing) == (False, None, None)
