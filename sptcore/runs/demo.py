"""The bundled demo weights: what commands that look at a model fall back to when nothing was trained yet."""

from __future__ import annotations

from pathlib import Path

from sptcore.errors import DataError
from sptcore.runs import Run, open_run

DEMO_WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "spt-nano-demo.safetensors"


def open_weights(spec: str | Path = "auto") -> Run:
    """The run or weights file that `spec` names; "auto" is the last run, else the bundled demo weights.

    Raises DataError when there is nothing of that name, or neither a run nor demo weights.
    """
    if str(spec) != "auto":
        return open_run(spec)
    try:
        run = open_run("last")
        _ = run.weights
        return run
    except DataError:
        if DEMO_WEIGHTS.is_file():
            return Run(None, DEMO_WEIGHTS)
        raise


def is_demo(run: Run) -> bool:
    """Whether these are the bundled weights, which every picture made with them says."""
    return run.weights_file == DEMO_WEIGHTS
