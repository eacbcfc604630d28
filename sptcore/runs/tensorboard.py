"""The metrics of a run for TensorBoard, beside the CSV table: `spt train --log csv,tensorboard`, the extra `log`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sptcore.errors import EnvironmentFault

FOLDER = "tensorboard"


def require_tensorboard() -> None:
    """Raise EnvironmentFault, with the command that mends it, where TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        hint = "pip install 'spt[log]', or --log csv"
        raise EnvironmentFault(f"--log tensorboard: TensorBoard is not installed ({error})", hint=hint) from error


class TensorBoardLog:
    """Writes the numbers of each row of metrics as scalars, under their columns' names.

    `step` and `rows` tell where a resumed run goes on: what an earlier process wrote from that step on is withdrawn,
    and the `rows` of that very step are written again.
    """

    def __init__(self, home: Path, *, step: int = 0, rows: Iterable[dict[str, Any]] = ()) -> None:
        require_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(home / FOLDER), purge_step=step)
        for row in rows:
            if step and row["step"] == step:
                self.append(row)

    def append(self, row: dict[str, Any]) -> None:
        """Write a row of metrics, for all to see at once."""
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)) and math.isfinite(value):
                self._writer.add_scalar(name.replace("loss_", "loss/").replace(".", "/", 1), value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
