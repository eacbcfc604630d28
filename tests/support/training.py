"""A training run of seconds: three images, a nano model at 64 pixels, a handful of steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sptcore.runs import Run, load_checkpoint, new_run, read_metrics
from sptcore.runs.metrics import TIMING
from sptcore.training.config import TrainConfig, make_config
from sptcore.training.loop import FitReport, fit
from tests.support.miniatures import mini_coco

STEPS = 4


def tiny_config(data: Path, **changes: Any) -> TrainConfig:
    """Two epochs of two steps, metrics and a checkpoint at each step, validation after each epoch."""
    values: dict[str, Any] = {
        "model": "spt-nano", "data": str(data), "res": "64x64", "crop_prob": 0.5, "epochs": 2, "batch": 2,
        "lr": 1e-3, "scale_lr": False, "warmup": 2, "ema": 0.9, "clip": 5.0, "select_loss_weight": 0.1,
        "log_every": 1, "save_every": "1it", "device": "cpu", "workers": 0,
    }  # fmt: skip
    return make_config(values | changes)


def tiny_run(folder: Path, data: Path, **changes: Any) -> FitReport:
    """Train `tiny_config` to its end in the fresh folder `folder`."""
    return fit(tiny_config(data, **changes), new_run("train", "tiny", folder=folder))


def mini_data(root: Path) -> Path:
    """The miniature COCO set at `root`."""
    return mini_coco(root)


def final_state(run: Run) -> dict[str, Any]:
    """Everything a repeated run must have bit for bit: last checkpoint, metrics without clocks, weights files."""
    checkpoint = load_checkpoint(run.checkpoints / "last.pt")
    checkpoint.pop("config")
    rows = read_metrics(run.home / "metrics.jsonl")
    return {
        "checkpoint": checkpoint,
        "metrics": [{name: value for name, value in row.items() if name not in TIMING} for row in rows],
        "weights": {path.name: path.read_bytes() for path in sorted((run.home / "weights").glob("*.safetensors"))},
        "predictions": (run.home / "predictions.json").read_bytes(),
    }


def difference(one: Any, other: Any, where: str = "") -> str | None:
    """The first place in which two nested states differ, None when they are bit-equal."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
        return None if same else where
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return f"{where}: {sorted(set(one) ^ set(other))}"
        return next((found for key in one if (found := difference(one[key], other[key], f"{where}/{key}"))), None)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return next((found for number, (a, b) in pairs if (found := difference(a, b, f"{where}/{number}"))), None)
    return None if one == other else f"{where}: {str(one)[:60]} != {str(other)[:60]}"
