"""Distillation: what the teacher adds, what it leaves alone, and which teachers are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from sptcore.errors import DataError, UsageError
from sptcore.models.backbone import Features, PlacedSelection
from sptcore.models.variants import VARIANTS
from sptcore.ops.selection import Selection
from sptcore.runs import Run, new_run
from sptcore.training.distill import class_loss, label_loss, load_teacher, misfit, token_loss
from sptcore.training.loading import BatchLoader
from sptcore.training.loop import Trainer, fit, make_trainer
from tests.support.tiny import make_tiny
from tests.support.training import difference, final_state, mini_data, tiny_config, tiny_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A dense detector of one step."""
    return tiny_run(tmp_path_factory.mktemp("runs") / "teacher", data, model="swin-nano", max_steps=1).run


def features(value: torch.Tensor) -> Features:
    return Features({"2": torch.zeros(1, 1, 1, 1), "3": value})


def test_the_token_loss_is_of_the_last_map_and_of_the_image_only() -> None:
    ours, theirs = torch.zeros(2, 4, 2, 2), torch.zeros(2, 4, 2, 2)
    ours[0, 0, 0, 0] = 2.0  # squared 4, a quarter of the channels
    ours[1, :, 1, 1] = 9.0  # in the batch padding of image 1
    sizes = torch.tensor([[64, 64], [32, 64]])
    assert token_loss(features(ours), features(theirs), sizes).item() == pytest.approx(1 / 6)
    assert token_loss(features(ours), features(theirs), torch.tensor([[64, 64]] * 2)).item() > 1


def test_the_logit_loss_is_the_divergence_from_the_teacher() -> None:
    ours, theirs = torch.randn(3, 5), torch.randn(3, 5)
    p, q = theirs.softmax(-1), ours.softmax(-1)
    assert class_loss(ours, theirs).item() == pytest.approx((p * (p / q).log()).sum().item() / 3, rel=1e-5)
    assert class_loss(ours, ours + 7).item() == pytest.approx(0, abs=1e-6)


def test_classes_that_do_not_exclude_each_other_are_compared_each_for_itself() -> None:
    ours, theirs = torch.randn(3, 5), torch.randn(3, 5)
    p, q = theirs.sigmoid(), ours.sigmoid()
    wanted = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean().item()
    assert label_loss(ours, theirs).item() == pytest.approx(wanted, rel=1e-5)
    assert label_loss(ours, ours).item() == pytest.approx(0, abs=1e-6)
    assert label_loss(ours, ours + 7).item() > 0.1, "all classes likelier is another answer"


def test_a_run_has_the_losses_and_ends_elsewhere(data: Path, teacher: Run, tmp_path: Path) -> None:
    settings = {"model": "dynamicswin-nano", "max_steps": 2}
    taught = tiny_run(tmp_path / "taught", data, teacher=str(teacher.home), **settings).run
    alone = tiny_run(tmp_path / "alone", data, **settings).run
    rows = [[row for row in run.metrics() if "loss" in row] for run in (taught, alone)]
    assert all(row["loss_tokens"] > 0 for row in rows[0])
    assert all("loss_tokens" not in row and "loss_logits" not in row for row in rows[1])
    assert rows[0][0]["loss"] == pytest.approx(rows[1][0]["loss"] + rows[0][0]["loss_tokens"], rel=1e-5)
    states = [final_state(run)["checkpoint"]["model"] for run in (taught, alone)]
    assert states[0].keys() == states[1].keys()
    assert difference(*states) is not None


def test_a_teacher_that_is_the_student_has_nothing_to_say(data: Path, teacher: Run) -> None:
    """The control of the loss: zero for the very same weights."""
    trainer = taught_trainer(data, teacher, model="swin-nano", drop_path=0.0)
    own = trainer.take_step.teacher
    assert own is not None
    trainer.state.model.load_state_dict(own.model.state_dict())
    assert one_step(trainer)["loss_tokens"] == pytest.approx(0, abs=1e-9)
    assert one_step(taught_trainer(data, teacher, model="swin-nano", seed=5))["loss_tokens"] > 1e-3


def taught_trainer(data: Path, teacher: Run, **settings) -> Trainer:
    return make_trainer(tiny_config(data, teacher=str(teacher.home), **settings))


def one_step(trainer: Trainer) -> dict[str, float]:
    draws = [next(trainer.sampler.batches(0, skip=0))]
    return trainer.take_step(trainer.state, list(BatchLoader(trainer.prepared.train).batches(draws))).values


def test_the_teacher_is_frozen_and_in_no_checkpoint(data: Path, teacher: Run) -> None:
    trainer = taught_trainer(data, teacher, model="dynamicswin-nano")
    own = trainer.take_step.teacher
    assert own is not None
    before = {name: value.clone() for name, value in own.model.state_dict().items()}
    one_step(trainer)
    assert not own.model.training
    assert not any(parameter.requires_grad for parameter in own.model.parameters())
    assert difference(before, dict(own.model.state_dict())) is None
    saved = trainer.state.to_checkpoint(trainer.config, trainer.prepared.spec)
    assert len(saved["model"]) == len(trainer.state.model.state_dict())
    assert not any("teacher" in name for name in saved["model"])


def test_a_taught_run_goes_on_bit_for_bit(data: Path, teacher: Run, tmp_path: Path) -> None:
    settings = {"model": "dynamicswin-nano", "teacher": str(teacher.home)}
    whole = tiny_run(tmp_path / "whole", data, **settings).run
    run = new_run("train", "tiny", folder=tmp_path / "parts")
    fit(tiny_config(data, **settings, max_steps=3), run)
    fit(tiny_config(data, **settings), run, resume=True)
    one, other = final_state(whole)["checkpoint"], final_state(run)["checkpoint"]
    assert difference(one, other) is None


def test_gradients_averaged_over_processes(data: Path, teacher: Run, tmp_path: Path) -> None:
    """Around DistributedDataParallel, whose hooks run with one process too: the same step, no parameter unused."""
    settings = {"model": "dynamicswin-nano", "clip": 0.0}
    alone = one_step(taught_trainer(data, teacher, **settings))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        trainer = taught_trainer(data, teacher, **settings)
        wrapped = DistributedDataParallel(trainer.state.model)
        object.__setattr__(trainer.take_step, "forward_model", wrapped)
        assert one_step(trainer) == alone
    finally:
        dist.destroy_process_group()


def test_teachers_that_do_not_fit(data: Path, teacher: Run, tmp_path: Path) -> None:
    selecting = tiny_run(tmp_path / "spt", data, model="spt-nano", max_steps=1).run
    for settings, words in (
        ({"teacher": str(selecting.home), "model": "swin-nano"}, "it selects tokens"),
        ({"teacher": str(teacher.home), "model": "spt-t", "heads": "small"}, "256 channels, the student's 768"),
        ({"teacher": "last"}, "another model when the run goes on"),
    ):
        with pytest.raises(UsageError, match=words):
            make_trainer(tiny_config(data, **settings))
    with pytest.raises(DataError, match="no run or weights file"):
        make_trainer(tiny_config(data, teacher=str(tmp_path / "gone.safetensors")))


def test_who_can_teach_whom() -> None:
    """By what the backbones return; every family of a size can learn from its Swin."""
    for student in ("dynamicswin-t", "spt-t", "dat-t", "topk-windows-t"):
        assert misfit(VARIANTS[student], VARIANTS["swin-t"]) is None
    assert "no map of stage 4" in (misfit(VARIANTS["swin-s"], VARIANTS["vit-s"]) or "")
    assert "selects" in (misfit(VARIANTS["spt-t"], VARIANTS["dynamicswin-t"]) or "")
    assert misfit(VARIANTS["dynamicvit-s"], VARIANTS["vit-s"]) is None


def test_no_teacher_no_losses(data: Path) -> None:
    trainer = make_trainer(tiny_config(data))
    assert trainer.take_step.teacher is None
    assert load_teacher(trainer.config, trainer.state.model, trainer.prepared.spec, trainer.device) is None


def test_classifiers_pass_their_logits_on(tmp_path: Path) -> None:
    images = make_tiny(tmp_path / "tiny")
    settings = {"task": "classify", "crop_prob": 0.0, "max_steps": 1}
    swin = tiny_run(tmp_path / "swin", images, model="swin-nano", **settings).run
    taught = tiny_run(tmp_path / "taught", images, model="dynamicswin-nano", teacher=str(swin.home), **settings).run
    row = next(row for row in taught.metrics() if "loss" in row)
    assert row["loss_logits"] > 0
    assert row["loss_tokens"] > 0
    assert row["loss_ratio"] > 0


def test_of_a_student_that_drops_tokens_only_those_left_count() -> None:
    weight = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    placed = PlacedSelection(Selection(weight, weight, weight >= 0, gated=False), 4, 0, 32)
    ours = Features({"3": torch.ones(1, 3, 2, 2) * torch.tensor([[1.0, 5.0], [5.0, 5.0]])}, (placed,))
    theirs, sizes = features(torch.zeros(1, 3, 2, 2)), torch.tensor([[64, 64]])
    assert token_loss(ours, theirs, sizes, left_only=True).item() == pytest.approx(1.0)
    assert token_loss(ours, theirs, sizes).item() == pytest.approx(19.0)


def test_logits_are_compared_where_they_mean_the_same(data: Path, tmp_path: Path) -> None:
    """A multi-label teacher's logits have another meaning than a classifier's, and may be another number."""
    settings = {"model": "swin-nano", "crop_prob": 0.0, "max_steps": 1}
    labels = tiny_run(tmp_path / "labels", data, task="multilabel", **settings).run
    learned = {"task": "multilabel", "teacher": str(labels.home)}
    (same,) = (row for row in tiny_run(tmp_path / "same", data, **settings | learned).run.metrics() if "loss" in row)
    assert {"loss_tokens", "loss_logits"} <= same.keys()
    images = make_tiny(tmp_path / "tiny")
    learned = {"task": "classify", "teacher": str(labels.home)}
    (other,) = (
        row for row in tiny_run(tmp_path / "other", images, **settings | learned).run.metrics() if "loss" in row
    )
    assert "loss_tokens" in other
    assert "loss_logits" not in other
