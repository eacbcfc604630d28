"""Two small models trained side by side, one process and one thread each, under the sample's recipe."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from sptcore.errors import ResourceError
from sptcore.progress import Progress
from sptcore.runs import Run, new_run, read_metrics
from sptcore.tasks.base import BlockCounts
from sptcore.training.config import TrainConfig, load_preset, make_config

MODELS = ("swin-nano", "spt-nano")  # the last one is what `spt evaluate` and `spt viz-selection` take up afterwards
EVALUATIONS = 2  # in a run: one half way, to be improved upon, and one at the end
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Trained:
    """A finished run, and what each of its blocks selected on the validation images at the end."""

    run: Run
    counts: tuple[BlockCounts, ...]


def demo_config(model: str, subset: Path, *, epochs: int | None, seed: int) -> TrainConfig:
    """The sample's own preset for `model` on `subset`; its schedule shrinks or grows with `epochs`."""
    preset = load_preset("sample")
    epochs = epochs or int(preset["epochs"])
    changed = {"model": model, "data": str(subset), "epochs": epochs, "seed": seed, "device": "cpu", "workers": 0}
    return make_config({**preset, **changed, "eval_every": max(1, epochs // EVALUATIONS)})


def train_side_by_side(
    configs: Mapping[str, TrainConfig], home: Path, *, images: int, progress: Progress
) -> dict[str, Trained]:
    """Train every model of `configs` on `images` images, each in its own folder below `home`.

    Raises what a training raises, ResourceError when one of the processes is killed.
    """
    runs = {model: new_run("train", f"{model}-sample", folder=home / model) for model in configs}
    workers = min(len(runs), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {model: pool.submit(_train, configs[model], run.home) for model, run in runs.items()}
        steps = sum(config.epochs * -(-images // config.batch) for config in configs.values())
        progress.start(f"training {' and '.join(runs)}", steps)
        try:
            _watch(list(futures.values()), runs, progress)
        except BrokenProcessPool as error:
            hint = "close other programs, or train one model alone: spt train --data sample"
            raise ResourceError("a training process was killed, most likely for memory", hint=hint) from error
        except BaseException:  # Ctrl-C, SIGTERM, a failure of one: the other stops too, saving its state
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        finally:
            progress.finish()
        return {model: Trained(runs[model], future.result()) for model, future in futures.items()}


def _train(config: TrainConfig, home: Path) -> tuple[BlockCounts, ...]:
    """One training in a process of its own. One thread: two models share the cores better than two threads a model."""
    import torch

    from sptcore.training.loop import fit

    torch.set_num_threads(1)
    report = fit(config, Run(home))
    if report.evaluation is None:
        raise KeyboardInterrupt  # stopped from outside before its end
    return tuple(report.evaluation.counts)


def _watch(futures: Sequence[Future], runs: Mapping[str, Run], progress: Progress) -> None:
    """Report the steps of all runs, read from their metrics, until every future is done; raise the first failure."""
    seen = dict.fromkeys(runs, 0)
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=POLL_SECONDS)
        for model, run in runs.items():
            rows = [row for row in read_metrics(run.home / "metrics.jsonl", torn_end=True) if "loss" in row]
            if rows and rows[-1]["step"] > seen[model]:
                progress.advance(rows[-1]["step"] - seen[model], **{f"{model} loss": round(rows[-1]["loss"], 2)})
                seen[model] = rows[-1]["step"]
        for future in done:
            future.result()
