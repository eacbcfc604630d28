"""Whole Mask R-CNNs: Swin against SPT at a select ratio of a quarter.

    python -m tests.bench.detector                                       # Swin-T, batch 1 and 4: about 10 minutes
    python -m tests.bench.detector --models t --batch 1 --res 512x320 --rounds 5 --json detector.json

Every layer runs, on 1,000 box and 100 mask regions an image, drawn once; what lies between the layers (choosing
proposals, suppressing doubles) is left out, since what untrained weights propose varies. "ideal" is the ratio of the
multiply-accumulates of the whole detectors, "achieved" the speed-up divided by it.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from sptcore.profiling.macs import total
from sptcore.profiling.subjects import Built, Case, Setting, inputs_of, subject
from sptcore.profiling.timing import measure
from tests.bench.contest import (
    Talking,
    finish,
    pair,
    parser,
    protocol_of,
    provenance,
    show_sets,
    size_of,
    speed_ups,
    threads,
)

RATIO = 0.25


def cases_of(size: str, batch: int, options: argparse.Namespace) -> list[Case]:
    """The dense detector and the selecting one, built from the same seed."""
    height, width = size_of(options)
    setting = Setting("detector", height, width, batch, torch.device(options.device))
    builts = [Built(subject(name, (RATIO,)), setting) for name in (f"swin-{size}", f"spt-{size}")]
    inputs = inputs_of(setting)
    return [Case(built, selection, setting, inputs) for built in builts for selection in built.subject.selections]


def run_contest(size: str, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """Time both and say how they compare."""
    cases = {case.name: case for case in cases_of(size, batch, options)}
    calls = {name: case.inference() for name, case in cases.items()}
    title = f"Mask R-CNN {size.upper()}, batch {batch}"
    times = measure(calls, protocol_of(options), device=options.device, title=title, progress=Talking())
    macs = {name: total(case.costs())[0] for name, case in cases.items()}
    dense = f"swin-{size} dense"
    rows = {}
    for name, timing in times.items():
        ups = speed_ups(timing, times, (dense,))
        ideal, speed, speed_cpu = macs[dense] / macs[name], ups[f"x_{dense}"], ups[f"x_{dense}_cpu"]
        rows[name] = timing.to_dict() | {
            "x_dense": speed,
            "x_dense_cpu": speed_cpu,
            "ideal_x_dense": ideal,
            "achieved": speed / ideal,
            "achieved_cpu": speed_cpu / ideal,
            "gmacs": macs[name] / 1e9,
        }
    sets = len(next(iter(cases.values())).inputs)
    return {"title": title, "resolution": options.res, "input_sets": sets, "rows": rows}


def show(result: dict[str, Any]) -> None:
    """Print a contest as a table."""
    print(f"\n{result['title']}, {result['resolution']}, wall (CPU)")
    print(
        f"{'':16}{'x dense':>16}{'ideal':>8}{'achieved':>16}{'GMACs':>8}{'p50 s':>8}{'min s':>8}{'max s':>8}{'busy':>6}"
    )
    for name, row in result["rows"].items():
        print(
            f"{name:16}{pair(row, 'x_dense'):>16}{row['ideal_x_dense']:8.3f}{pair(row, 'achieved'):>16}"
            f"{row['gmacs']:8.1f}{row['p50_s']:8.3f}{row['min_s']:8.3f}{row['max_s']:8.3f}{row['stalled_rounds']:>6}",
            flush=True,
        )
    show_sets(result)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the contests and write what they came to."""
    options = parser(__doc__, models="t", batch="1,4", rounds=5).parse_args(arguments)
    with threads(options.threads):
        found = provenance(options)
        for size in options.models.split(","):
            for batch in map(int, options.batch.split(",")):
                found["contests"].append(run_contest(size, batch, options))
                show(found["contests"][-1])
    return finish(found, options)


if __name__ == "__main__":
    main()
