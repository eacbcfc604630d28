"""From settings to parts: classes, masks, strides, starting weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import swin_t

from sptcore.data.locate import open_index
from sptcore.errors import DataError, IntegrityError
from sptcore.models.variants import backbone_config
from sptcore.progress import Silent
from sptcore.training.config import make_config
from sptcore.training.prepare import build_model, describe, label_strides, load_initial, prepare
from tests.support.miniatures import coco_document, mini_coco
from tests.support.samples import samples_root
from tests.support.training import tiny_config


class Listener(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


def test_masks_are_learned_where_the_data_has_them(tmp_path: Path) -> None:
    listener = Listener()
    prepared = prepare(tiny_config(mini_coco(tmp_path / "set")), listener)
    assert prepared.spec.masks
    assert prepared.spec.categories == ((0, "cup"), (3, "café ☕"))
    assert any("Mask R-CNN" in line for line in listener.lines)
    assert prepared.train.strides == (8, 16, 32)


def test_boxes_only_is_faster_rcnn_and_is_said() -> None:
    listener = Listener()
    prepared = prepare(tiny_config(samples_root("pv-thermal")), listener)
    assert not prepared.spec.masks
    assert [category_id for category_id, _ in prepared.spec.categories] == [0, 1, 2]
    assert any("Faster R-CNN" in line for line in listener.lines)


def test_nothing_to_learn_is_an_error(tmp_path: Path) -> None:
    document = coco_document()
    document["annotations"] = []
    with pytest.raises(DataError, match="no image with an object"):
        prepare(tiny_config(mini_coco(tmp_path / "set", document)))


@pytest.mark.parametrize(
    ("blocks", "strides"), [(0, ()), (2, (16, 32)), (4, (8, 16, 32)), (6, (4, 8, 16, 32)), (8, (4, 8, 16, 32))]
)
def test_labels_are_looked_up_where_scores_are_supervised(blocks: int, strides: tuple[int, ...]) -> None:
    assert label_strides(backbone_config("spt-nano", num_spa_blocks=blocks)) == strides


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
    from sptcore.tasks import TASKS

    model = build_model(TASKS["detect"], prepared, config, listener)
    assert "stay fresh" in listener.lines[0]
    theirs = torch.load(swin_file, weights_only=True)
    ours = dict(model.named_parameters())
    assert torch.equal(ours["backbone.body.patch_embed.proj.weight"], theirs["features.0.0.weight"])
    assert float(ours["backbone.body.stages.3.blocks.0.selector.gate.bias"]) == 4.0
    assert describe(make_config({"model": "spt-t"}), index).backbone.gate_bias_init == 0.0


def test_starting_weights_that_do_not_fit(swin_file: Path, tmp_path: Path) -> None:
    index = open_index(mini_coco(tmp_path / "set"), "train")
    config = make_config({"model": "spt-nano"})
    spec = describe(config, index)
    from sptcore.tasks import TASKS

    model = TASKS["detect"].build_model(spec)
    with pytest.raises(IntegrityError):
        load_initial(model, spec, swin_file)
    with pytest.raises(DataError):
        load_initial(model, spec, tmp_path / "absent.pth")
    for name, content in (("a.pth", b"no zip"), ("b.pth", b""), ("c.safetensors", b"no header")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(IntegrityError):
            load_initial(model, spec, tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(IntegrityError, match="not a state dict"):
        load_initial(model, spec, tmp_path / "list.pth")
