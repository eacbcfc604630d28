"""The simple feature pyramid: four strides from one map."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from sptcore.models.variants import build_backbone
from sptcore.tasks.detector import HEADS, build_detector
from sptcore.tasks.simple_pyramid import ChannelNorm, SimplePyramid
from tests.support.networks import randomise, tokens
from tests.support.numerics import assert_same


def test_levels_have_their_strides_and_channels():
    pyramid = SimplePyramid(32, ("0", "1", "2", "3"), 24, extra_blocks=LastLevelMaxPool())
    levels = pyramid({"2": tokens(2, 32, 6, 10)})
    assert {name: tuple(level.shape) for name, level in levels.items()} == {
        "0": (2, 24, 24, 40), "1": (2, 24, 12, 20), "2": (2, 24, 6, 10), "3": (2, 24, 3, 5), "pool": (2, 24, 2, 3),
    }  # fmt: skip
    assert list(levels) == ["0", "1", "2", "3", "pool"]


def test_only_the_levels_asked_for_have_layers():
    few, all_four = (SimplePyramid(32, levels, 24) for levels in (("1", "2"), ("0", "1", "2", "3")))
    assert list(few({"2": tokens(1, 32, 2, 2)})) == ["1", "2"]
    assert set(few.state_dict()) == {name for name in all_four.state_dict() if name.split(".")[1] in ("1", "2")}


def test_the_level_of_the_maps_own_stride_is_two_convolutions():
    pyramid = randomise(SimplePyramid(32, ("2",), 24))
    x = tokens(1, 32, 5, 4)
    enter, norm1, spread, norm2 = pyramid.branches["2"]
    assert torch.equal(pyramid({"2": x})["2"], norm2(spread(norm1(enter(x)))))


def test_the_norm_is_over_channels():
    norm = ChannelNorm(8)
    x = tokens(2, 8, 3, 5)
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    assert_same(norm(x).detach(), expected, tolerance=1e-6)


@pytest.mark.parametrize("name", ["vit-nano", "evit-nano"])
@pytest.mark.parametrize("heads", ["small", "standard"])
def test_a_detector_stands_on_a_vit(name, heads):
    """Losses reach the patches; detections come out; every parameter of the pyramid learns."""
    settings = HEADS[heads]
    detector = build_detector(build_backbone(name), settings, classes=3, masks=False).train()
    images = torch.randint(0, 256, (1, 3, 96, 128), dtype=torch.uint8)
    target = {"boxes": torch.tensor([[8.0, 8.0, 60.0, 70.0]]), "labels": torch.tensor([1])}
    output = detector(images, torch.tensor([[90, 120]]), [target])
    torch.stack(list(output.losses.values())).sum().backward()
    assert detector.backbone.body.patch_embed.proj.weight.grad.any()
    pyramid = detector.backbone.fpn
    assert all(parameter.grad is not None for parameter in pyramid.parameters())
    with torch.no_grad():
        output = detector.eval()(images, torch.tensor([[90, 120]]))
    assert set(output.detections[0]) >= {"boxes", "scores", "labels"}
