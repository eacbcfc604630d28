"""Which settings of a backbone do something: one that somebody asks for and that does nothing is refused."""

from __future__ import annotations

from collections.abc import Iterable

from sptcore.errors import UsageError
from sptcore.models.bodies import AnyBackboneConfig
from sptcore.models.config import BackboneConfig
from sptcore.models.selectors import FIXED_RATIO
from sptcore.models.vit.config import ViTConfig

_PACKING = ("train_packing", "eval_packing", "container_len", "scope", "rpb")
_GATE = ("select_threshold", "tau", "noise", "min_tokens_per_image")
_GATES = ("score_propagation", "gate_bias_init")
_SELECTING = (*_PACKING, *_GATE, *_GATES, "attention", "selector", "select_ratio", "topk_score", "bypass", "ffn")


def check_effect(config: AnyBackboneConfig, settings: Iterable[str]) -> None:
    """Raises UsageError for the first of `settings`, names of fields that somebody gave, that does nothing."""
    idle = _idle_in_vit(config) if isinstance(config, ViTConfig) else _idle(config)
    for name in settings:
        if name in idle:
            shown = name.removeprefix("train_").removeprefix("eval_")
            raise UsageError(f"{shown} does nothing in this model: {idle[name]}", hint="leave it out")


def _idle(config: BackboneConfig) -> dict[str, str]:
    """The settings that do nothing in `config`, and why."""
    packed = f"with attention = {config.attention!r} nothing is packed"
    rules = (
        (bool(config.predictor_blocks), "unselected tokens take its short network", ("ffn",)),
        (config.selector != "topk", f"selector {config.selector!r} ranks no tokens", ("topk_score",)),
        (config.selector not in FIXED_RATIO, f"selector {config.selector!r} takes no stated share", ("select_ratio",)),
        (not config.uses_gates, "it has no gates", _GATES),
        (config.selector != "gate", f"it belongs to selector 'gate', this is {config.selector!r}", _GATE),
        (config.packing_in_use is None, packed, _PACKING),
        (not config.num_spa_blocks, "no block of it selects", _SELECTING),
    )
    return {name: reason for applies, reason, names in rules if applies for name in names}


def _idle_in_vit(config: ViTConfig) -> dict[str, str]:
    return {} if config.prunes else {"keep_rate": "it prunes no tokens"}
