"""What every plain ViT keeps to: any size, padding that changes nothing, gradients everywhere."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sptcore.models.classifier import Classifier
from sptcore.models.recompute import recompute_blocks
from sptcore.models.vit.model import ViT
from tests.support.networks import tokens
from tests.support.numerics import assert_differs, assert_same
from tests.support.plain import KINDS, small_vit


def labels_for(images, seed=5):
    grid = [-(-side // 16) for side in images.shape[-2:]]
    return {16: tokens(len(images), *grid, seed=seed) > 0}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(64, 80), (70, 45), (5, 130), (1, 1)])
@pytest.mark.parametrize("training", [False, True])
def test_a_vit_keeps_its_contract_at_any_size(kind, size, training):
    model = small_vit(kind).train(training)
    images = tokens(2, 3, *size)
    sizes = torch.tensor([[size[0], size[1]], [max(1, size[0] // 2), size[1]]])
    features = model(images, sizes, labels_for(images))
    grid = (-(-size[0] // 16), -(-size[1] // 16))
    assert list(features.maps) == ["2"]
    assert features.maps["2"].shape == (2, model.out_channels[0], *grid)
    assert features.maps["2"].isfinite().all()
    assert features.pooled is not None
    assert features.pooled.shape == (2, 32)
    assert tuple((one.stage, one.block) for one in features.selections) == model.config.select_places
    assert set(features.losses) == ({"loss_ratio"} if training and kind == "predictor" else set())
    for one in features.selections:
        selection = one.selection
        assert not selection.gated
        assert one.stride == 16
        assert selection.valid.flatten(1).sum(1).tolist() == [grid[0] * grid[1], -(-int(sizes[1, 0]) // 16) * grid[1]]
        assert not (selection.mask & ~selection.valid).any()
        assert set(selection.weight.unique().tolist()) <= {0.0, 1.0}
    masks = [one.selection.mask for one in features.selections]
    if model.config.prunes:
        assert not (masks[1] & ~masks[0]).any()  # what is gone stays gone


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [False, True])
def test_padding_does_not_change_an_images_result(kind, training):
    """Beside a larger image, an image gets the map and the image vector that it gets alone."""
    model = small_vit(kind).train(training)
    images = tokens(2, 3, 96, 112)
    images[1, :, 48:] = 0
    images[1, :, :, 70:] = 0
    labels = labels_for(images)
    sizes = torch.tensor([[96, 112], [48, 70]])
    torch.manual_seed(0)
    together = model(images, sizes, labels)
    if kind == "predictor" and training:
        return  # other draws
    alone = model(images[1:, :, :48, :70], None, {16: labels[16][1:, :3, :5]})
    assert_same(together.maps["2"][1, :, :3, :5], alone.maps["2"][0], tolerance=1e-5)
    assert_same(together.pooled[1], alone.pooled[0], tolerance=1e-5)
    for one, other in zip(together.selections, alone.selections, strict=True):
        assert torch.equal(one.selection.mask[1, :3, :5], other.selection.mask[0])
    unaware = model(images, None, labels)
    assert_differs(unaware.pooled[1], alone.pooled[0])


@pytest.mark.parametrize("kind", KINDS)
def test_both_branches_of_every_block_may_be_dropped(kind):
    model = small_vit(kind, drop_path=0.3).train()
    dropped = []
    for index, block in enumerate(model.blocks):
        block.drop_path.register_forward_hook(lambda module, given, output, index=index: dropped.append(index))
    images = tokens(2, 3, 64, 64)
    model(images, None, labels_for(images))
    assert dropped == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [block.drop_path.rate for block in model.blocks] == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("output", ["map", "pooled"])
def test_gradients_reach_every_parameter(kind, output):
    model = small_vit(kind).train()
    images = tokens(2, 3, 96, 80)
    torch.manual_seed(0)
    features = model(images, torch.tensor([[96, 80], [64, 80]]), labels_for(images))
    target = features.maps["2"] if output == "map" else features.pooled
    (target.pow(3).sum() + sum(features.losses.values())).backward()
    assert [name for name, one in model.named_parameters() if one.grad is None or not one.grad.any()] == []


def test_positions_of_another_grid_are_interpolated():
    model = small_vit()
    learned = model.pos_embed[:, 1:].unflatten(1, (4, 4))
    same = model._positions([(4, 4)], (4, 4))
    assert torch.equal(same, learned)
    other = model._positions([(6, 3), (4, 4)], (6, 4))
    expected = F.interpolate(learned.permute(0, 3, 1, 2), size=(6, 3), mode="bicubic").permute(0, 2, 3, 1)
    assert torch.equal(other[0, :, :3], expected[0])
    assert torch.equal(other[1, :4], learned[0])
    assert not other[1, 4:].any()


def test_labels_of_another_grid_and_no_labels_are_refused():
    model = small_vit("ground_truth")
    with pytest.raises(ValueError, match="grid of that stride is"):
        model(tokens(1, 3, 64, 64), None, {16: torch.ones(1, 4, 5).bool()})
    with pytest.raises(ValueError, match="needs select_labels"):
        model(tokens(1, 3, 64, 64))


def test_a_classifier_reads_the_class_token():
    model = Classifier(small_vit("class_attention"), 5).eval()
    with torch.no_grad():
        answer = model(tokens(2, 3, 64, 96))
        assert_same(answer.logits, model.head(answer.features.pooled), tolerance=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_decides_in_float32(kind):
    model = small_vit(kind).train()
    images = tokens(2, 3, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = model(images, None, labels_for(images))
    assert features.maps["2"].isfinite().all()
    assert all(one.selection.logits.dtype == torch.float32 for one in features.selections)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_computed_again_give_the_same_gradients(kind):
    images = tokens(2, 3, 64, 80)
    gradients = []
    for again in (False, True):
        model = small_vit(kind, drop_path=0.2).train()
        recompute_blocks(model, again)
        torch.manual_seed(0)
        features = model(images, torch.tensor([[64, 80], [48, 80]]), labels_for(images))
        (features.maps["2"].pow(3).sum() + sum(features.losses.values())).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_weights_survive_a_round_trip():
    first, second = small_vit("predictor"), ViT(KINDS["predictor"]).eval()
    second.load_state_dict(first.state_dict())
    images = tokens(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(first(images).maps["2"], second(images).maps["2"])
