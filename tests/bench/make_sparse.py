"""What cutting a sparse set costs, against the plain script one would write, interleaved in one run.

    python -m tests.bench.make_sparse                     # COCO: 118,287 images, 450 MB; the rival: ten minutes
    python -m tests.bench.make_sparse --images 5000 --rounds 3 --json make_sparse.json
    python -m tests.bench.make_sparse --no-rival --jobs 1,2
    python -m tests.bench.make_sparse --set bdd           # 69,863 frames, 260 MB; --set voc: 17,125 XML files

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
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench import synthetic_bdd, synthetic_coco, synthetic_voc

COCO_RIVAL = """
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
BDD_RIVAL = """
import json, math, sys
import numpy as np

frames, kept = json.load(open(sys.argv[1])), []
for frame in frames:
    canvas = np.zeros((720, 1280), bool)
    for label in frame["labels"]:
        box = label["box2d"]
        x1, y1, x2, y2 = (math.ceil(box[k] + s) for k, s in (("x1", -0.5), ("y1", -0.5), ("x2", 0.5), ("y2", 0.5)))
        canvas[y1:y2, x1:x2] = True
    if canvas.mean() < 0.2:
        kept.append(frame)
json.dump(kept, open(sys.argv[2], "w"))
"""
VOC_RIVAL = """
import json, sys
from pathlib import Path
from xml.etree import ElementTree
import numpy as np

base, kept = Path(sys.argv[1]), []
for name in (base / "ImageSets/Main/train.txt").read_text().split():
    root = ElementTree.parse(base / "Annotations" / (name + ".xml")).getroot()
    canvas = np.zeros((int(root.find("size/height").text), int(root.find("size/width").text)), bool)
    for box in root.iter("bndbox"):
        x1, y1, x2, y2 = (int(box.find(k).text) for k in ("xmin", "ymin", "xmax", "ymax"))
        canvas[y1 - 1 : y2, x1 - 1 : x2] = True
    if canvas.mean() < 0.2:
        kept.append(name)
json.dump(kept, open(sys.argv[2], "w"))
"""


@dataclass(frozen=True)
class Kind:
    """A data set at full size: its images, how it is written below a root, the rival, and how to name what was kept."""

    images: int
    write: Callable[[Path, int], Path]
    rival: str
    kept: Callable[[Path], list[Any]]


def _write_coco(root: Path, images: int) -> Path:
    (root / "annotations").mkdir(parents=True)
    return synthetic_coco.write_synthetic(root / "annotations" / "instances_train2017.json", images)


def _write_bdd(root: Path, images: int) -> Path:
    (root / "labels" / "det_20").mkdir(parents=True)
    return synthetic_bdd.write_synthetic(root / "labels" / "det_20" / "det_train.json", images)


def coco_ids(path: Path) -> list[Any]:
    """The images of a COCO file."""
    return [image["id"] for image in json.loads(path.read_bytes())["images"]]


def bdd_names(path: Path) -> list[Any]:
    """The frames of a Scalabel file."""
    return [frame["name"] for frame in json.loads(path.read_bytes())]


def voc_names(path: Path) -> list[Any]:
    """The images of a VOC folder, or of the rival's list."""
    return (path / "ImageSets/Main/train.txt").read_text().split() if path.is_dir() else json.loads(path.read_bytes())


KINDS = {
    "coco": Kind(synthetic_coco.FULL_IMAGES, _write_coco, COCO_RIVAL, coco_ids),
    "bdd": Kind(synthetic_bdd.FULL_FRAMES, _write_bdd, BDD_RIVAL, bdd_names),
    "voc": Kind(synthetic_voc.FULL_IMAGES, synthetic_voc.write_synthetic, VOC_RIVAL, voc_names),
}


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


def measure(kind: Kind, images: int, rounds: int, jobs: list[int], *, rival: bool) -> dict[str, Any]:
    """All contestants, in turn, `rounds` times."""
    with tempfile.TemporaryDirectory() as folder:
        root, out, theirs = Path(folder, "set"), Path(folder, "out"), Path(folder, "theirs.json")
        path = kind.write(root, images)
        size = sum(one.stat().st_size for one in ([path] if path.is_file() else path.rglob("*")) if one.is_file())
        contestants = {f"spt_jobs_{count}": ours(root, out, count) for count in jobs}
        if rival:
            contestants["plain_script"] = [sys.executable, "-c", kind.rival, str(path), str(theirs)]
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
        for _ in range(rounds):
            for name, command in contestants.items():
                taken[name].append(run(command))
        kept = kind.kept(out / path.relative_to(root))
        if rival and kept != kind.kept(theirs):
            raise SystemExit("the two do not keep the same images")
        result: dict[str, Any] = {name: median(found) | {"rounds": found} for name, found in taken.items()}
        result |= {"images": images, "kept": len(kept), "megabytes": size / 1e6}
        if rival:
            first = result[f"spt_jobs_{jobs[0]}"]
            result["times_faster_cpu"] = result["plain_script"]["cpu_s"] / first["cpu_s"]
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
    parser.add_argument("--set", choices=list(KINDS), default="coco")
    parser.add_argument("--images", type=int, help="instead of the real set's number")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--jobs", default="1,2")
    parser.add_argument("--no-rival", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    jobs = [int(count) for count in arguments.jobs.split(",")]
    kind = KINDS[arguments.set]
    images = arguments.images or kind.images
    found = measure(kind, images, arguments.rounds, jobs, rival=not arguments.no_rival)
    result = {"set": arguments.set} | machine() | found
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
