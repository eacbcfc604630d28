"""Top-1 and top-5 by hand, ties, label smoothing and shares of classes, networks of every kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sptcore.data.records import Category, DatasetIndex, ImageRecord
from sptcore.models.variants import VARIANTS, backbone_config
from sptcore.tasks import TASKS
from sptcore.tasks.base import Batch, ModelSpec, Scoring
from sptcore.tasks.classification import _entries

TASK = TASKS["classify"]
NANO = sorted(name for name in VARIANTS if name.endswith("-nano"))


def index_of(*classes: int | None, order: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)) -> DatasetIndex:
    records = tuple(ImageRecord(number, f"{number}.png", 8, 8, (), c) for number, c in enumerate(classes, 1))
    categories = tuple(Category(number, f"class {number}") for number in order)
    return DatasetIndex("tiny-imagenet", "val", Path("a"), Path("b"), categories, records)


def entries(image_id: int, **scores: float) -> list[dict]:
    return [
        {"image_id": image_id, "category_id": int(name[1:]), "score": score} for name, score in scores.items()
    ]  # fmt: skip


def test_top1_and_top5_by_hand() -> None:
    index = index_of(0, 1, 1, 6)
    results = [
        *entries(1, c0=0.9, c1=0.1),
        *entries(2, c0=0.5, c1=0.4),
        *entries(3, c1=0.1, c0=0.2, c2=0.3, c3=0.4, c4=0.5, c5=0.6),
    ]
    scores = TASK.score(index, results, Scoring())["class"]
    assert scores.figures == {"top1": 1 / 4, "top5": 2 / 4}  # image 3 has its class in the sixth place, 4 has nothing
    assert scores.per_class == {0: 1.0, 1: 0.0, 2: -1.0, 3: -1.0, 4: -1.0, 5: -1.0, 6: 0.0}
    some = TASK.score(index, results, Scoring(image_ids=[1, 2]))["class"]
    assert some.figures == {"top1": 0.5, "top5": 1.0}


@pytest.mark.parametrize("backwards", [False, True])
def test_equal_scores_rank_in_the_order_of_the_classes(backwards: bool) -> None:
    results = entries(1, c0=0.5, c1=0.5)
    results = results[::-1] if backwards else results
    assert TASK.score(index_of(0), results, Scoring())["class"].figures["top1"] == 1
    assert TASK.score(index_of(1), results, Scoring())["class"].figures["top1"] == 0
    assert TASK.score(index_of(1, order=(1, 0)), results, Scoring())["class"].figures["top1"] == 1


def spec(model: str = "spt-nano", classes: int = 6, smoothing: float = 0.0) -> ModelSpec:
    heads = TASK.heads_config("auto", model) | {"label_smoothing": smoothing}
    categories = tuple((10 * number, f"class {number}") for number in range(classes))
    return ModelSpec("classify", model, backbone_config(model), heads, categories, False, (64, 64))


def batch(*shares: list[float]) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8)
    sizes = torch.tensor([[64, 64], [64, 64]])
    targets = [{"classes": torch.tensor(one)} for one in shares]
    labels = {s: torch.rand(2, 64 // s, 64 // s, generator=generator) < 0.3 for s in (4, 8, 16, 32)}
    return Batch(images, sizes, sizes.clone(), [1, 2], targets, labels)


ONE, TWO = [1.0, 0, 0, 0, 0, 0], [0, 0.25, 0, 0, 0.75, 0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_cross_entropy_of_shares_smoothed(smoothing: float) -> None:
    torch.manual_seed(0)
    model = TASK.build_model(spec(smoothing=smoothing)).train()
    outcome = TASK.outcome(model, batch(ONE, TWO), select_loss_weight=0.1)
    logs = F.log_softmax(outcome.logits, dim=1)
    wanted = (1 - smoothing) * torch.tensor([ONE, TWO]) + smoothing / 6
    torch.testing.assert_close(outcome.losses["loss_class"], -(wanted * logs).sum(1).mean())
    assert outcome.losses["loss_select"] > 0


def test_the_five_best_are_told_best_first_under_the_datas_own_ids() -> None:
    found = _entries(7, torch.tensor([0.0, 3, 1, 3, 2, -1]), spec())
    assert [one["category_id"] for one in found] == [10, 30, 40, 20, 0]
    assert all(one["image_id"] == 7 for one in found)
    scores = [one["score"] for one in found]
    assert scores == sorted(scores, reverse=True)
    assert 0 < sum(scores) < 1
    assert len(_entries(7, torch.zeros(3), spec(classes=3))) == 3


@pytest.mark.parametrize("model", NANO)
def test_every_variant_learns_with_every_parameter_and_predicts(model: str) -> None:
    torch.manual_seed(0)
    described = spec(model)
    network = TASK.build_model(described).train()
    TASK.outcome(network, batch(ONE, TWO), select_loss_weight=0.1).total.backward()
    assert [name for name, one in network.named_parameters() if one.grad is None] == []
    results, _ = TASK.predict(network.eval(), batch(ONE, TWO), described)
    assert [len(found) for found in results] == [5, 5]


def test_the_loss_is_float32_under_bfloat16() -> None:
    torch.manual_seed(0)
    model = TASK.build_model(spec()).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outcome = TASK.outcome(model, batch(ONE, TWO), select_loss_weight=0.1)
    assert outcome.logits.dtype == outcome.losses["loss_class"].dtype == torch.float32
    outcome.total.backward()


def test_what_it_refuses() -> None:
    assert TASK.refusal(index_of(1, 2)) is None
    assert "no class of their own (2.png)" in str(TASK.refusal(index_of(1, None)))
    assert TASK.refusal(index_of()) == "no image"
