"""MACs of plain ViTs: the formula is what runs, in evaluation and in training."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import vit_b_16

from sptcore.models.variants import build_backbone
from sptcore.profiling.counted import count_backbone, count_heads, count_macs
from sptcore.profiling.forced import blob_masks, forced_selection
from sptcore.profiling.macs import DetectorShape, backbone_macs, detector_macs, group_costs, total
from sptcore.tasks.base import block_counts
from sptcore.tasks.detector import HEADS, build_detector

SIZE = (200, 152)  # 13 x 10 tokens


def formula(config, batch=2, *, training=False, **counts):
    stages = backbone_macs(config, *SIZE, config.fixed_ratios or 1.0, batch, training=training, **counts)
    return total(stages)[0]


@pytest.mark.parametrize("family", ["vit", "dynamicvit", "evit"])
def test_what_runs_in_evaluation_is_what_the_formula_says(family):
    backbone = build_backbone(f"{family}-nano").eval()
    found = count_backbone(backbone, torch.randn(2, 3, *SIZE))
    assert found.macs == formula(backbone.config)
    costs = [cost for stage in backbone_macs(backbone.config, *SIZE, backbone.config.fixed_ratios or 1.0, 2)
             for cost in stage.costs]  # fmt: skip
    blocks = group_costs((cost for cost in costs if cost.block), "block")
    assert len(blocks) == 6
    assert found.by_module["patch_embed"] + sum(actual for actual, _ in blocks.values()) == found.macs


def test_ratios_of_selection_by_labels_are_counted_exactly():
    backbone = build_backbone("vit-gt-nano").eval()
    generator = torch.Generator().manual_seed(0)
    masks = [blob_masks(3, (13, 10), [0.1 * block, 0.5, 0.0], generator) for block in range(6)]
    found = count_backbone(backbone, torch.randn(3, 3, *SIZE), masks)
    counts = [mask.flatten(1).sum(1).tolist() for mask in masks]
    assert found.macs == formula(backbone.config, 3, counts=counts)
    assert found.macs < formula(backbone.config, 3)


@pytest.mark.parametrize("family", ["vit", "dynamicvit", "evit"])
def test_training_costs_more_only_where_every_token_is_computed(family):
    backbone = build_backbone(f"{family}-nano").train()
    images = torch.randn(2, 3, *SIZE)
    assert count_macs(lambda: backbone(images)).macs == formula(backbone.config, training=True)
    more = formula(backbone.config, training=True) > formula(backbone.config)
    assert more == (family == "dynamicvit")


@pytest.mark.parametrize("keep_rate", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("fuse_token", [True, False])
def test_tokens_counted_on_the_grid_tell_what_evit_ran_on(keep_rate, fuse_token):
    """A fused token that stays has no place on the grid; the formula knows of it."""
    backbone = build_backbone("evit-nano", keep_rate=keep_rate, fuse_token=fuse_token).eval()
    image = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        counts = [[one.selected] for one in block_counts(backbone(image), None)]
    assert count_backbone(backbone, image).macs == formula(backbone.config, 1, counts=counts)


def test_several_fused_tokens_may_stay():
    """With four pruning blocks up to three have no place on the grid; the weights drawn here keep two or more."""
    away = []
    for seed in range(3):
        torch.manual_seed(seed)
        backbone = build_backbone("evit-nano", keep_rate=0.7, select_blocks=(1, 2, 3, 4)).eval()
        image = torch.randn(1, 3, 128, 128)
        with torch.no_grad():
            counts = [[one.selected] for one in block_counts(backbone(image), None)]
        found = total(backbone_macs(backbone.config, 128, 128, counts=counts))[0]
        assert count_backbone(backbone, image).macs == found
        away.append(backbone.config.kept_tokens(64)[-1] - counts[-1][0])
    assert max(away) > 1


@pytest.mark.parametrize("keep_rate", [0.1, 0.7, 0.9])
@pytest.mark.parametrize("fuse_token", [True, False])
@pytest.mark.parametrize(
    "sizes",
    [[(16, 16)], [(16, 32)], [(16, 48)], [(40, 64)], [(16, 32), (16, 16)], [(16, 16), (64, 64)], [(48, 48), (16, 16)]],
)
def test_small_images_in_a_larger_frame(sizes, keep_rate, fuse_token):
    """An image of a token or two has nothing to drop, so its padding goes on too; three tokens count like four."""
    backbone = build_backbone("evit-nano", keep_rate=keep_rate, fuse_token=fuse_token, select_blocks=(1, 2, 4)).eval()
    images, inside = torch.randn(len(sizes), 3, 64, 64), torch.tensor(sizes)
    with torch.no_grad():
        counts = [one.selection.counts.tolist() for one in backbone(images, inside).selections]
    stages = backbone_macs(backbone.config, 64, 64, batch=len(sizes), counts=counts, image_sizes=sizes)
    assert count_macs(lambda: backbone(images, inside)).macs == total(stages)[0]


def test_sizes_of_images_are_what_tells_padding_from_tokens():
    """The control: taken for a whole grid, the image of one token would seem to have dropped fifteen."""
    backbone = build_backbone("evit-nano").eval()
    alone, whole = (
        total(backbone_macs(backbone.config, 64, 64, counts=[[1], [1]], image_sizes=sizes))[0]
        for sizes in ([(16, 16)], None)
    )
    assert alone == 4350720 > whole


def test_evit_that_keeps_everything_costs_what_vit_does_beside_padding_too():
    backbone = build_backbone("evit-nano", keep_rate=1.0).eval()
    image, sizes = torch.randn(1, 3, 96, 128), torch.tensor([[70, 128]])
    with torch.no_grad():
        counts = [[one.selected] for one in block_counts(backbone(image, sizes), None)]
    assert counts == [[40], [40]]  # of 48
    found = total(backbone_macs(backbone.config, 96, 128, counts=counts))[0]
    assert count_macs(lambda: backbone(image, sizes)).macs == found


@pytest.mark.parametrize("family", ["dynamicvit", "evit"])
def test_the_number_of_tokens_of_a_pruned_vit_is_its_own(family):
    backbone = build_backbone(f"{family}-nano")
    masks = [torch.ones(1, 4, 4).bool()] * 2
    with pytest.raises(ValueError, match="keep rate"), forced_selection(backbone, masks):
        raise AssertionError("not reached")


def test_torchvisions_vit_counts_the_same():
    with torch.device("meta"):
        network, image = vit_b_16().eval(), torch.empty(1, 3, 224, 224)
    with torch.no_grad():
        found = count_macs(lambda: network(image)).macs
    assert found - 768 * 1000 == total(backbone_macs(build_backbone("vit-b").config, 224, 224))[0]


@pytest.mark.parametrize("heads", ["standard", "small"])
def test_the_simple_pyramid_counts_as_the_formula_says(heads):
    shape = DetectorShape(HEADS[heads], categories=7)
    backbone = build_backbone("vit-nano")
    detector = build_detector(backbone, shape.heads, classes=7, masks=True)
    expected = group_costs(detector_macs(backbone.config, 320, 500, batch=2, shape=shape), "part")
    found = count_heads(detector, shape, torch.empty(2, 3, 320, 500, device="meta"))
    assert {part: one.macs for part, one in found.items()} == {
        part: actual for part, (actual, _) in expected.items() if part != "backbone"
    }
