"""O1 to O5: with every token selected, packed attention is Swin's; and where it must not be."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torchvision.models import swin_t

from sptcore.models.backbone import HierarchicalBackbone
from sptcore.models.classifier import Classifier
from sptcore.models.variants import backbone_config
from sptcore.models.weights import load_torchvision_swin
from sptcore.ops.packing import scatter
from sptcore.ops.selection import Selection
from tests.support.networks import (
    DIM,
    WINDOW,
    block_weights,
    context,
    our_block,
    randomise,
    small_config,
    small_swin,
    swin_block,
    tokens,
)
from tests.support.numerics import assert_differs, assert_same

SCOPES = ["image", "image_region", "image_window"]


def ours_and_swins(shift: int, height: int = 14, width: int = 21, **settings):
    swin = swin_block(shift)
    block = our_block("all", shift, like=swin, **settings)
    x = tokens(2, height, width, DIM)
    with torch.no_grad():
        return block(x, context(x)).tokens, swin(x)


@pytest.mark.parametrize("rpb", ["spatial", "slot"])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("packing", ["stream", "aligned"])
def test_o01_all_selected_even_block_equals_swin(rpb, scope, packing):
    """O1: no shift, multiples of the window, L = M^2: equal to torchvision's block."""
    ours, swins = ours_and_swins(0, rpb=rpb, scope=scope, eval_packing=packing)
    assert_same(ours, swins, tolerance=1e-5)


def test_o01_without_a_position_bias_it_differs():
    """O1, negative control: rpb none is another function."""
    assert_differs(*ours_and_swins(0, rpb="none"))


@pytest.mark.parametrize("rpb", ["spatial", "slot"])
@pytest.mark.parametrize("scope", ["image_region", "image_window"])
def test_o02_all_selected_odd_block_equals_swin(rpb, scope):
    """O2: with the shift, equal under the scopes that know Swin's regions."""
    ours, swins = ours_and_swins(3, rpb=rpb, scope=scope)
    assert_same(ours, swins, tolerance=1e-5)


def test_o02_odd_block_with_scope_image_differs():
    """O2, the other direction: by image alone, tokens of different regions see each other."""
    assert_differs(*ours_and_swins(3, scope="image"))


@pytest.mark.parametrize("train", [False, True])
def test_o03_gradients_equal_swins(train):
    """O3: gradients of the input and of every parameter, fp64, relative 1e-12."""
    swin = swin_block(3, torch.float64).train(train)
    block = our_block("all", 3, like=swin, scope="image_region").train(train)
    theirs, mine = (tokens(2, 14, 21, DIM, dtype=torch.float64).requires_grad_() for _ in range(2))
    weights = tokens(2, 14, 21, DIM, seed=5, dtype=torch.float64)
    (swin(theirs) * weights).sum().backward()
    (block(mine, context(mine)).tokens * weights).sum().backward()
    assert theirs.grad is not None
    assert mine.grad is not None
    expected = {"input": theirs.grad, **block_weights(gradients(swin), gradients(block))}
    actual = {"input": mine.grad, **gradients(block)}
    assert "attn.relative_position_bias_table" in actual
    for name, gradient in actual.items():
        assert_same(gradient / expected[name].abs().max(), expected[name] / expected[name].abs().max(), tolerance=1e-12)


def gradients(module):
    return {name: parameter.grad for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("shift", [0, 3])
def test_o04_pad_cells_make_the_difference_on_other_sizes(shift):
    """O4: on a grid that is no multiple of the window, equal to Swin only once its zero pad cells are selected too."""
    ours, swins = ours_and_swins(shift, 10, 17, scope="image_region")
    assert_differs(ours, swins)
    swin = swin_block(shift)
    block = our_block("all", shift, like=swin, scope="image_region")
    x = tokens(2, 10, 17, DIM)
    with torch.no_grad():
        padded = F.pad(block.norm1(x), (0, 0, 0, -17 % WINDOW, 0, -10 % WINDOW))
        everywhere = torch.ones(padded.shape[:3])
        attended = block.attn(padded, Selection(everywhere, everywhere, everywhere.bool(), gated=False))
        x = x + scatter(block.attn.proj(attended.tokens), attended.packing)[:, :10, :17]
        assert_same(x + block.mlp(block.norm2(x)), swin(tokens(2, 10, 17, DIM)), tolerance=1e-5)


@pytest.mark.parametrize("size", [224, 448])
@pytest.mark.parametrize("training", [False, True])
def test_o05_whole_backbone_equals_swin_when_gates_are_saturated(size, training):
    """O5: gates at +40 (sigmoid exactly 1), scope image_region: torchvision's logits; with scope image not."""
    swin = small_swin()
    image = tokens(1, 3, size, size)
    logits = {}
    for scope in ("image", "image_region"):
        model = Classifier(HierarchicalBackbone(small_config(gate_bias_init=40.0, scope=scope)), 10)
        load_torchvision_swin(model, swin.state_dict())
        model.train(training)
        with torch.set_grad_enabled(training):
            answer = model(image)
        assert all(placed.selection.ratio == 1 for placed in answer.features.selections)
        logits[scope] = answer.logits
    with torch.no_grad():
        expected = swin(image)
    assert_same(logits["image_region"], expected, tolerance=1e-5)
    assert_differs(logits["image"], expected, by=1e-4)


def test_o05_at_the_size_of_swin_t():
    """O5 at full size: SPT-T with torchvision's swin_t weights, 224 x 224."""
    swin = randomise(swin_t()).eval()
    model = Classifier(HierarchicalBackbone(backbone_config("spt-t", gate_bias_init=40.0, scope="image_region")), 1000)
    load_torchvision_swin(model, swin.state_dict())
    image = tokens(1, 3, 224, 224)
    with torch.no_grad():
        assert_same(model.eval()(image).logits, swin(image), tolerance=1e-5)


def test_o05_nearly_saturated_is_not_enough():
    """O5, negative control: with sigmoid(4) = .98 the logits already differ."""
    swin = small_swin()
    model = Classifier(HierarchicalBackbone(small_config(gate_bias_init=4.0, scope="image_region")), 10).eval()
    load_torchvision_swin(model, swin.state_dict())
    image = tokens(1, 3, 224, 224)
    with torch.no_grad():
        assert_differs(model(image).logits, swin(image), by=1e-4)
