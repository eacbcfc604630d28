"""Starting weights: a Swin's, ImageNet's, and files that do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import Swin_T_Weights, swin_t

from sptcore.data.locate import open_index
from sptcore.errors import DataError, EnvironmentFault, IntegrityError, UsageError
from sptcore.models.variants import find_backbone
from sptcore.progress import Silent
from sptcore.runs import save_weights
from sptcore.tasks import TASKS
from sptcore.training.config import make_config
from sptcore.training.initial import load_initial
from sptcore.training.prepare import build_model, describe
from tests.support.miniatures import mini_coco
from tests.support.tiny import make_tiny


class Listener(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture(scope="module")
def swin_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "swin_t.pth"
    torch.save(swin_t(weights=None).state_dict(), path)
    return path


def test_a_torchvision_swin_starts_the_backbone(swin_file: Path, tmp_path: Path) -> None:
    config = make_config({"model": "spt-t", "heads": "small", "init": str(swin_file), "res": (64, 64)})
    index = open_index(mini_coco(tmp_path / "set"), "train")
    listener = Listener()
    prepared = describe(config, index)
    model = build_model(TASKS["detect"], prepared, config, listener)
    assert "stay fresh" in listener.lines[0]
    theirs = torch.load(swin_file, weights_only=True)
    ours = dict(model.named_parameters())
    assert torch.equal(ours["backbone.body.patch_embed.proj.weight"], theirs["features.0.0.weight"])
    assert ours["backbone.body.stages.3.blocks.0.selector.gate.bias"].item() == 4.0
    assert describe(make_config({"model": "spt-t"}), index).backbone.gate_bias_init == 0.0
    by_gate = make_config({"model": "spt-gt-t", "selector": "gate", "init": str(swin_file)})
    assert describe(by_gate, index).backbone.gate_bias_init == 4.0, "gates that a setting brings open too"


def test_a_classifier_takes_the_head_of_as_many_classes_and_says_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "swin_t.pth"
    theirs = swin_t(weights=None, num_classes=2).state_dict()
    torch.save(theirs, path)
    index = open_index(make_tiny(tmp_path / "tiny-imagenet-200"), "train")
    config = make_config({"model": "spt-t", "task": "classify", "init": str(path)})
    spec = describe(config, index)
    model = TASKS["classify"].build_model(spec)
    assert "head of 2 classes with it" in load_initial(model, spec, str(path))
    assert torch.equal(model.head.weight, theirs["head.weight"])
    assert torch.equal(model.head.bias, theirs["head.bias"])
    torch.save(swin_t(weights=None, num_classes=7).state_dict(), path)
    fresh = TASKS["classify"].build_model(spec)
    before = fresh.head.weight.clone()
    assert "the head stays fresh: 7 classes there, 2 here" in load_initial(fresh, spec, str(path))
    assert torch.equal(fresh.head.weight, before)
    assert not torch.equal(fresh.backbone.patch_embed.proj.weight, model.backbone.patch_embed.proj.weight)


def test_our_own_classifier_keeps_its_head_for_the_same_classes_only(tmp_path: Path) -> None:
    index = open_index(make_tiny(tmp_path / "tiny-imagenet-200"), "train")
    spec = describe(make_config({"model": "spt-nano", "task": "classify"}), index)
    torch.manual_seed(0)
    first = TASKS["classify"].build_model(spec)
    path = tmp_path / "ours.safetensors"
    save_weights(path, first.state_dict(), spec.to_dict())
    torch.manual_seed(1)
    same = TASKS["classify"].build_model(spec)
    assert "fresh" not in load_initial(same, spec, str(path))
    assert torch.equal(same.head.weight, first.head.weight)
    others = replace(spec, categories=((0, "one"), (1, "two"), (2, "three")))
    other = TASKS["classify"].build_model(others)
    assert "class heads fresh" in load_initial(other, others, str(path))
    assert torch.equal(other.backbone.patch_embed.proj.weight, first.backbone.patch_embed.proj.weight)
    assert other.head.out_features == 3


@pytest.mark.parametrize("variant", ["spt-nano", "vit-nano"])
def test_a_classifier_of_ours_starts_the_backbone_of_a_detector_and_the_other_way(tmp_path: Path, variant: str) -> None:
    classes = open_index(make_tiny(tmp_path / "tiny-imagenet-200"), "train")
    boxes = open_index(mini_coco(tmp_path / "set"), "train")
    specs = [
        describe(make_config({"model": variant, "task": task}), index)
        for task, index in (("classify", classes), ("detect", boxes))
    ]
    for spec, other in (specs, specs[::-1]):
        torch.manual_seed(0)
        first = TASKS[spec.task].build_model(spec)
        path = tmp_path / f"{spec.task}.safetensors"
        save_weights(path, first.state_dict(), spec.to_dict())
        torch.manual_seed(1)
        second = TASKS[other.task].build_model(other)
        told = load_initial(second, other, str(path))
        assert f"backbone of a model for {spec.task}" in told
        theirs, ours = (find_backbone(model).state_dict() for model in (first, second))
        assert all(torch.equal(theirs[name], ours[name]) for name in ours if not name.startswith("norms."))
    wider = describe(make_config({"model": f"{variant[:-4]}s", "task": "detect", "heads": "small"}), boxes)
    with torch.device("meta"):
        body = TASKS["detect"].build_model(wider)
    with pytest.raises(IntegrityError, match="is another"):
        load_initial(body, wider, str(tmp_path / "classify.safetensors"))


def test_a_swin_starts_dynamicswin_but_not_dat(swin_file: Path, tmp_path: Path) -> None:
    """Predictors and short ways stay fresh; deformable attention has tables of another shape."""
    index = open_index(mini_coco(tmp_path / "set"), "train")
    config = make_config({"model": "dynamicswin-t", "heads": "small", "init": str(swin_file), "res": (64, 64)})
    model = build_model(TASKS["detect"], describe(config, index), config)
    theirs = torch.load(swin_file, weights_only=True)
    ours = dict(model.named_parameters())
    assert torch.equal(ours["backbone.body.stages.2.blocks.1.mlp.fc1.weight"], theirs["features.5.1.mlp.0.weight"])
    config = make_config({"model": "dat-t", "heads": "small", "init": str(swin_file), "res": (64, 64)})
    with pytest.raises(IntegrityError):
        build_model(TASKS["detect"], describe(config, index), config)
    config = make_config({"model": "dat-t", "heads": "small", "init": "imagenet", "res": (64, 64)})
    with pytest.raises(UsageError, match="no ImageNet weights for dat-t"):
        build_model(TASKS["detect"], describe(config, index), config)


def test_starting_weights_that_do_not_fit(swin_file: Path, tmp_path: Path) -> None:
    index = open_index(mini_coco(tmp_path / "set"), "train")
    config = make_config({"model": "spt-nano"})
    spec = describe(config, index)
    model = TASKS["detect"].build_model(spec)
    with pytest.raises(IntegrityError):
        load_initial(model, spec, str(swin_file))
    with pytest.raises(DataError):
        load_initial(model, spec, str(tmp_path / "absent.pth"))
    for name, content in (("a.pth", b"no zip"), ("b.pth", b""), ("c.safetensors", b"no header")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(IntegrityError):
            load_initial(model, spec, str(tmp_path / name))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(IntegrityError, match="not a state dict"):
        load_initial(model, spec, str(tmp_path / "list.pth"))


def test_imagenet_weights_are_torchvisions_of_the_same_size(
    swin_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def fetched(self: Swin_T_Weights, **how: Any) -> dict[str, torch.Tensor]:
        asked.append({"url": self.url, **how})
        return torch.load(swin_file, weights_only=True)

    monkeypatch.setattr(Swin_T_Weights, "get_state_dict", fetched)
    config = make_config({"model": "swin-t", "heads": "small", "init": "imagenet"})
    spec = describe(config, open_index(mini_coco(tmp_path / "set"), "train"))
    assert spec.backbone.gate_bias_init == 4.0
    assert "backbone from imagenet" in load_initial(TASKS["detect"].build_model(spec), spec, "imagenet")
    how = {"progress": False, "check_hash": True, "weights_only": True}  # a file planted in torch's cache runs nothing
    assert asked == [{"url": Swin_T_Weights.IMAGENET1K_V1.url, **how}]

    def unreachable(self: Swin_T_Weights, **how: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(Swin_T_Weights, "get_state_dict", unreachable)
    with pytest.raises(EnvironmentFault) as caught:
        load_initial(TASKS["detect"].build_model(spec), spec, "imagenet")
    assert caught.value.where == Swin_T_Weights.IMAGENET1K_V1.url


def test_there_is_no_nano_on_imagenet(tmp_path: Path) -> None:
    spec = describe(make_config({"model": "spt-nano"}), open_index(mini_coco(tmp_path / "set"), "train"))
    with pytest.raises(UsageError, match="spt-nano"):
        load_initial(TASKS["detect"].build_model(spec), spec, "imagenet")
