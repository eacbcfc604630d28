"""Distillation: a trained dense model shows the student where its tokens and logits should lie (arXiv 2106.02034).

The teacher is frozen and in evaluation mode; it is no part of the student, its checkpoints or its optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptcore.errors import UsageError
from sptcore.models.backbone import Features, valid_tokens
from sptcore.models.bodies import AnyBackboneConfig, find_backbone
from sptcore.models.classifier import Classified, Classifier
from sptcore.models.config import STRIDES
from sptcore.models.vit.config import ViTConfig
from sptcore.runs import open_run
from sptcore.runs.models import load_model
from sptcore.tasks.base import Batch, ModelSpec, Outcome
from sptcore.tasks.pixels import Normalise
from sptcore.training.config import TrainConfig

MOVING_NAMES = ("last", "auto")


@dataclass(frozen=True, eq=False)
class Teacher:
    """A frozen `model` that fits the student, and the weight of both of its losses.

    `left_only`: the student drops tokens for good, and only those that are left can be like the teacher's.
    `logit_loss`: how far the student's logits are from the teacher's; None where they mean something else.
    """

    model: nn.Module
    normalise: Normalise
    weight: float
    left_only: bool = False
    logit_loss: Callable[[Tensor, Tensor], Tensor] | None = None

    def teach(self, outcome: Outcome, batch: Batch) -> Outcome:
        """`outcome` with the losses of distillation added: `loss_tokens`, and `loss_logits` where both have logits."""
        with torch.no_grad():
            features, logits = self._answer(batch)
        gap = token_loss(outcome.features, features, batch.image_sizes, left_only=self.left_only)
        own = {"loss_tokens": self.weight * gap}
        if self.logit_loss is not None and logits is not None and outcome.logits is not None:
            own["loss_logits"] = self.weight * self.logit_loss(outcome.logits, logits)
        return replace(outcome, losses={**outcome.losses, **own})

    def _answer(self, batch: Batch) -> tuple[Features, Tensor | None]:
        """What the teacher makes of the student's images; of a detector the backbone alone runs."""
        if isinstance(self.model, Classifier):
            answer: Classified = self.model(batch.images, batch.image_sizes)
            return answer.features, answer.logits
        sizes = [(int(height), int(width)) for height, width in batch.image_sizes.tolist()]
        return find_backbone(self.model)(self.normalise(batch.images, sizes), batch.image_sizes), None


def token_loss(student: Features, teacher: Features, image_sizes: Tensor, *, left_only: bool = False) -> Tensor:
    """Mean squared difference of the student's last map and the teacher's, over valid tokens and channels, in float32.

    `left_only`: over those of the tokens that the student's last selection has left.
    """
    key = max(student.maps)
    ours, theirs = (one.maps[key].permute(0, 2, 3, 1).float() for one in (student, teacher))
    counted = valid_tokens(ours, image_sizes, STRIDES[int(key)])
    if left_only:
        counted = counted & student.selections[-1].selection.mask
    gaps = (ours - theirs).square().mean(-1)
    return torch.where(counted, gaps, 0.0).sum() / counted.sum().clamp(min=1)


def class_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the student's class probabilities from the teacher's, mean over images."""
    ours, theirs = (F.log_softmax(logits.float(), dim=-1) for logits in (student, teacher))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def label_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The same of classes that are there or not each for itself: mean over images and classes, as the task's loss."""
    ours, theirs = (
        torch.stack([F.logsigmoid(logits.float()), F.logsigmoid(-logits.float())], dim=-1)
        for logits in (student, teacher)
    )
    return F.kl_div(ours, theirs, reduction="sum", log_target=True) / student.numel()


LOGIT_LOSSES = {"classify": class_loss, "multilabel": label_loss}
"""By task, how logits are compared; a detector's are not."""


def load_teacher(config: TrainConfig, student: nn.Module, spec: ModelSpec, device: torch.device) -> Teacher | None:
    """The teacher that `config` names, a run folder or a weights file, on `device`; None where it names none.

    Raises UsageError for one that does not fit the student, DataError or IntegrityError for one that cannot be read.
    """
    if config.teacher is None:
        return None
    if config.teacher in MOVING_NAMES:
        raise UsageError(
            f"teacher = {config.teacher!r} would be another model when the run goes on",
            hint="name a run folder or a weights file",
        )
    run = open_run(config.teacher)
    loaded = load_model(run, device=device)
    ours = find_backbone(student).config
    reason = misfit(ours, find_backbone(loaded.model).config)
    if reason is None and loaded.spec.task == spec.task and loaded.spec.categories != spec.categories:
        reason = "it was trained for other classes"
    if reason is not None:
        hint = "a Swin of the same size, trained for the same task, fits"
        message = f"{loaded.spec.variant} cannot teach {spec.variant}: {reason}"
        raise UsageError(message, where=str(run.weights), hint=hint)
    drops = isinstance(ours, ViTConfig) and ours.prunes
    compare = LOGIT_LOSSES.get(spec.task) if loaded.spec.task == spec.task else None
    return Teacher(loaded.model.requires_grad_(False), Normalise().to(device), config.distill_weight, drops, compare)


def misfit(student: AnyBackboneConfig, teacher: AnyBackboneConfig) -> str | None:
    """Why tokens of the one cannot be compared with those of the other, None when they can."""
    if teacher.num_spa_blocks:
        return "it selects tokens, a teacher is dense"
    last = student.out_stages[-1]
    if last not in teacher.out_stages:
        return f"it returns no map of stage {last}"
    widths = [config.channels[last - 1] for config in (student, teacher)]
    if widths[0] != widths[1]:
        return f"its tokens have {widths[1]} channels, the student's {widths[0]}"
    return None
