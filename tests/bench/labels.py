"""What a label store costs: building it, opening it, reading it at random, verifying it, labels through a transform.

    python -m tests.bench.labels                              # 118,287 images, some minutes; needs 2 GB of disk
    python -m tests.bench.labels --images 4000 --jobs 2 --json labels.json
    python -m tests.bench.labels --images 2000 --kills 50     # SIGKILL at random moments, resumed to the same bytes

Times are of a warm page cache; CPU seconds count the worker processes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sptcore.data.locate import open_index
from sptcore.data.records import DatasetIndex
from sptcore.labels.build import build_labels
from sptcore.labels.store import LabelStore
from sptcore.labels.transform import Affine, labels_for
from tests.bench.synthetic_coco import FULL_IMAGES, write_synthetic

READS = 3000
BUILD = (
    "import sys\n"
    "from sptcore.data.locate import open_index\n"
    "from sptcore.labels.build import build_labels, staging\n"
    "if __name__ == '__main__':\n"
    "    staging.BLOCK = int(sys.argv[3])\n"
    "    build_labels(open_index(sys.argv[1], 'train'), sys.argv[2], jobs=2, resume=True)\n"
)


def clocked(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What `work` returns, and its wall and CPU seconds, those of ended child processes included."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    result = work()
    return result, {"wall_s": time.perf_counter() - wall, "cpu_s": cpu_seconds() - cpu}


def cpu_seconds() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def percentiles(work: Callable[[int], Any], ids: list[int]) -> dict[str, float]:
    """Microseconds a call over `ids`, in their order."""
    times = []
    for image_id in ids:
        start = time.perf_counter()
        work(image_id)
        times.append(time.perf_counter() - start)
    return {f"p{q}_us": float(np.percentile(times, q) * 1e6) for q in (50, 90, 99)}


def measure(index: DatasetIndex, folder: Path, jobs: int) -> dict[str, Any]:
    """All figures for one data set."""
    out, result = folder / "labels.h5", {}
    for count in sorted({1, jobs}):
        report, result[f"build_{count}_jobs"] = clocked(
            lambda count=count: build_labels(index, out, jobs=count, force=True)
        )
        result["megabytes"] = report.n_bytes / 1e6
    opening = [clocked(lambda: len(LabelStore(out)))[1]["wall_s"] for _ in range(7)]
    result["open_ms"] = float(np.median(opening) * 1e3)
    store, draw = LabelStore(out), random.Random(0)
    ids = draw.choices(store.image_ids.tolist(), k=READS)
    view = Affine.flip_horizontal(640).then(Affine.resize((640, 480), (1333, 800))).then(Affine.translate(-17, -5))
    masks = {image_id: store.mask(image_id) for image_id in ids[:500]}
    result["levels"] = percentiles(store.levels, ids)
    result["levels_through_hdf5"] = percentiles(through_hdf5(out, store), ids)
    result["mask_and_levels"] = percentiles(lambda i: (store.mask(i), store.levels(i)), ids)
    result["labels_for"] = percentiles(lambda i: labels_for(masks[i], view, (1333, 800)), ids[:500])
    result["verify_all"] = clocked(store.verify)[1]
    return result


def through_hdf5(path: Path, store: LabelStore) -> Callable[[int], Any]:
    """The rival of `LabelStore.levels`: the same bytes by h5py, its offsets in memory too, the CRC left out."""
    file, rows = h5py.File(path, "r"), {image_id: row for row, image_id in enumerate(store.image_ids.tolist())}
    names = ["mask/rle", *(f"levels/s{stride}/bits" for stride in store.strides)]
    pairs = [(file[name], store.index[name.replace("rle", "rle_offsets").replace("bits", "offsets")]) for name in names]
    return lambda image_id: [data[o[rows[image_id]] : o[rows[image_id] + 1]] for data, o in pairs]


def kill_and_resume(root: Path, index: DatasetIndex, folder: Path, kills: int) -> dict[str, int]:
    """Kill a building process at random moments, then resume; counts of whole, unfinished and wrong files."""
    whole, out, script = folder / "whole.h5", folder / "killed.h5", folder / "build.py"
    build_labels(index, whole)
    expected, draw, found = whole.read_bytes(), random.Random(1), {"complete": 0, "absent": 0, "wrong": 0}
    script.write_text(BUILD)
    command = [sys.executable, str(script), str(root), str(out), "128"]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    longest = clocked(lambda: subprocess.run(command, env=environment, check=True))[1]["wall_s"]
    for _ in range(kills):
        out.unlink(missing_ok=True)
        process = subprocess.Popen(command, env=environment)
        time.sleep(draw.uniform(0.3, 1.05) * longest)
        process.send_signal(signal.SIGKILL)
        process.wait()
        state = "absent" if not out.exists() else "complete" if out.read_bytes() == expected else "wrong"
        found[state] += 1
        if draw.random() < 0.3:  # else the next process goes on from here
            subprocess.run(command, env=environment, check=True)
            found["wrong"] += out.read_bytes() != expected
    return found


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=FULL_IMAGES)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = folder / "synthetic"
        (root / "annotations").mkdir(parents=True)
        write_synthetic(root / "annotations" / "instances_train2017.json", arguments.images)
        index, reading = clocked(lambda: open_index(root, "train"))
        result: dict[str, Any] = {
            "images": arguments.images,
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors",
            "versions": {"python": platform.python_version(), "h5py": h5py.__version__, "numpy": np.__version__},
            "read_annotations": reading,
        }
        if arguments.kills:
            result["kills"] = kill_and_resume(root, index, folder, arguments.kills)
        else:
            result |= measure(index, folder, arguments.jobs)
    text = json.dumps(result, indent=1)
    sys.stdout.write(text + "\n")
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
