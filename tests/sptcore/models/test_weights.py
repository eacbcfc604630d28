"""Pretrained Swin weights: O26, the part about what is loaded, missing and refused."""

from __future__ import annotations

import re

import pytest
import torch
from torchvision.models import swin_s, swin_t

from sptcore.errors import IntegrityError
from sptcore.models.backbone import HierarchicalBackbone
from sptcore.models.classifier import Classifier
from sptcore.models.variants import build_backbone
from sptcore.models.weights import load_foreign, load_official_swin, load_timm_swin, load_torchvision_swin
from tests.support.networks import small_config, small_swin, tokens
from tests.support.numerics import assert_same


def official(state_dict):
    """torchvision's names turned into those of microsoft/Swin-Transformer, buffers in their shape."""
    renamed = {}
    for key, value in state_dict.items():
        level = re.match(r"features\.(\d+)\.", key)
        if level is None:
            renamed[key] = value
            continue
        number, rest = int(level[1]), key[level.end() :]
        rest = rest.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
        if number == 0:
            renamed["patch_embed." + rest.replace("0.", "proj.", 1).replace("2.", "norm.", 1)] = value
        elif number % 2:
            value = value.view(49, 49) if rest.endswith("relative_position_index") else value
            renamed[f"layers.{number // 2}.blocks.{rest}"] = value
        else:
            renamed[f"layers.{number // 2 - 1}.downsample.{rest}"] = value
    return renamed | {"layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}


def timm(state_dict):
    """torchvision's names turned into those of timm, whose merging is the first thing of its stage, not the last."""
    renamed = {}
    for key, value in official(state_dict).items():
        key = re.sub(r"layers\.(\d)\.downsample", lambda match: f"layers.{int(match[1]) + 1}.downsample", key)
        renamed[re.sub(r"^head\.", "head.fc.", key)] = value
    return renamed


SOURCES = [(load_torchvision_swin, dict), (load_official_swin, official), (load_timm_swin, timm)]
NAMES = ["torchvision", "official", "timm"]


@pytest.mark.parametrize(("load", "named"), SOURCES, ids=NAMES)
@pytest.mark.parametrize("size", [(224, 224), (252, 200)])
def test_o26_dense_backbone_with_these_weights_is_that_swin(load, named, size):
    """O26 and PERFORMANCE 6.2: random weights with biases that are not zero, same logits at any size."""
    swin = small_swin()
    model = Classifier(HierarchicalBackbone(small_config(num_spa_blocks=0)), 10)
    report = load(model, named(swin.state_dict()))
    assert report.unused == ()
    assert sorted(report.missing) == [f"backbone.norms.{i}.{kind}" for i in range(3) for kind in ("bias", "weight")]
    image = tokens(2, 3, *size)
    with torch.no_grad():
        expected = swin(image)
        assert_same(model.eval()(image).logits, expected, tolerance=1e-5)
    assert_same(model.train()(image).logits.detach(), expected, tolerance=1e-5)


@pytest.mark.parametrize(("load", "named"), SOURCES, ids=NAMES)
def test_o26_exactly_gates_and_stage_norms_are_missing(load, named):
    """O26: loading Swin into an SPT leaves the gates and the detection norms, and finds no use for the head only."""
    model = HierarchicalBackbone(small_config())
    report = load(model, named(small_swin().state_dict()))
    gates = {name for name in model.state_dict() if re.search(r"(^|\.)gate\.", name)}
    assert len(gates) == 2 * (4 + 1)
    assert set(report.missing) == gates | {f"norms.{i}.{kind}" for i in range(3) for kind in ("bias", "weight")}
    assert [key.replace(".fc.", ".") for key in report.unused] == ["head.weight", "head.bias"]


@pytest.mark.parametrize(("load", "named"), SOURCES, ids=NAMES)
def test_the_names_are_told_apart(load, named):
    """`load_foreign` finds the way that belongs to the names: the same tensors as by that way."""
    state = named(small_swin().state_dict())
    guessed, told = (HierarchicalBackbone(small_config(num_spa_blocks=0)) for _ in range(2))
    assert load_foreign(guessed, state) == load(told, state)
    assert all(torch.equal(value, told.state_dict()[name]) for name, value in guessed.state_dict().items())


@pytest.mark.parametrize(("load", "named"), [(load_timm_swin, official), (load_official_swin, timm)])
def test_merging_in_the_wrong_stage_is_refused(load, named):
    """Negative control of the test above."""
    with pytest.raises(IntegrityError, match="in this backbone"):
        load(HierarchicalBackbone(small_config()), named(small_swin().state_dict()))


def test_o26_at_the_size_of_swin_t():
    """O26: torchvision's own swin_t; its final norm becomes that of stage 4, every tensor lands bit for bit."""
    swin = swin_t()
    model = build_backbone("spt-t")
    report = load_torchvision_swin(model, swin.state_dict())
    assert {name.split(".")[-2] for name in report.missing} == {"gate", "0", "1", "2"}
    ours = model.state_dict()
    assert torch.equal(ours["norms.3.weight"], swin.state_dict()["norm.weight"])
    kept = sum(value.numel() for name, value in ours.items() if name not in report.missing)
    head = sum(parameter.numel() for parameter in swin.head.parameters())
    assert kept == sum(parameter.numel() for parameter in swin.parameters()) - head


def test_only_the_last_map_leaves_only_the_norm_of_s0_fresh():
    model = HierarchicalBackbone(small_config(out_stages=(4,)))
    report = load_torchvision_swin(model, small_swin().state_dict())
    assert {name for name in report.missing if "gate" not in name} == {"norms.1.weight", "norms.1.bias"}


def test_without_position_biases_their_tables_go_unused():
    model = HierarchicalBackbone(small_config(rpb="none"))
    report = load_torchvision_swin(model, small_swin().state_dict())
    assert len([key for key in report.unused if "table" in key]) == 4


def test_weights_of_another_size_are_refused_and_change_nothing():
    model = build_backbone("spt-t")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(IntegrityError, match=r"would stay fresh|no place"), torch.device("meta"):
        load_torchvision_swin(model, swin_s().state_dict())
    with pytest.raises(IntegrityError, match="in this backbone"):
        load_torchvision_swin(model, small_swin().state_dict())
    with pytest.raises(IntegrityError):
        load_torchvision_swin(model, {"conv1.weight": torch.zeros(3)})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_o26_a_state_dict_round_trip_is_bit_equal():
    """O26: the same weights in a second model give the same bits."""
    first, second = (build_backbone("spt-nano").eval() for _ in range(2))
    second.load_state_dict(first.state_dict())
    image = tokens(1, 3, 96, 128)
    with torch.no_grad():
        one, other = first(image), second(image)
    assert all(torch.equal(one.maps[key], other.maps[key]) for key in one.maps)
    assert all(
        torch.equal(a.selection.logits, b.selection.logits)
        for a, b in zip(one.selections, other.selections, strict=True)
    )
