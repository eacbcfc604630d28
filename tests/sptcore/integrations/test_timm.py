"""Our models in timm's contract: the same numbers as our own, timm's questions answered, its training and weights."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sptcore.errors import UsageError
from sptcore.models.classifier import Classifier
from sptcore.models.variants import VARIANTS, backbone_config, build_backbone
from sptcore.models.weights import load_foreign
from sptcore.runs import open_run
from sptcore.runs.demo import DEMO_WEIGHTS
from sptcore.runs.models import load_model
from sptcore.runs.weights import save_weights
from sptcore.tasks import TASKS
from sptcore.tasks.base import ModelSpec
from sptcore.tasks.pixels import IMAGE_MEAN, IMAGE_STD
from sptcore.training.initial import load_initial
from tests.support.networks import randomise, tokens
from tests.support.numerics import assert_differs, assert_same

OURS = "sptcore.integrations.timm"
NANO = sorted(name for name, config in VARIANTS.items() if name.endswith("-nano") and config.selector != "ground_truth")


@pytest.fixture
def timm() -> Any:
    """timm with our models registered; a name that timm has already would be a warning, here an error."""
    module = pytest.importorskip("timm", reason="timm is not installed (spt[timm])")
    for part in ("timm.loss", "timm.optim"):
        importlib.import_module(part)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        importlib.import_module(OURS)
    return module


def create(timm: Any, variant: str, seed: int = 0, **arguments: Any) -> nn.Module:
    """A model of ours by timm, with repeatable weights, in evaluation."""
    return randomise(timm.create_model(variant.replace("-", "_"), **arguments), seed).eval()


def own(variant: str, like: nn.Module, classes: int) -> Classifier:
    """Our own classifier with the weights of timm's."""
    model = Classifier(build_backbone(backbone_config(variant).with_outputs((4,))), classes).eval()
    model.load_state_dict(like.state_dict())
    return model


def test_without_timm_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    for name in ("timm.models", OURS):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ImportError, match=r"pip install 'spt\[timm\]'"):
        importlib.import_module(OURS)


def test_every_model_that_needs_no_labels_has_a_name(timm: Any) -> None:
    registered = set(timm.list_models(module="timm"))
    assert registered == {name.replace("-", "_") for name in VARIANTS if "-gt-" not in name}
    assert {"spt_t", "spt_s", "spt_b", "swin_t", "dat_s", "evit_b"} <= registered
    assert timm.is_model("spt_t")
    assert not timm.is_model("spt_gt_t")


@pytest.mark.parametrize("variant", NANO)
def test_logits_and_maps_are_those_of_our_own(timm: Any, variant: str) -> None:
    model = create(timm, variant, num_classes=5)
    reference = own(variant, model, 5)
    image = tokens(2, 3, 96, 128)
    with torch.no_grad():
        expected = reference(image)
        assert torch.equal(model(image), expected.logits)
        seen = model.classify(image)
        other = randomise(own(variant, model, 5), seed=1)(image)
    assert torch.equal(seen.logits, expected.logits)
    assert [one.selection.mask.tolist() for one in seen.features.selections] == [
        one.selection.mask.tolist() for one in expected.features.selections
    ]
    assert_differs(other.logits, expected.logits)


def test_padding_of_a_batch_enters_neither_selection_nor_mean(timm: Any) -> None:
    model = create(timm, "spt-nano", num_classes=5)
    image = tokens(1, 3, 96, 96)
    padded = nn.functional.pad(image, (0, 64, 0, 32))
    sizes = torch.tensor([[96, 96]])
    with torch.no_grad():
        expected = own("spt-nano", model, 5)(padded, sizes).logits
        assert torch.equal(model.classify(padded, sizes).logits, expected)
        assert_differs(model(padded), expected)


@pytest.mark.parametrize("variant", NANO)
def test_features_only_gives_the_maps_of_our_backbone(timm: Any, variant: str) -> None:
    model = create(timm, variant, features_only=True)
    backbone = build_backbone(variant).eval()
    backbone.load_state_dict(model.backbone.state_dict())
    image = tokens(1, 3, 100, 128)
    with torch.no_grad():
        maps, expected = model(image), list(backbone(image).maps.values())
    assert len(maps) == (1 if VARIANTS[variant].is_plain else 4)
    assert all(torch.equal(one, other) for one, other in zip(maps, expected, strict=True))
    assert model.feature_info.channels() == [one.shape[1] for one in maps]
    assert model.feature_info.reduction() == list(backbone.strides)
    assert hasattr(model.backbone(image), "selections")


def test_chosen_maps_have_their_norms_and_no_others(timm: Any) -> None:
    model = timm.create_model("swin_nano", features_only=True, out_indices=(1, -1))
    assert model.feature_info.out_indices == (1, 3)
    assert [tuple(one.shape[1:]) for one in model(tokens(1, 3, 64, 64))] == [(64, 8, 8), (256, 2, 2)]
    assert sorted(model.backbone.norms) == ["1", "3"]
    with pytest.raises(ValueError, match="4 maps"):
        timm.create_model("swin_nano", features_only=True, out_indices=(4,))


@pytest.mark.parametrize("variant", ["spt-nano", "vit-nano"])
def test_features_and_head_make_the_logits(timm: Any, variant: str) -> None:
    model = create(timm, variant, num_classes=4, drop_rate=0.5)
    image = tokens(2, 3, 64, 96)
    with torch.no_grad():
        features = model.forward_features(image)
        pooled = model.forward_head(features, pre_logits=True)
        assert torch.equal(model.get_classifier()(pooled), model(image))
    assert pooled.shape == (2, model.num_features)
    assert features.shape == ((2, 1 + 24, 64) if variant == "vit-nano" else (2, 256, 2, 3))
    assert_differs(model.train()(image), model.eval()(image))


def test_intermediate_maps_before_and_after_their_norms(timm: Any) -> None:
    model = timm.create_model("spt_nano", num_classes=2, out_stages=(2, 4)).eval()
    randomise(model)
    image = tokens(1, 3, 64, 64)
    with torch.no_grad():
        final, raw = model.forward_intermediates(image, norm=False)
        normed = model.forward_intermediates(image, indices=3, norm=True, intermediates_only=True)
        assert torch.equal(final, model.forward_features(image))
    assert [one.shape[1] for one in raw] == [32, 64, 128, 256]
    norms = model.backbone.norms
    assert torch.equal(normed[-1], final)
    assert_same(normed[0], norms["1"](raw[1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2), tolerance=1e-6)
    assert torch.equal(normed[1], raw[2]), "a stage without a norm"
    assert not [stage for stage in model.backbone.stages if stage._forward_hooks]
    with pytest.raises(ValueError, match="NCHW"):
        model.forward_intermediates(image, output_fmt="NLC")


def test_heads_are_taken_off_and_set_anew(timm: Any) -> None:
    model = create(timm, "spt-nano", num_classes=3).double()
    model.reset_classifier(7)
    assert model(tokens(1, 3, 64, 64, dtype=torch.float64)).shape == (1, 7)
    model.reset_classifier(0, "")
    assert isinstance(model.get_classifier(), nn.Identity)
    assert model(tokens(1, 3, 64, 64, dtype=torch.float64)).shape == (1, 256, 2, 2)
    for classes, pooling in ((7, ""), (0, "max")):
        with pytest.raises(ValueError, match="global_pool"):
            model.reset_classifier(classes, pooling)


def test_arguments_reach_the_backbone(timm: Any) -> None:
    model = timm.create_model("spt_nano", in_chans=1, drop_path_rate=0.3, select_threshold=0.2, window_size=8)
    config = model.backbone.config
    assert (config.drop_path, config.select_threshold, config.window_size) == (0.3, 0.2, 8)
    assert model(tokens(1, 1, 64, 64)).shape == (1, 1000)
    assert timm.create_model("vit_nano", img_size=(96, 128)).backbone.config.position_grid == (6, 8)
    assert timm.create_model("spt_nano", img_size=256).pretrained_cfg["input_size"] == (3, 224, 224)
    with pytest.raises(UsageError, match="not a setting"):
        timm.create_model("spt_nano", no_such_setting=1)


def test_images_are_normalised_as_ours_are(timm: Any) -> None:
    config = timm.data.resolve_model_data_config(timm.create_model("spt_nano"))
    assert config["mean"] == pytest.approx([value / 255 for value in IMAGE_MEAN])
    assert config["std"] == pytest.approx([value / 255 for value in IMAGE_STD])


def gradients(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(3)
    model.zero_grad()
    output = model.train()(image)
    (output if isinstance(output, Tensor) else output.logits).square().sum().backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("variant", ["spt-nano", "dynamicvit-nano"])
def test_gradients_are_those_of_our_own_also_recomputed(timm: Any, variant: str) -> None:
    model = create(timm, variant, num_classes=4)
    image = tokens(2, 3, 64, 64)
    expected = gradients(own(variant, model, 4), image)
    for recomputed in (False, True):
        model.set_grad_checkpointing(recomputed)
        found = gradients(model, image)
        assert found.keys() == expected.keys()
        assert all(torch.equal(one, expected[name]) for name, one in found.items())
    assert any(getattr(one, "recomputes", False) for one in model.modules())


@pytest.mark.parametrize(("variant", "depth"), [("spt-nano", 8), ("vit-nano", 6)])
def test_groups_of_the_optimiser(timm: Any, variant: str, depth: int) -> None:
    """Layer-wise rates grow with depth; what our own recipe spares of decay is spared."""
    model = timm.create_model(variant.replace("-", "_"), num_classes=2)
    spared = model.no_weight_decay()
    assert {name.rsplit(".", 1)[-1] for name in spared} & {"relative_position_bias_table", "pos_embed"}
    assert "head.weight" not in spared
    optimizer = timm.optim.create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.5)
    scale = {id(one): group["lr_scale"] for group in optimizer.param_groups for one in group["params"]}
    decay = {id(one): group["weight_decay"] for group in optimizer.param_groups for one in group["params"]}
    by_name = {name: scale[id(one)] for name, one in model.named_parameters()}
    assert not [name for name, one in model.named_parameters() if name in spared and decay[id(one)]]
    assert decay[id(model.head.weight)] == 0.05
    first = "blocks.0." if variant == "vit-nano" else "stages.0.blocks.0."
    block = max(value for name, value in by_name.items() if first in name)
    assert by_name["backbone.patch_embed.proj.weight"] < block < by_name["head.weight"] == 1.0
    assert len(set(by_name.values())) >= depth + 2
    assert timm.models.group_parameters(model, model.group_matcher(coarse=True))


def test_timms_loss_and_optimiser_learn_two_images(timm: Any) -> None:
    torch.manual_seed(0)
    model = timm.create_model("spt_nano", num_classes=2).train()
    optimizer = timm.optim.create_optimizer_v2(model, opt="adamw", lr=2e-3, weight_decay=0.05, layer_decay=0.9)
    criterion = timm.loss.LabelSmoothingCrossEntropy(0.1)
    image, classes = tokens(2, 3, 64, 64), torch.tensor([0, 1])
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    losses = []
    for _ in range(6):
        loss = criterion(model(image), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    still = [name for name, one in model.named_parameters() if torch.equal(one, before[name])]
    assert all("gate" in name for name in still), "s0 is supervised by labels alone"


def described_classifier(variant: str) -> ModelSpec:
    """A classifier of three classes as our training describes it."""
    return ModelSpec(
        task="classify",
        variant=variant,
        backbone=backbone_config(variant),
        heads=TASKS["classify"].heads_config("auto", variant),
        categories=((1, "ring"), (2, "star"), (5, "cone")),
        masks=False,
        resolution=(64, 64),
    )


def classifier_file(path: Path, variant: str = "spt-nano") -> Any:
    """A weights file of our own task, and its model."""
    described = described_classifier(variant)
    model = randomise(TASKS["classify"].build_model(described)).eval()
    save_weights(path, model.state_dict(), described.to_dict())
    return model


@pytest.mark.parametrize("variant", ["spt-nano", "evit-nano"])
def test_a_classifier_of_ours_loads_by_its_path(timm: Any, tmp_path: Path, variant: str) -> None:
    path = tmp_path / "weights.safetensors"
    reference = classifier_file(path, variant)
    name = variant.replace("-", "_")
    model = timm.create_model(name, num_classes=3, checkpoint_path=path).eval()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        expected = reference(pixels).logits
        assert torch.equal(model(reference.normalise(pixels, [(64, 64)] * 2)), expected)
    source = {"file": str(path), "num_classes": 3}
    finetuned = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=source, num_classes=9)
    assert finetuned.head.out_features == 9
    assert torch.equal(finetuned.backbone.patch_embed.proj.weight, model.backbone.patch_embed.proj.weight)


@pytest.mark.filterwarnings("ignore:the weights lack norms")
def test_weights_of_another_model_are_refused(timm: Any, tmp_path: Path) -> None:
    """Negative control: nothing but stage norms and heads may be missing or left over."""
    path = tmp_path / "weights.safetensors"
    classifier_file(path, "swin-nano")
    with pytest.raises(RuntimeError, match=r"Missing key.*gate"):
        timm.create_model("spt_nano", num_classes=3, checkpoint_path=path)
    with pytest.raises(RuntimeError, match="size mismatch"):
        timm.create_model("swin_nano", num_classes=4, checkpoint_path=path)
    with pytest.raises(RuntimeError, match="Missing key"):
        timm.create_model("spt_nano").load_state_dict({"conv1.weight": torch.zeros(1)})


def test_a_detector_gives_its_backbone(timm: Any, tmp_path: Path) -> None:
    detector = load_model(open_run(DEMO_WEIGHTS)).model
    with pytest.warns(UserWarning, match=r"stay fresh: backbone\.norms\.0"):
        model = timm.create_model("spt_nano", features_only=True, checkpoint_path=DEMO_WEIGHTS).eval()
    image = tokens(1, 3, 128, 128)
    with torch.no_grad():
        expected = detector.backbone.body(image).maps
        assert all(torch.equal(one, expected[str(level)]) for level, one in enumerate(model(image)) if level)
    bare = timm.create_model("spt_nano", num_classes=0, checkpoint_path=DEMO_WEIGHTS)
    assert sorted(bare.backbone.norms) == ["1", "3"]
    inside = nn.ModuleDict({"body": bare})
    inside.load_state_dict(inside.state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key.*head"):
        timm.create_model("spt_nano", num_classes=3, checkpoint_path=DEMO_WEIGHTS)


def test_a_swin_of_timm_loads_into_ours(timm: Any) -> None:
    """The other direction: timm's state dict, our dense Swin, the same features and logits."""
    theirs = randomise(timm.create_model("swin_tiny_patch4_window7_224", num_classes=6)).eval()
    ours = Classifier(build_backbone("swin-t"), 6).eval()
    report = load_foreign(ours, theirs.state_dict())
    assert report.unused == ()
    assert all(".norms." in name for name in report.missing)
    image = tokens(1, 3, 224, 224)
    with torch.no_grad():
        expected, found = theirs.forward_features(image).permute(0, 3, 1, 2), ours(image)
        assert_same(found.features.maps["3"], expected, tolerance=1e-5)
        assert_same(found.logits, theirs(image), tolerance=1e-5)
        assert_differs(randomise(ours, seed=1)(image).features.maps["3"], expected)


def test_a_run_starts_from_a_file_of_timm(timm: Any, tmp_path: Path) -> None:
    """`spt train --init FILE`: backbone and, for as many classes, the head."""
    theirs = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3).state_dict()
    path, spec = tmp_path / "swin.pth", described_classifier("spt-t")
    torch.save(theirs, path)
    model: Any = TASKS["classify"].build_model(spec)
    assert "the head of 3 classes with it" in load_initial(model, spec, str(path))
    assert torch.equal(model.head.weight, theirs["head.fc.weight"])
    assert torch.equal(
        model.backbone.stages[1].downsample.reduction.weight, theirs["layers.1.downsample.reduction.weight"]
    )


def test_a_vit_of_timm_loads_into_ours(timm: Any) -> None:
    theirs = randomise(timm.create_model("vit_small_patch16_224", num_classes=6, depth=12)).eval()
    ours = timm.create_model("vit_s", num_classes=6).eval()
    assert load_foreign(ours, theirs.state_dict()).missing == ()
    image = tokens(1, 3, 224, 224)
    with torch.no_grad():
        assert_same(ours.forward_features(image), theirs.forward_features(image), tolerance=1e-5)
        assert_same(ours(image), theirs(image), tolerance=1e-5)
