"""Which class of a model is which of a data set."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sptcore.models.variants import backbone_config
from sptcore.tasks.base import NO_CLASS, ModelSpec
from sptcore.tasks.classes import match_classes, renumbered
from sptcore.tasks.classification import _entries

VOC = [(1, "aeroplane"), (8, "cat"), (12, "dog"), (15, "person")]
COCO = [(1, "person"), (5, "airplane"), (17, "cat"), (18, "dog"), (62, "chair")]
SPEC = ModelSpec("classify", "spt-nano", backbone_config("spt-nano"), {}, tuple(VOC), masks=False, resolution=(64, 64))


def test_equal_names_match_whatever_their_ids() -> None:
    match = match_classes(VOC, COCO)
    assert match.data_id == {8: 17, 12: 18, 15: 1}
    assert not match.is_whole
    assert match.in_words() == (
        "3 of the data's 5 classes matched by name (3 under another id); the model does not know airplane, chair, "
        "which count as missed; the data does not know aeroplane, which are left out "
        "(names must be equal: 'airplane' is not 'aeroplane')"
    )


def test_a_model_that_knows_all_and_more_has_nothing_to_tell() -> None:
    assert match_classes(COCO, COCO[:2]).is_whole
    moved = match_classes(COCO, [(0, "person")])
    assert (moved.data_id, moved.is_whole) == ({1: 0}, False)
    assert moved.in_words().startswith("1 of the data's 1 classes matched by name (1 under another id); the data does")
    assert "and 0 more" not in moved.in_words()
    assert "person, airplane" not in moved.in_words()


@pytest.mark.parametrize(
    ("model", "data", "pairs"),
    [
        ([(1, "cat"), (2, "cat")], [(2, "cat")], {2: 2}),
        ([(1, "cat"), (2, "cat")], [(3, "cat")], {}),
        ([(1, "cat")], [(2, "cat"), (3, "cat")], {}),
        ([(1, "cat"), (2, "cat")], [(2, "cat"), (3, "cat")], {2: 2, 1: 3}),
        ([(1, "Cat"), (2, "potted plant")], [(1, "cat"), (2, "pottedplant")], {}),
    ],
)
def test_a_name_that_is_not_one_class_is_matched_by_id_alone(
    model: list[tuple[int, str]], data: list[tuple[int, str]], pairs: dict[int, int]
) -> None:
    assert match_classes(model, data).data_id == pairs


def test_a_classifier_ranks_the_classes_that_the_data_knows() -> None:
    spec = renumbered(SPEC, match_classes(VOC, COCO))
    assert spec.categories == ((NO_CLASS, "aeroplane"), (17, "cat"), (18, "dog"), (1, "person"))
    logits = torch.tensor([9.0, 1.0, 3.0, 2.0])
    assert [one["category_id"] for one in _entries(0, logits, spec)] == [18, 1, 17]
    assert [one["category_id"] for one in _entries(0, logits, SPEC)] == [1, 12, 15, 8]
    many = replace(spec, categories=(*spec.categories, *((30 + number, "") for number in range(5))))
    assert len(_entries(0, torch.arange(9.0), many)) == 5
