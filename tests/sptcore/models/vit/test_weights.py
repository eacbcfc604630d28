"""Weights of torchvision's ViT, and of timm and DeiT: the same logits, and what is missing or refused."""

from __future__ import annotations

import re

import pytest
import torch
from torchvision.models import VisionTransformer, vit_b_16

from sptcore.errors import IntegrityError
from sptcore.models.classifier import Classifier
from sptcore.models.variants import build_backbone
from sptcore.models.vit.config import ViTConfig
from sptcore.models.vit.model import ViT
from sptcore.models.weights import load_foreign, load_timm_vit, load_torchvision_vit
from tests.support.networks import randomise, small_swin, tokens
from tests.support.numerics import assert_same
from tests.support.plain import KINDS, SMALL


def small_torchvision():
    """torchvision's ViT of the size of `SMALL`, with random weights."""
    network = VisionTransformer(64, 16, num_layers=4, num_heads=2, hidden_dim=32, mlp_dim=128, num_classes=10)
    return randomise(network).eval()


def as_timm(state_dict):
    """torchvision's names turned into those of timm and DeiT."""
    renamed = {}
    for key, value in state_dict.items():
        key = re.sub(r"encoder\.layers\.encoder_layer_(\d+)", r"blocks.\1", key)
        for theirs, ours in {
            "class_token": "cls_token", "conv_proj": "patch_embed.proj", "encoder.pos_embedding": "pos_embed",
            "encoder.ln": "norm", "ln_1": "norm1", "ln_2": "norm2", "self_attention.in_proj_": "attn.qkv.",
            "self_attention.out_proj": "attn.proj", "mlp.0": "mlp.fc1", "mlp.3": "mlp.fc2", "heads.head": "head",
        }.items():  # fmt: skip
            key = key.replace(theirs, ours)
        renamed[key] = value
    return renamed


@pytest.mark.parametrize(("load", "named"), [(load_torchvision_vit, dict), (load_timm_vit, as_timm)])
def test_the_same_logits_with_torchvisions_weights(load, named):
    theirs = small_torchvision()
    model = Classifier(ViT(SMALL), 10).eval()
    report = load(model, named(theirs.state_dict()))
    assert (report.missing, report.unused) == ((), ())
    image = tokens(2, 3, 64, 64)
    with torch.no_grad():
        assert_same(model(image).logits, theirs(image), tolerance=1e-5)


def test_vit_b_16_is_our_vit_b():
    """Every tensor of torchvision's own vit_b_16 lands, and one image gets the same logits."""
    theirs = randomise(vit_b_16()).eval()
    model = Classifier(build_backbone("vit-b"), 1000).eval()
    report = load_foreign(model, theirs.state_dict())
    assert (report.missing, report.unused) == ((), ())
    image = tokens(1, 3, 224, 224)
    with torch.no_grad():
        assert_same(model(image).logits, theirs(image), tolerance=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_only_predictors_stay_fresh_in_a_backbone(kind):
    model = ViT(KINDS[kind])
    report = load_foreign(model, as_timm(small_torchvision().state_dict()))
    assert all(name.startswith("pruning.predictors.") for name in report.missing)
    assert bool(report.missing) == (kind == "predictor")
    assert report.unused == ("head.weight", "head.bias")


def test_other_weights_are_refused_and_change_nothing():
    model = ViT(SMALL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(IntegrityError, match="not the weights of a ViT"):
        load_foreign(model, {"conv1.weight": torch.zeros(3)})
    with pytest.raises(IntegrityError, match="in this backbone"):
        load_foreign(model, small_swin().state_dict())
    with pytest.raises(IntegrityError, match="pos_embed"):
        load_foreign(ViT(ViTConfig(dim=32, depth=4, heads=2)), as_timm(small_torchvision().state_dict()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
