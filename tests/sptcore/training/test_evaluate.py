"""Measuring a model on a split: an image's result is its own."""

from __future__ import annotations

from pathlib import Path

import torch

from sptcore.data.locate import open_index
from sptcore.evaluation import macs_spent
from sptcore.models.variants import build_backbone
from sptcore.profiling.counted import count_macs
from sptcore.profiling.forced import randomise_biases
from sptcore.tasks import TASKS
from sptcore.training.datasets import ImageDataset, WholeImage
from sptcore.training.evaluate import ImageTokens, Running, alike_in_batches, evaluate_model
from sptcore.training.loading import BatchLoader
from sptcore.training.prepare import describe
from tests.support.miniatures import mini_coco
from tests.support.training import tiny_config

RES = (96, 96)  # the three images become 72 x 96, 64 x 96 and 96 x 96: two frames


def test_batches_hold_images_of_one_frame_and_all_of_them(tmp_path: Path) -> None:
    index = open_index(mini_coco(tmp_path / "set"), "train")
    dataset = ImageDataset(index, WholeImage(RES))
    draws = alike_in_batches(dataset, 8)
    assert sorted(draw.index for batch in draws for draw in batch) == [0, 1, 2]
    assert sorted(map(len, draws)) == [1, 2]
    assert sorted(map(len, alike_in_batches(dataset, 1))) == [1, 1, 1]
    for batch, alone in zip(BatchLoader(dataset).batches(draws), draws, strict=True):
        (first, *_) = BatchLoader(dataset).batches([alone[:1]])
        assert batch.images.shape[2:] == first.images.shape[2:]


def test_what_a_small_image_cost_is_what_ran() -> None:
    """One token in a frame of four: EViT has nothing to drop, and the padding goes on."""
    backbone = build_backbone("evit-nano").eval()
    image = ImageTokens(1, (16, 16), (32, 32), (1, 1))
    spent = macs_spent(backbone.config, [image])
    ran = count_macs(lambda: backbone(torch.randn(1, 3, *image.frame), torch.tensor([image.size])))
    assert spent is not None
    assert spent.actual == ran.macs


def test_results_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    """Images of three sizes: the same figures and detections one at a time and together, in the data's order."""
    root = mini_coco(tmp_path / "set")
    index = open_index(root, "train")
    spec = describe(tiny_config(root, res="96x96"), index)
    torch.manual_seed(0)
    model = TASKS[spec.task].build_model(spec)
    randomise_biases(model, torch.Generator().manual_seed(0), 0.1)
    dataset = ImageDataset(index, WholeImage(RES))
    alone, together = (
        evaluate_model(TASKS[spec.task], model, spec, dataset, index, running=Running(torch.device("cpu"), batch))
        for batch in (1, 8)
    )
    assert [one["image_id"] for one in alone.results] == [one["image_id"] for one in together.results]
    assert list(dict.fromkeys(one["image_id"] for one in alone.results)) == [
        record.image_id for record in index.records
    ]
    for one, other in zip(alone.results, together.results, strict=True):
        assert abs(one["score"] - other["score"]) < 1e-5
