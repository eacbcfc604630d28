"""The detector: one forward for training and evaluation, ids kept, gradients everywhere."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import nn

from sptcore.errors import UsageError
from sptcore.models.backbone import Features
from sptcore.models.variants import backbone_config
from sptcore.tasks import TASKS
from sptcore.tasks.base import Batch, ModelSpec
from sptcore.tasks.detection import Detections
from sptcore.tasks.detector import HEADS, Anchors, BoxDetector, DetectorOutput, MaskDetector, Normalise, RoIAlign

TASK = TASKS["detect"]
CATEGORIES = ((3, "cup"), (0, "plate"), (90, "spoon"))


def make_spec(variant: str = "spt-nano", *, masks: bool = True, heads: str = "auto", **backbone: object) -> ModelSpec:
    config = backbone_config(variant, **backbone)
    return ModelSpec("detect", variant, config, TASK.heads_config(heads, variant), CATEGORIES, masks, (64, 64))


def make_model(spec: ModelSpec, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return TASK.build_model(spec)


def make_batch(*, empty: bool = False, masks: bool = True) -> Batch:
    """Two images of 64x64 and 40x56 in one frame of 64x64; the second has no object, with `empty` none has."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=generator)
    images[1, :, 40:] = 0
    images[1, :, :, 56:] = 0
    sizes = torch.tensor([[64, 64], [40, 56]])
    boxes = torch.zeros(0, 4) if empty else torch.tensor([[4.0, 6.0, 40.0, 50.0], [30.0, 30.0, 60.0, 60.0]])
    first = {"boxes": boxes, "labels": torch.arange(1, len(boxes) + 1)}
    second = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    if masks:
        first["masks"] = torch.zeros(len(boxes), 64, 64, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(first["masks"], boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        second["masks"] = torch.zeros(0, 40, 56, dtype=torch.uint8)
    grids = {stride: torch.zeros(2, 64 // stride, 64 // stride, dtype=torch.bool) for stride in (8, 16, 32)}
    if not empty:
        for stride, grid in grids.items():
            grid[0, : 50 // stride + 1, : 60 // stride] = True
    return Batch(images, sizes, sizes * 2, [7, 9], [first, second], grids)


@functools.cache
def trained_once() -> tuple[nn.Module, dict[str, float]]:
    model = make_model(make_spec()).train()
    outcome = TASK.outcome(model, make_batch(), select_loss_weight=0.1)
    outcome.total.backward()
    return model, {name: loss.item() for name, loss in outcome.losses.items()}


def test_every_part_of_the_loss_is_there_and_finite() -> None:
    _, losses = trained_once()
    assert set(losses) == {
        "loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg", "loss_select",
    }  # fmt: skip
    assert all(np.isfinite(list(losses.values())))


def test_every_parameter_gets_a_gradient() -> None:
    model, _ = trained_once()
    without = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert without == []


def test_alpha_zero_leaves_the_task_gradients_bit_equal() -> None:
    def gradients(weight: float, *, labels: bool) -> dict[str, torch.Tensor]:
        model = make_model(make_spec()).train()
        batch = make_batch()
        batch = batch if labels else Batch(**{**vars(batch), "select_labels": None})
        torch.manual_seed(1)
        TASK.outcome(model, batch, select_loss_weight=weight).total.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    with_zero, without = gradients(0.0, labels=True), gradients(0.0, labels=False)
    assert all(torch.equal(with_zero[name], grad) for name, grad in without.items())
    weighted = gradients(0.5, labels=True)
    assert any(not torch.equal(weighted[name], grad) for name, grad in without.items()), "negative control"


@pytest.mark.parametrize("threshold", [0.01, 0.999999])
def test_a_batch_without_objects_or_without_selected_tokens_has_a_finite_loss(threshold: float) -> None:
    model = make_model(make_spec(select_threshold=threshold, noise="none", gate_bias_init=-3.0)).train()
    outcome = TASK.outcome(model, make_batch(empty=True), select_loss_weight=0.1)
    outcome.total.backward()
    assert torch.isfinite(outcome.total)
    selected = sum(int(one.selection.mask.sum()) for one in outcome.features.selections)
    assert (selected == 0) == (threshold > 0.9)
    grads = [p.grad for p in model.parameters()]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads)


def test_labels_all_object_is_fine_too() -> None:
    batch = make_batch()
    assert batch.select_labels is not None
    full = {stride: torch.ones_like(grid) for stride, grid in batch.select_labels.items()}
    outcome = TASK.outcome(
        make_model(make_spec()).train(), Batch(**{**vars(batch), "select_labels": full}), select_loss_weight=0.1
    )
    assert torch.isfinite(outcome.total)


def test_a_swin_has_no_selection_loss_and_boxes_only_no_mask_loss() -> None:
    model = make_model(make_spec("swin-nano", masks=False)).train()
    assert isinstance(model, BoxDetector)
    losses = TASK.outcome(model, make_batch(masks=False), select_loss_weight=0.1).losses
    assert "loss_select" not in losses
    assert "loss_mask" not in losses
    assert isinstance(make_model(make_spec()), MaskDetector)


def test_predictions_are_in_the_frame_of_the_file_under_the_data_sets_ids() -> None:
    spec = make_spec()
    model = make_model(spec).eval()
    found, features = TASK.detect(model, make_batch(), spec)
    assert [one.image_id for one in found] == [7, 9]
    assert len(features.selections) == 4
    for one, (height, width) in zip(found, [(128, 128), (80, 112)], strict=True):
        assert len(one.scores) > 0
        assert set(one.category_ids.tolist()) <= {3, 0, 90}
        assert one.boxes_xyxy[:, 0::2].max() <= width
        assert one.boxes_xyxy[:, 1::2].max() <= height
        assert one.masks is not None
        assert all(mask["size"] == [height, width] for mask in one.masks)
        assert (np.diff(one.scores) <= 0).all()
    assert float(found[0].boxes_xyxy.max()) > 64, "scaled from the network's frame to the file's"


def test_an_image_is_detected_alike_alone_and_in_a_batch() -> None:
    spec = make_spec()
    model, batch = make_model(spec).eval(), make_batch()
    together, _ = TASK.detect(model, batch, spec)
    alone, _ = TASK.detect(model, Batch(batch.images[:1], batch.image_sizes[:1], batch.original_sizes[:1], [7]), spec)
    np.testing.assert_allclose(together[0].boxes_xyxy, alone[0].boxes_xyxy, atol=1e-3)
    assert together[0].category_ids.tolist() == alone[0].category_ids.tolist()


def test_coco_results_have_the_box_as_xywh() -> None:
    rle = coco_mask.encode(np.asfortranarray(np.ones((4, 4), dtype=np.uint8)))
    one = Detections(5, np.array([[1, 2, 4, 8]], dtype=np.float32), np.array([0.5]), np.array([90]), [rle])
    assert one.to_coco() == [
        {"image_id": 5, "category_id": 90, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.5, "segmentation": rle}
    ]


def test_pixels_are_normalised_and_padding_is_zero() -> None:
    images = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    result = Normalise()(images, [(20, 10)])
    expected = (255 - torch.tensor([123.675, 116.28, 103.53])) / torch.tensor([58.395, 57.12, 57.375])
    assert torch.allclose(result[0, :, 5, 5], expected)
    assert result[0, :, 20:].abs().sum() == result[0, :, :, 10:].abs().sum() == 0


def test_the_nano_detector_is_small_and_the_standard_one_as_published() -> None:
    nano = sum(p.numel() for p in make_model(make_spec()).parameters())
    assert nano < 1_900_000
    spec = ModelSpec(
        "detect", "swin-t", backbone_config("swin-t"), TASK.heads_config("auto", "swin-t"),
        tuple((n, str(n)) for n in range(80)), True, (1333, 800),
    )  # fmt: skip
    with torch.device("meta"):
        standard = TASK.build_model(spec)
    assert sum(p.numel() for p in standard.parameters()) == pytest.approx(47.8e6, rel=2e-3)


def test_unknown_heads_are_a_usage_error() -> None:
    with pytest.raises(UsageError) as caught:
        TASK.heads_config("smal", "spt-nano")
    assert caught.value.hint == "did you mean 'small'?"


def test_pooling_does_not_depend_on_the_first_batch_seen() -> None:
    """torchvision's own pooling keeps the strides it guessed from its first batch: the negative control."""
    from torchvision.ops import MultiScaleRoIAlign

    heads = HEADS["small"]
    maps = {
        level: torch.randn(1, 2, 64 // 2 ** (2 + int(level)), 64 // 2 ** (2 + int(level))) for level in heads.levels
    }
    boxes = [torch.tensor([[4.0, 4.0, 30.0, 30.0]])]

    def pooled(pool: MultiScaleRoIAlign, first: tuple[int, int]) -> torch.Tensor:
        pool(maps, boxes, [first])
        return pool(maps, boxes, [(64, 64)])

    assert torch.equal(pooled(RoIAlign(heads, 5), (64, 64)), pooled(RoIAlign(heads, 5), (36, 36)))
    theirs = [MultiScaleRoIAlign(list(heads.levels), 5, 2, canonical_scale=64) for _ in range(2)]
    assert not torch.equal(pooled(theirs[0], (64, 64)), pooled(theirs[1], (36, 36)))
    assert torch.equal(pooled(RoIAlign(heads, 5), (64, 64)), pooled(theirs[0], (64, 64)))


def test_anchors_are_exact_in_bfloat16() -> None:
    from torchvision.models.detection.image_list import ImageList

    anchors = Anchors(((32,),), ((1.0,),))
    images = ImageList(torch.zeros(1, 3, 2048, 32), [(2048, 32)])
    (found,) = anchors(images, [torch.zeros(1, 4, 512, 8, dtype=torch.bfloat16)])
    assert found.dtype == torch.float32
    assert found[-1].tolist() == [28.0 - 16, 2044.0 - 16, 28.0 + 16, 2044.0 + 16]


class Finds(nn.Module):
    """A detector that always finds the same: one box of each class in a frame of 40 x 20 (width x height)."""

    def forward(self, images: torch.Tensor, *_: object) -> DetectorOutput:
        boxes = torch.tensor([[4.0, 2.0, 20.0, 10.0]] * 3)
        found = {"boxes": boxes, "labels": torch.tensor([1, 2, 3]), "scores": torch.tensor([0.9, 0.8, 0.7])}
        found["masks"] = torch.tensor([1.0, 0.52, 0.48]).view(3, 1, 1, 1).expand(3, 1, 28, 28)
        return DetectorOutput({}, [found], Features({}))


def test_outputs_become_the_data_sets_ids_in_the_pixels_of_the_file() -> None:
    """Output n is category n; x scales with the width (2.5 here), y with the height (3); masks lie in their boxes."""
    images = torch.zeros(1, 3, 32, 64, dtype=torch.uint8)
    (one,), _ = TASK.detect(
        Finds(), Batch(images, torch.tensor([[20, 40]]), torch.tensor([[60, 100]]), [7]), make_spec()
    )
    assert one.category_ids.tolist() == [3, 0, 90]
    assert one.boxes_xyxy.tolist() == [[10.0, 6.0, 50.0, 30.0]] * 3
    assert one.masks is not None
    left, top, width, height = coco_mask.toBbox(one.masks[0]).tolist()
    assert one.masks[0]["size"] == [60, 100]
    np.testing.assert_allclose([left, top, left + width, top + height], [10, 6, 50, 30], atol=1.5)
    areas = [int(coco_mask.area(mask)) for mask in one.masks]
    assert areas[0] > areas[1] > 0 == areas[2], "cut at one half"
