from __future__ import annotations

import pytest
import torch
from torchvision.models import swin_t
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead

from sptcore.errors import EnvironmentFault
from sptcore.models.variants import build_backbone
from sptcore.profiling import counted
from sptcore.profiling.counted import count_backbone, count_heads, count_macs
from sptcore.profiling.forced import active_windows, blob_masks, forced_selection, shift_of, window_masks
from sptcore.profiling.macs import (
    Counts,
    DetectorShape,
    backbone_macs,
    detector_macs,
    group_costs,
    spa_places,
    stage_grids,
    total,
)
from sptcore.tasks.detector import HEADS, build_detector


def counts_of(masks: list[torch.Tensor]) -> Counts:
    return [mask.flatten(1).sum(1).tolist() for mask in masks]


@pytest.mark.parametrize("size", ["t", "s", "b"])
def test_our_swin_counts_as_the_formula_says(size: str) -> None:
    """O25 at 1280 x 800: every block, not only the sum."""
    backbone = build_backbone(f"swin-{size}").eval()
    found = count_backbone(backbone, torch.empty(1, 3, 800, 1280, device="meta"))
    stages = backbone_macs(backbone.config, 800, 1280)
    assert found.macs == total(stages)[0]
    costs = [cost for stage in stages for cost in stage.costs if cost.block]
    for name, (actual, _) in group_costs(costs, "block").items():
        stage, block = (int(part) - 1 for part in name.split("."))
        assert found.by_module[f"stages.{stage}.blocks.{block}"] == actual


def test_torchvision_counts_as_the_paper_says() -> None:
    """O25: torchvision pads before it projects, as the paper's figures do."""
    network = swin_t(weights=None).eval().to("meta")
    image = torch.empty(1, 3, 800, 1280, device="meta")
    with torch.no_grad():
        found = count_macs(lambda: network.features(image))
    assert found.macs == total(backbone_macs(build_backbone("swin-t").config, 800, 1280))[1] == 95563250688


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bypass": "proj", "train_packing": "stream", "eval_packing": "stream"},
        {"bypass": "skip_block"},
        {"ffn": "selected", "rpb": "none"},
        {"selector": "topk", "topk_score": "l2", "rpb": "slot"},
        {"scope": "image_region", "num_spa_blocks": 5},
        {"container_len": 20, "score_propagation": False},
        {"num_spa_blocks": 8},
    ],
)
@pytest.mark.parametrize("size", [(96, 128), (75, 101)])
def test_spa_blocks_count_as_the_formula_says(options: dict[str, str], size: tuple[int, int]) -> None:
    """O25: uneven images, one of them empty in the last block, under every option that changes the count."""
    backbone = build_backbone("spt-nano", **options).eval()
    generator = torch.Generator().manual_seed(1)
    grids = stage_grids(*size)
    places = spa_places(backbone.config)
    ratios = [[0.05 + 0.1 * place, 0.9, 0.4] for place in range(len(places))]
    ratios[-1][0] = 0.0
    masks = [
        blob_masks(3, grids[stage - 1], ratio, generator) for (stage, _), ratio in zip(places, ratios, strict=True)
    ]
    found = count_backbone(backbone, torch.randn(3, 3, *size, generator=generator), masks)
    assert found.macs == total(backbone_macs(backbone.config, *size, batch=3, counts=counts_of(masks)))[0]


@pytest.mark.parametrize(
    "options",
    [
        {"selector": "topk_windows"},
        {"selector": "topk_windows", "bypass": "skip_block"},
        {"selector": "ground_truth"},
        {"selector": "random", "bypass": "proj"},
        {"selector": "gate", "ffn": "selected", "num_spa_blocks": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(128, 160), (107, 141)])
@pytest.mark.parametrize("whole", [True, False])
def test_gathered_windows_count_as_the_formula_says(
    options: dict[str, str], size: tuple[int, int], whole: bool
) -> None:
    """O25: whole windows and scattered tokens, an empty image in the last block, shifted windows, pad cells."""
    backbone = build_backbone("spt-nano", attention="window_gather", **options).eval()
    config, generator, masks, windows = backbone.config, torch.Generator().manual_seed(1), [], []
    for number, (stage, block) in enumerate(spa_places(config)):
        grid, ratio = stage_grids(*size)[stage - 1], 0.1 + 0.2 * number
        rule = {"window_size": config.window_size, "shift_size": shift_of(config, block)}
        mask = window_masks(2, grid, ratio, generator, **rule) if whole else blob_masks(2, grid, ratio, generator)
        mask[0] &= number < config.num_spa_blocks - 1
        masks.append(mask)
        windows.append(active_windows(mask, **rule))
    found = count_backbone(backbone, torch.randn(2, 3, *size, generator=generator), masks)
    exact = backbone_macs(config, *size, batch=2, counts=counts_of(masks), windows=windows)
    assert found.macs == total(exact)[0]
    if not whole:
        assert total(backbone_macs(config, *size, batch=2, counts=counts_of(masks)))[0] < found.macs


@pytest.mark.parametrize("selected", [96, 100])
def test_equation_9_is_what_runs_up_to_its_full_containers(selected: int) -> None:
    """O25: bypass = proj, stream. Equal when L divides P, else larger by 3C^2(B'L - P) a block; L = 16 here."""
    backbone = build_backbone("spt-nano", bypass="proj", eval_packing="stream").eval()
    grids = stage_grids(640, 768)
    masks = []
    for stage, _ in spa_places(backbone.config):
        mask = torch.zeros(1, *grids[stage - 1], dtype=torch.bool)
        mask.view(-1)[:selected] = True
        masks.append(mask)
    found = count_backbone(backbone, torch.randn(1, 3, 640, 768), masks)
    stages = backbone_macs(backbone.config, 640, 768, counts=counts_of(masks))
    excess = 0
    for stage, _ in spa_places(backbone.config):
        excess += 3 * backbone.config.channels[stage - 1] ** 2 * (-selected % 16)
    dense_padding = sum(cost.eq9 - cost.actual for stage in stages[:2] for cost in stage.costs)
    assert (excess == 0) == (selected == 96)
    assert total(stages)[1] - dense_padding == found.macs + excess


@pytest.mark.parametrize("heads", ["standard", "small"])
def test_heads_count_as_the_formula_says(heads: str) -> None:
    shape = DetectorShape(HEADS[heads], categories=7)
    backbone = build_backbone("swin-nano")
    detector = build_detector(backbone, shape.heads, classes=7, masks=True)
    expected = group_costs(detector_macs(backbone.config, 320, 500, batch=2, shape=shape), "part")
    found = count_heads(detector, shape, torch.empty(2, 3, 320, 500, device="meta"))
    assert {part: one.macs for part, one in found.items()} == {
        part: actual for part, (actual, _) in expected.items() if part != "backbone"
    }


def test_standard_heads_are_torchvisions() -> None:
    """The paper's 50.6, 14.3 and 53.0 G for proposals, 1000 boxes and 100 masks of 80 categories at 1280 x 800."""
    with torch.device("meta"):
        maps = [torch.empty(1, 256, h, w) for h, w in (*stage_grids(800, 1280), (13, 20))]
        rpn, regions = RPNHead(256, 3), torch.empty(1000, 256, 7, 7)
        box, scores = TwoMLPHead(256 * 49, 1024), FastRCNNPredictor(1024, 81)
        mask, draw = MaskRCNNHeads(256, (256,) * 4, 1), MaskRCNNPredictor(256, 256, 80)
        masked = torch.empty(100, 256, 14, 14)
    with torch.no_grad():
        found = {
            "rpn": count_macs(lambda: rpn(maps)).macs,
            "box_head": count_macs(lambda: scores(box(regions))).macs,
            "mask_head": count_macs(lambda: draw(mask(masked))).macs,
        }
    expected = group_costs(detector_macs(build_backbone("swin-t").config, 800, 1280), "part")
    assert found == {part: expected[part][1] for part in found}


def test_a_backward_pass_costs_more_than_twice_the_forward() -> None:
    """The fused attention's backward is counted too: 2.5 forward passes, linear layers 2."""
    backbone = build_backbone("swin-nano")
    image = torch.randn(1, 3, 64, 64)
    forward = count_macs(lambda: backbone(image)).macs

    def step() -> None:
        sum(level.sum() for level in backbone(image).maps.values()).backward()

    assert 2.9 * forward < count_macs(step).macs < 3.2 * forward


def test_operations_and_modules_are_told_apart() -> None:
    backbone = build_backbone("spt-nano").eval()
    image = torch.randn(1, 3, 64, 64)
    found = count_backbone(backbone, image)
    assert sum(found.by_op.values()) == found.macs
    assert {"aten.convolution", "aten.addmm"} <= set(found.by_op)
    stages = sum(found.by_module[f"stages.{index}"] for index in range(4))
    assert stages + found.by_module["patch_embed"] + found.by_module["gate"] == found.macs


def test_a_counter_that_counts_wrong_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    counted.check_counter.cache_clear()
    monkeypatch.setattr(counted, "sdpa_flop_count", lambda *shapes: 2)
    monkeypatch.setattr(counted, "flop_registry", {})
    with pytest.raises(EnvironmentFault, match="counts 1 MACs where a test attention"):
        count_macs(lambda: None)
    counted.check_counter.cache_clear()


def test_forced_masks_are_what_the_blocks_select() -> None:
    torch.manual_seed(0)  # there are weights by which the finer scores alone decide: no gradient
    backbone = build_backbone("spt-nano").train()
    masks = [torch.rand(2, *stage_grids(64, 96)[stage - 1]) < 0.3 for stage, _ in spa_places(backbone.config)]
    before = [block.selector for stage in backbone.stages for block in stage.blocks]
    with forced_selection(backbone, masks):
        features = backbone(torch.randn(2, 3, 64, 96))
    assert all(torch.equal(one.selection.mask, mask) for one, mask in zip(features.selections, masks, strict=True))
    features.maps["3"].pow(3).sum().backward()  # the plain sum of normed maps does not depend on anything
    gates = [block.selector.gate.weight.grad for block in backbone.stages[2].blocks]
    assert all(gradient is not None and gradient.any() for gradient in gates)
    assert before == [block.selector for stage in backbone.stages for block in stage.blocks]
    with pytest.raises(ValueError, match="1 masks for 4"), forced_selection(backbone, masks[:1]):
        raise AssertionError("not reached")
