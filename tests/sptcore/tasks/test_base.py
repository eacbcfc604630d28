"""The selection loss (O19) and the counts behind the select ratios."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sptcore.models.backbone import Features, PlacedSelection
from sptcore.models.variants import build_backbone
from sptcore.ops.selection import Selection
from sptcore.tasks.base import BlockCounts, ModelSpec, add_counts, block_counts, select_loss, supervised
from sptcore.tasks.detection import DetectionTask

LN2 = math.log(2)
MAPS = {"3": torch.zeros(1)}


def placed(
    logits: Tensor, *, valid: Tensor | None = None, stride: int = 16, block: int = 0, **fields: Any
) -> PlacedSelection:
    valid = torch.ones_like(logits, dtype=torch.bool) if valid is None else valid
    weight = ((logits > -4.595) & valid).float()
    stage = {8: 2, 16: 3, 32: 4}[stride]
    return PlacedSelection(Selection(logits, weight, valid, **fields), stage, block, stride)


def labels(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.6


def test_right_scores_lose_nothing() -> None:
    truth = {8: labels(0, 2, 8, 8), 16: labels(1, 2, 4, 4)}
    features = Features(
        MAPS,
        (placed(40 * (2 * truth[16].float() - 1)), placed(40 * (2 * truth[16].float() - 1), block=1)),
        placed(40 * (2 * truth[8].float() - 1), stride=8),
    )
    assert select_loss(features, truth) < 1e-6


def test_undecided_scores_lose_ln2_a_map() -> None:
    truth = {8: labels(0, 2, 8, 8), 16: labels(1, 2, 4, 4), 32: labels(2, 2, 2, 2)}
    selections = tuple(placed(torch.zeros(2, n, n), stride=s, block=b) for s, n in ((16, 4), (32, 2)) for b in (0, 1))
    features = Features(MAPS, selections, placed(torch.zeros(2, 8, 8), stride=8))
    assert len(supervised(features)) == 5
    assert float(select_loss(features, truth)) == pytest.approx(5 * LN2, rel=1e-6)


def test_padding_changes_nothing() -> None:
    valid = torch.zeros(2, 4, 4, dtype=torch.bool)
    valid[0, :3, :4] = valid[1, :2, :3] = True
    truth, logits = labels(3, 2, 4, 4), torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(1))
    before = select_loss(Features(MAPS, (placed(logits, valid=valid),)), {16: truth})
    changed = torch.where(valid, logits, 1e4)
    after = select_loss(Features(MAPS, (placed(changed, valid=valid),)), {16: truth ^ ~valid})
    assert torch.equal(before, after)
    other = torch.where(valid, logits + 1, logits)
    assert not torch.equal(before, select_loss(Features(MAPS, (placed(other, valid=valid),)), {16: truth}))


def test_each_map_is_a_mean_over_the_valid_tokens_of_all_images() -> None:
    valid = torch.tensor([[[True, True]], [[True, False]]])
    logits = torch.tensor([[[1.0, -2.0]], [[0.5, 9.0]]])
    truth = torch.tensor([[[True, False]], [[False, True]]])
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(-2)) + math.log1p(math.exp(0.5))) / 3
    loss = select_loss(Features(MAPS, (placed(logits, valid=valid),)), {16: truth})
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_the_combined_score_is_supervised_not_the_own_gates() -> None:
    """3(f): the s of Eq. 4, raised by the finer scale."""
    truth = {16: labels(1, 2, 4, 4)}
    raised = placed(40 * (2 * truth[16].float() - 1), own_logits=torch.zeros(2, 4, 4))
    assert select_loss(Features(MAPS, (raised,)), truth) < 1e-6


def test_selection_without_a_gate_is_not_supervised() -> None:
    features = Features(MAPS, (placed(torch.zeros(1, 4, 4), gated=False),))
    assert supervised(features) == []
    assert float(select_loss(features, {})) == 0
    with pytest.raises(KeyError):
        select_loss(Features(MAPS, (placed(torch.zeros(1, 4, 4)),)), {8: labels(0, 1, 8, 8)})


def test_a_backbone_is_supervised_on_s0_and_every_spa_block() -> None:
    torch.manual_seed(0)
    features = build_backbone("spt-nano")(torch.randn(1, 3, 64, 64))
    assert [(one.stage, one.block, one.stride) for one in supervised(features)] == [
        (2, -1, 8), (3, 0, 16), (3, 1, 16), (4, 0, 32), (4, 1, 32),
    ]  # fmt: skip
    assert supervised(build_backbone("swin-nano")(torch.randn(1, 3, 64, 64))) == []


def test_counts_are_those_of_the_masks() -> None:
    valid = torch.ones(1, 2, 3, dtype=torch.bool)
    valid[0, 1, 2] = False
    logits = torch.tensor([[[9.0, -9.0, 9.0], [-9.0, 9.0, 9.0]]])
    truth = torch.tensor([[[True, True, False], [False, True, True]]])
    one = placed(logits, valid=valid, own_logits=torch.full((1, 2, 3), -9.0), threshold=0.01)
    (counts,) = block_counts(Features(MAPS, (one,)), {16: truth})
    assert counts == BlockCounts(3, 0, 16, valid=5, selected=3, own=0, positive=3, hit=2)
    assert (counts.select_ratio, counts.label_ratio, counts.own_ratio) == (0.6, 0.6, 0.0)
    assert counts.recall == counts.precision == pytest.approx(2 / 3)
    (unlabelled,) = block_counts(Features(MAPS, (one,)), None)
    assert (unlabelled.positive, unlabelled.recall) == (0, None)


def test_ratios_over_batches_are_over_tokens_not_over_batches() -> None:
    first, second = BlockCounts(3, 0, 16, valid=10, selected=10), BlockCounts(3, 0, 16, valid=90, selected=0)
    (total,) = add_counts(add_counts([], [first]), [second])
    assert total.select_ratio == 0.1
    assert block_counts(Features(MAPS), None) == []


def test_a_model_description_survives_json() -> None:
    import json

    from sptcore.models.variants import backbone_config

    heads = DetectionTask().heads_config("auto", "spt-nano")
    categories = ((0, "cup"), (7, "café"))
    spec = ModelSpec("detect", "spt-nano", backbone_config("spt-nano"), heads, categories, True, (128, 96))
    again = ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert (again.backbone, again.categories, again.resolution) == (spec.backbone, spec.categories, spec.resolution)
    assert json.dumps(again.to_dict()) == json.dumps(spec.to_dict())
