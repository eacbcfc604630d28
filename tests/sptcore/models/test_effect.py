"""Settings that would do nothing are refused, those that do something are not."""

from __future__ import annotations

import pytest
import torch

from sptcore.errors import UsageError
from sptcore.models.effect import check_effect
from sptcore.models.variants import backbone_config, build_backbone

IDLE = (
    ("swin-nano", {"eval_packing": "stream"}, "packing does nothing .* no block of it selects"),
    ("swin-nano", {"ffn": "selected"}, "no block of it selects"),
    ("dat-nano", {"select_threshold": 0.5}, "no block of it selects"),
    ("topk-windows-nano", {"eval_packing": "stream"}, "nothing is packed"),
    ("topk-windows-nano", {"scope": "image_region"}, "nothing is packed"),
    ("topk-windows-nano", {"rpb": "slot"}, "nothing is packed"),
    ("topk-tokens-nano", {"select_threshold": 0.5}, "belongs to selector 'gate'"),
    ("spt-gt-nano", {"score_propagation": False}, "no gates"),
    ("spt-nano", {"select_ratio": 0.1}, "takes no stated share"),
    ("spt-nano", {"topk_score": "l2"}, "ranks no tokens"),
    ("dynamicswin-nano", {"eval_packing": "stream"}, "nothing is packed"),
    ("dynamicswin-nano", {"ffn": "selected"}, "short network"),
    ("dynamicswin-nano", {"select_ratio": 0.1}, "takes no stated share"),
)
AT_WORK = (
    ("spt-nano", {"eval_packing": "stream"}),
    ("spt-nano", {"ffn": "selected"}),
    ("spt-nano", {"bypass": "proj"}),
    ("spt-nano", {"rpb": "none"}),
    ("spt-nano", {"scope": "image_region"}),
    ("spt-nano", {"select_threshold": 0.5}),
    ("spt-nano", {"score_propagation": False}),
    ("topk-windows-nano", {"bypass": "skip_block"}),
    ("topk-windows-nano", {"select_ratio": 0.25}),
    ("topk-tokens-nano", {"topk_score": "l2"}),
    ("swin-gt-nano", {"ffn": "selected"}),
    ("swin-nano", {"num_spa_blocks": 2}),
)


@pytest.mark.parametrize(("model", "settings", "words"), IDLE)
def test_what_does_nothing_is_refused(model: str, settings: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_effect(backbone_config(model, **settings), settings)
    assert torch.equal(answer(model), answer(model, **settings)), "the words are true"


@pytest.mark.parametrize(("model", "settings"), AT_WORK)
def test_what_does_something_is_not(model: str, settings: dict) -> None:
    check_effect(backbone_config(model, **settings), settings)
    assert not torch.equal(answer(model), answer(model, **settings))


def test_the_keep_rate_belongs_to_vits_that_prune() -> None:
    check_effect(backbone_config("evit-nano", keep_rate=0.4), ["keep_rate"])
    with pytest.raises(UsageError, match="prunes no tokens"):
        check_effect(backbone_config("vit-nano", keep_rate=0.4), ["keep_rate"])


def answer(model: str, **settings: object) -> torch.Tensor:
    """The last map of two images of 120 x 88 pixels, weights and labels from a seed, selection in between."""
    torch.manual_seed(0)
    backbone = build_backbone(model, **settings).eval()
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            own = torch.Generator().manual_seed(sum(name.encode()))
            if "norm" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=own) * (0.5 if "gate" in name else 0.1))
            parameter -= 6.0 * name.endswith("gate.bias")
    images = torch.randn(2, 3, 120, 88, generator=drawn)
    labels = {
        stride: torch.rand(2, -(-120 // stride), -(-88 // stride), generator=drawn) > 0.5 for stride in (4, 8, 16, 32)
    }
    with torch.no_grad():
        return backbone(images, select_labels=labels).maps["3"]
