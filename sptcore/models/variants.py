"""VARIANTS: the named backbones. SPT differs from Swin of the same size in the number of blocks that select, and the
baselines from SPT in how these select and attend. A name is family-size, the size after the last dash.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sptcore.errors import UsageError, did_you_mean
from sptcore.models.bodies import AnyBackbone, AnyBackboneConfig, body_of, config_from_dict, find_backbone
from sptcore.models.config import BackboneConfig
from sptcore.models.vit.config import ViTConfig

__all__ = [
    "VARIANTS",
    "AnyBackbone",
    "AnyBackboneConfig",
    "backbone_config",
    "build_backbone",
    "config_from_dict",
    "find_backbone",
]

_NANO = BackboneConfig(
    embed_dim=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=4, mlp_ratio=2.0, drop_path=0.0
)
_TINY = BackboneConfig(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), drop_path=0.2)
_SMALL = BackboneConfig(embed_dim=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24), drop_path=0.3)
_BASE = BackboneConfig(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), drop_path=0.5)

_HIERARCHICAL: dict[str, BackboneConfig] = {
    "swin-nano": _NANO,
    "swin-t": _TINY,
    "swin-s": _SMALL,
    "swin-b": _BASE,
    "spt-nano": replace(_NANO, num_spa_blocks=4),
    "spt-t": replace(_TINY, num_spa_blocks=8),
    "spt-s": replace(_SMALL, num_spa_blocks=20),
    "spt-b": replace(_BASE, num_spa_blocks=20),
}

_PREDICTORS = {"nano": (1,), "t": (1, 2, 3), "s": (2, 4, 6), "b": (2, 4, 6)}  # blocks of stage 3
_HIERARCHICAL |= {
    f"dynamicswin-{size}": replace(
        _HIERARCHICAL[f"swin-{size}"],
        num_spa_blocks=len(blocks),
        predictor_blocks=blocks,
        keep_ratios=(0.7, 0.5, 0.3)[: len(blocks)],
        selector="predictor",
        attention="window",
        bypass="fast_mlp",
    )
    for size, blocks in _PREDICTORS.items()
}
_HIERARCHICAL |= {
    f"dat-{size}": replace(_HIERARCHICAL[f"swin-{size}"], deformable_stages=(3, 4), drop_path=rate)
    for size, rate in {"nano": 0.0, "t": 0.2, "s": 0.3, "b": 0.5}.items()
}

_SIZES = ("nano", "t", "s", "b")
_BASELINES: dict[str, dict[str, Any]] = {
    "topk-windows": {"selector": "topk_windows", "attention": "window_gather", "topk_score": "l2"},  # Table 7, row 1
    "topk-tokens": {"selector": "topk", "topk_score": "gate"},
    "swin-gt": {"selector": "ground_truth", "attention": "window_gather"},  # Fig. 4
    "spt-gt": {"selector": "ground_truth"},  # Fig. 4
}
_HIERARCHICAL |= {
    f"{family}-{size}": replace(_HIERARCHICAL[f"spt-{size}"], **settings)
    for family, settings in _BASELINES.items()
    for size in _SIZES
}

_PLAIN = {  # blocks that prune, and what DynamicViT weighs its ratios with
    "nano": (ViTConfig(dim=64, depth=6, heads=2, mlp_ratio=2.0, drop_path=0.0, position_grid=(8, 8)), (1, 3), 2.0),
    "s": (ViTConfig(), (3, 6, 9), 2.0),
    "b": (ViTConfig(dim=768, heads=12), (3, 6, 9), 5.0),
}
VARIANTS: dict[str, AnyBackboneConfig] = {**_HIERARCHICAL}
for _size, (_vit, _blocks, _weight) in _PLAIN.items():
    _every = tuple(range(_vit.depth))
    VARIANTS |= {
        f"vit-{_size}": _vit,
        f"vit-gt-{_size}": replace(_vit, selector="ground_truth", select_blocks=_every),  # Fig. 4
        f"dynamicvit-{_size}": replace(_vit, selector="predictor", select_blocks=_blocks, ratio_loss_weight=_weight),
        f"evit-{_size}": replace(_vit, selector="class_attention", select_blocks=_blocks),
    }


def backbone_config(name: str, **overrides: Any) -> AnyBackboneConfig:
    """The config of a named variant with some settings replaced. Raises UsageError for an unknown name or setting."""
    if name not in VARIANTS:
        raise UsageError(
            f"there is no model {name!r}; there are {', '.join(VARIANTS)}", hint=did_you_mean(name, VARIANTS)
        )
    return config_from_dict(VARIANTS[name].to_dict() | overrides)


def build_backbone(model: str | AnyBackboneConfig, **overrides: Any) -> AnyBackbone:
    """Build a backbone with fresh weights from a name in VARIANTS or a config; `overrides` replace settings.

    Raises UsageError for an unknown name or setting.
    """
    if isinstance(model, str):
        return body_of(backbone_config(model, **overrides))
    return body_of(config_from_dict(model.to_dict() | overrides))
