"""The bundled demo weights, rebuilt from the sample's seed: `python -m sptcore.demo.weights`.

SPT-nano trained by the sample's preset, stored in half precision. What looks at images falls back to them when nothing
was trained yet, and says so on every picture.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from sptcore.progress import SILENT, Progress
from sptcore.runs import Run, load_weights, save_weights
from sptcore.runs.demo import DEMO_WEIGHTS
from sptcore.training.config import load_preset, make_config

SEED = 0


def build_demo_weights(out: Path = DEMO_WEIGHTS, *, epochs: int | None = None, progress: Progress = SILENT) -> Path:
    """Train spt-nano on the sample for the preset's epochs (or `epochs`) and publish its last weights at `out`."""
    from sptcore.training.loop import fit

    preset = load_preset("sample")
    config = make_config({**preset, "seed": SEED, "device": "cpu", "epochs": epochs or preset["epochs"]})
    with TemporaryDirectory(prefix="spt-demo-weights-") as folder:
        run = Run(Path(folder))
        run.checkpoints.mkdir()
        (run.home / "weights").mkdir()
        fit(config, run, progress=progress)
        tensors, info = load_weights(run.weights)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(out, tensors, info.model, notes={**info.notes, "demo": True}, half=True)
    return out


if __name__ == "__main__":
    path = build_demo_weights()
    sys.stderr.write(f"{path}: {path.stat().st_size / 1e6:.2f} MB\n")
