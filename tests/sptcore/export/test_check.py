from __future__ import annotations

import math

import torch

from sptcore.export.check import check_inputs, differences


def found(*, shift: float = 0.0, order: tuple[int, ...] = (0, 1, 2)) -> dict[str, torch.Tensor]:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 9, 9]])[list(order)] + shift
    classes = torch.tensor([1, 2, 1])[list(order)]
    scores = torch.tensor([0.5, 0.5, 0.4])[list(order)]
    return {"boxes": boxes, "scores": scores, "classes": classes}


def test_inputs_differ_and_repeat() -> None:
    shape = (2, 3, 48, 64)
    first, second = (list(check_inputs(shape)) for _ in range(2))
    assert all(images.shape == shape and images.dtype == torch.uint8 for _, images in first)
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(first, second, strict=True))
    assert len({images.sum().item() for _, images in first}) == len(first)


def test_the_order_of_equal_scores_is_no_difference() -> None:
    assert set(differences(found(), found(order=(1, 2, 0))).values()) == {0.0}


def test_a_difference_is_told_by_output() -> None:
    assert differences(found(), found(shift=0.25)) == {"boxes": 0.25, "scores": 0.0, "classes": 0.0}
    changed = found()
    changed["scores"] = changed["scores"] + 0.125
    assert differences(found(), changed)["scores"] == 0.125


def test_what_cannot_be_compared_is_infinitely_far() -> None:
    one = {"logits": torch.zeros(1, 3)}
    assert differences(one, {"logits": torch.zeros(1, 4)})["logits"] == math.inf
    assert differences(one, {"logits": torch.full((1, 3), math.nan)})["logits"] == math.inf
    fewer = {name: value[:2] for name, value in found().items()}
    assert differences(found(), fewer)["boxes"] == math.inf


def test_nothing_found_on_either_side_is_no_difference() -> None:
    none = {name: value[:0] for name, value in found().items()}
    assert set(differences(none, none).values()) == {0.0}
