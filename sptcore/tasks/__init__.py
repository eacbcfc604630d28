"""What a model learns: the one table of tasks."""

from __future__ import annotations

from sptcore.tasks.base import Task
from sptcore.tasks.classification import ClassificationTask
from sptcore.tasks.detection import DetectionTask
from sptcore.tasks.multilabel import MultiLabelTask

TASKS: dict[str, Task] = {
    "detect": DetectionTask(),
    "multilabel": MultiLabelTask(),
    "classify": ClassificationTask(),
}
