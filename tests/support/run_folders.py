"""Run folders as training leaves them, made up in a moment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from unittest import mock

from sptcore.runs import Run, new_run
from sptcore.training.config import make_config
from tests.support.weights import nano_weights


def finished_run(
    folder: Path, *, aps: tuple[float, ...] = (0.1, 0.3, 0.2), ratio: float = 0.4, variant: str = "spt-nano", **settings
) -> Run:
    """A run of three epochs with one validation each; `aps` are their box AP. `settings` of TrainConfig."""
    with mock.patch.dict(os.environ, SPT_RUNS=str(folder.parent)):  # its `latest` stays beside it
        run = new_run("train", folder.name, folder=folder, argv=["spt", "train", "--data", "sample"])
    config = make_config({"model": variant, "data": "sample", "epochs": len(aps), **settings})
    (run.home / "config.toml").write_text(config.to_toml())
    rows = [row for epoch, ap in enumerate(aps, 1) for row in _epoch(epoch, ap, ratio, "spt" in variant)]
    (run.home / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    nano_weights(run.home / "weights" / "best.safetensors", variant=variant)
    run.log("done <at last>")
    return run


def _epoch(epoch: int, ap: float, ratio: float, selects: bool) -> list[dict[str, float]]:
    """A row of training and a row of validation."""
    trained: dict[str, float] = {"step": 10 * epoch, "epoch": epoch, "lr": 1e-3, "loss": 3.0 / epoch}
    trained |= {"loss_classifier": 2.0 / epoch, "loss_mask": 1.0 / epoch, "seconds": 5.0, "img_per_s": 16.0}
    found: dict[str, float] = {"step": 10 * epoch, "epoch": epoch, "val.bbox.AP": ap, "val.bbox.AP50": 2 * ap}
    found |= {"val.bbox.APl": -1.0, "val.segm.AP": ap / 2, "seconds": 1.0, "img_per_s": 48.0}
    if selects:
        for stage in ("stage3", "stage4"):
            found |= {f"val.select_ratio.{stage}": ratio, f"val.label_ratio.{stage}": 0.2, f"val.recall.{stage}": 0.9}
            trained |= {f"select_ratio.{stage}": 1.5 * ratio, f"own_ratio.{stage}": 0.5 * ratio}
    return [trained, found]
