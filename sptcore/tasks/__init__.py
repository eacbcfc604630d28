"""What a model learns: the one table of tasks."""

from __future__ import annotations

from sptcore.tasks.base import Task
from sptcore.tasks.detection import DetectionTask

TASKS: dict[str, Task] = {"detect": DetectionTask()}
