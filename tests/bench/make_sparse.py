"""What cutting a sparse set costs, against a plain pycocotools script, interleaved in one run.

    python -m tests.bench.make_sparse                     # 118,287 images, 450 MB; a round of the rival: ten minutes
    python -m tests.bench.make_sparse --images 5000 --rounds 3 --json make_sparse.json
    python -m tests.bench.make_sparse --no-rival --jobs 1,2

Every run is a fresh process: CPU seconds are its own and those of its workers, memory is the peak resident set of the
largest process (`total_gb` adds the workers'). The page cache is warm. Both keep the same images, which is checked.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench.synthetic_coco import FULL_IMAGES, write_synthetic

RIVAL = """
import json, sys
import numpy as np
from pycocotools.coco import COCO

coco = COCO(sys.argv[1])
keep = set()
for image_id, image in coco.imgs.items():
    canvas = np.zeros((image["height"], image["width"]), bool)
    for annotation in coco.imgToAnns[image_id]:
        canvas |= coco.annToMask(annotation).astype(bool)
    if canvas.mean() < 0.2:
        keep.add(image_id)
data = coco.dataset
data["images"] = [image for image in data["images"] if image["id"] in keep]
data["annotations"] = [annotation for annotation in data["annotations"] if annotation["image_id"] in keep]
with open(sys.argv[2], "w") as stream:
    json.dump(data, stream)
"""


def ours(root: Path, out: Path, jobs: int) -> list[str]:
    """The command line of our own run."""
    command = [sys.executable, "-m", "sptcli", "make-sparse", str(root), "-r", "0.2", "--out", str(out), "--force"]
    return [*command, "--jobs", str(jobs), "--quiet"]


def run(command: list[str]) -> dict[str, float]:
    """Wall and CPU seconds and peak memory (GB) of a process and its children."""
    before = _children()
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    total = 0.0
    while process.poll() is None:
        total = max(total, _resident(process.pid))
        time.sleep(0.05)
    wall = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    after = _children()
    return {"wall_s": wall, "cpu_s": after - before, "total_gb": total}


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _resident(pid: int) -> float:
    """Resident memory of a process and its descendants, GB; shared pages count in each."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total = int(line.split()[1])
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(int(_resident(int(child)) * 1e6) for child in (task / "children").read_text().split())
    except OSError:
        return total / 1e6
    return total / 1e6


def median(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of every figure."""
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


def measure(images: int, rounds: int, jobs: list[int], *, rival: bool) -> dict[str, Any]:
    """All contestants, in turn, `rounds` times."""
    with tempfile.TemporaryDirectory() as folder:
        root, out, theirs = Path(folder, "set"), Path(folder, "out"), Path(folder, "theirs.json")
        (root / "annotations").mkdir(parents=True)
        path = write_synthetic(root / "annotations" / "instances_train2017.json", images)
        path.read_bytes()
        contestants = {f"spt_jobs_{count}": ours(root, out, count) for count in jobs}
        if rival:
            contestants["pycocotools"] = [sys.executable, "-c", RIVAL, str(path), str(theirs)]
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
        for _ in range(rounds):
            for name, command in contestants.items():
                taken[name].append(run(command))
        kept = json.loads((out / path.relative_to(root)).read_bytes())["images"]
        if rival:
            same = [image["id"] for image in kept] == [
                image["id"] for image in json.loads(theirs.read_bytes())["images"]
            ]
            if not same:
                raise SystemExit("the two do not keep the same images")
        result: dict[str, Any] = {name: median(found) | {"rounds": found} for name, found in taken.items()}
        result |= {"images": images, "kept": len(kept), "megabytes": path.stat().st_size / 1e6}
        if rival:
            first = result[f"spt_jobs_{jobs[0]}"]
            result["times_faster_cpu"] = result["pycocotools"]["cpu_s"] / first["cpu_s"]
        return result


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    return {
        "commit": commit.stdout.strip(),
        "cpus": os.cpu_count(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in ("pycocotools", "msgspec", "numpy")},
        "load": os.getloadavg(),
    }


def main() -> None:
    """Measure, print, and write JSON where that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=FULL_IMAGES)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--jobs", default="1,2")
    parser.add_argument("--no-rival", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    jobs = [int(count) for count in arguments.jobs.split(",")]
    result = machine() | measure(arguments.images, arguments.rounds, jobs, rival=not arguments.no_rival)
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
