"""Multi-label scores against their definition, difficult objects, ties, and a step that learns."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch

from sptcore.data.records import Category, DatasetIndex, ImageRecord, Instance
from sptcore.errors import UsageError
from sptcore.models.variants import backbone_config
from sptcore.tasks import TASKS
from sptcore.tasks.base import Batch, ModelSpec, Scoring
from sptcore.tasks.multilabel import average_precision

TASK = TASKS["multilabel"]


def index_of(*images: str, n_classes: int = 3) -> DatasetIndex:
    """Image i + 1 shows the classes of a word: "0 2d" has class 0, and class 2 in difficult objects only."""
    records = []
    for number, word in enumerate(images, 1):
        shown = tuple(
            Instance(10 * number + place, int(part[0]), (0.0, 0.0, 4.0, 4.0), is_difficult="d" in part)
            for place, part in enumerate(word.split())
        )
        records.append(ImageRecord(number, f"{number}.png", 8, 8, shown))
    categories = tuple(Category(number, f"class {number}") for number in range(n_classes))
    return DatasetIndex("voc", "val", Path("a"), Path("b"), categories, tuple(records))


def results_of(scores: np.ndarray) -> list[dict]:
    return [
        {"image_id": image + 1, "category_id": category, "score": float(scores[image, category])}
        for image in range(scores.shape[0])
        for category in range(scores.shape[1])
    ]


def ap_by_definition(scores: np.ndarray, positive: np.ndarray) -> float:
    """For every reachable recall, the best precision at that recall or a higher one, times the step to it."""
    points = []
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        hits = int((chosen & positive).sum())
        points.append((hits / positive.sum(), hits / chosen.sum()))
    area, before = 0.0, 0.0
    for recall in sorted({recall for recall, _ in points}):
        area += (recall - before) * max(precision for other, precision in points if other >= recall)
        before = recall
    return area


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_is_the_area_under_monotone_precision(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 12, 30) / 4  # many ties
    positive = generator.random(30) < 0.3
    positive[0] = True
    assert average_precision(scores, positive) == pytest.approx(ap_by_definition(scores, positive), abs=1e-12)


def test_known_areas() -> None:
    assert average_precision(np.array([3.0, 2.0, 1.0]), np.array([True, False, True])) == pytest.approx(1 / 2 + 1 / 3)
    assert average_precision(np.array([1.0, 1.0]), np.array([True, False])) == 0.5
    assert average_precision(np.array([1.0]), np.array([False])) == -1
    assert average_precision(np.array([-np.inf]), np.array([True])) == 0
    assert average_precision(np.array([1.0, -np.inf]), np.array([True, True])) == 0.5


def test_the_order_among_equal_scores_does_not_matter() -> None:
    scores, positive = [1.0, 1.0, 1.0, 0.5], [True, False, False, True]
    found = {
        average_precision(np.array([scores[i] for i in order]), np.array([positive[i] for i in order]))
        for order in permutations(range(4))
    }
    assert len(found) == 1


def test_images_with_only_difficult_objects_of_a_class_are_left_out_of_its_ap() -> None:
    """Image 2 has class 0 in difficult objects only and the best score: it is neither a hit nor a miss."""
    index = index_of("0", "0d 1", "0 0d", "")
    scores = np.array([[0.8, 0.1, 0.0], [0.9, 0.9, 0.0], [0.3, 0.2, 0.0], [0.5, 0.1, 0.0]])
    found = TASK.score(index, results_of(scores), Scoring())["label"]
    kept = np.array([0.8, 0.3, 0.5])
    assert found.per_class[0] == pytest.approx(ap_by_definition(kept, np.array([True, True, False])))
    assert found.per_class == {0: pytest.approx(0.5 + 0.5 * 2 / 3), 1: 1.0, 2: -1.0}
    assert found.figures["mAP"] == pytest.approx((found.per_class[0] + 1.0) / 2)
    certain = TASK.score(index_of("0", "1", "0", ""), results_of(scores), Scoring())["label"]
    assert certain.per_class[0] < found.per_class[0]  # without the mark it would be a miss


def test_an_image_without_a_score_comes_last_and_images_can_be_chosen() -> None:
    index = index_of("0", "0", "1", "1")
    scores = np.array([[0.9, 0.1, 0], [0.8, 0.2, 0], [0.1, 0.9, 0], [0.7, 0.3, 0]])
    results = results_of(scores)
    assert TASK.score(index, results, Scoring())["label"].figures["mAP"] == 1.0
    without = [entry for entry in results if (entry["image_id"], entry["category_id"]) != (2, 0)]
    assert TASK.score(index, without, Scoring())["label"].per_class[0] == 0.5
    assert TASK.score(index, [], Scoring())["label"].figures["mAP"] == 0
    some = TASK.score(index, without, Scoring(image_ids=[1, 3]))["label"]
    assert some.per_class == {0: 1.0, 1: 1.0, 2: -1.0}


def spec(model: str = "spt-nano", classes: int = 3) -> ModelSpec:
    heads = TASK.heads_config("auto", model)
    categories = tuple((number, f"class {number}") for number in range(classes))
    return ModelSpec("multilabel", model, backbone_config(model), heads, categories, False, (64, 64))


def batch(*, counted: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8)
    sizes = torch.tensor([[64, 64], [64, 48]])
    target = {"present": torch.tensor([1.0, 0, 0]), "counted": torch.tensor([True, True, counted])}
    labels = {stride: torch.rand(2, 64 // stride, 64 // stride, generator=generator) < 0.3 for stride in (8, 16, 32)}
    return Batch(images, sizes, sizes.clone(), [1, 2], [dict(target), dict(target)], labels)


def test_a_class_that_is_not_counted_costs_nothing_and_moves_nothing() -> None:
    torch.manual_seed(0)
    model = TASK.build_model(spec()).train()
    head = model.head
    torch.manual_seed(1)
    left_out = TASK.outcome(model, batch(counted=False), select_loss_weight=0.1)
    left_out.losses["loss_label"].backward()
    assert not head.weight.grad[2].any()
    assert head.weight.grad[0].any()
    torch.manual_seed(1)
    whole = TASK.outcome(model, batch(), select_loss_weight=0.1)
    logits = whole.logits.detach()
    by_hand = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, :2], torch.tensor([[1.0, 0], [1, 0]]))
    torch.testing.assert_close(left_out.losses["loss_label"].detach(), by_hand)
    assert whole.losses["loss_label"] != left_out.losses["loss_label"]
    assert whole.losses["loss_select"] > 0
    assert whole.logits.shape == (2, 3)


@pytest.mark.parametrize("model", ["swin-nano", "spt-nano"])
def test_every_parameter_learns(model: str) -> None:
    torch.manual_seed(0)
    network = TASK.build_model(spec(model)).train()
    TASK.outcome(network, batch(), select_loss_weight=0.1).total.backward()
    assert [name for name, one in network.named_parameters() if one.grad is None] == []


def test_predictions_are_one_score_a_class_whatever_lies_beside_an_image() -> None:
    torch.manual_seed(0)
    described = spec()
    model = TASK.build_model(described).eval()
    both, features = TASK.predict(model, batch(), described)
    assert [(one["image_id"], one["category_id"]) for one in both[0] + both[1]] == [
        (image, category) for image in (1, 2) for category in range(3)
    ]
    assert len(features.selections) == 4
    images = batch().images[1:, :, :, :64]
    alone = Batch(images, torch.tensor([[64, 48]]), torch.tensor([[64, 48]]), [2])
    assert [one["score"] for one in TASK.predict(model, alone, described)[0][0]] == pytest.approx(
        [one["score"] for one in both[1]], abs=1e-6
    )


def test_what_it_refuses() -> None:
    assert TASK.refusal(index_of("", "")) == "no image with an object"
    assert TASK.refusal(index_of("", "0d")) is None
    with pytest.raises(UsageError, match="no heads 'small'"):
        TASK.heads_config("small", "spt-nano")
