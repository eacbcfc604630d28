"""`spt make-labels`: files, exit codes, --json, bad input, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sptcore.labels.build import crew, staging
from sptcore.labels.store import LabelStore
from tests.support.cli import spt
from tests.support.label_stores import coco_set
from tests.support.miniatures import SEVEN_UNION, TWO_UNION, mini_coco


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return mini_coco(tmp_path / "mini")


def test_all_splits_into_the_cache_and_found_again(data, tmp_path):
    ran = spt("make-labels", data, "--json")
    assert ran.code == 0
    document = ran.document
    assert (document["schema"], document["ok"]) == ("spt.make-labels/1", True)
    assert list(document["labels"]) == ["train", "val"]
    report = document["labels"]["train"]
    assert Path(report["path"]).parent == tmp_path / "cache" / "labels"
    assert (report["n_images"], report["n_empty"], report["built"]) == (3, 1, True)
    assert document["artefacts"]["labels train"] == report["path"]
    assert document["next"] == f"spt train --data {data}"
    store = LabelStore(report["path"])
    assert [store.image(image_id).object_pixels for image_id in (7, 2, 5)] == [SEVEN_UNION, TWO_UNION, 0]
    again = spt("make-labels", data, "--json").document["labels"]["train"]
    assert (again["built"], again["seal"]) == (False, report["seal"])


def test_a_named_file_and_what_stands_there(data, tmp_path):
    ran = spt("make-labels", data, "--splits", "val", "--out", "labels.h5", "--strides", "32,4", "--jobs", 1)
    assert ran.code == 0
    assert "val" in ran.out
    assert "labels val: labels.h5" in ran.err
    assert LabelStore("labels.h5").strides == (4, 32)
    before = Path("labels.h5").read_bytes()
    ran = spt("make-labels", data, "--splits", "val", "--out", "labels.h5")
    assert (ran.code, "--force" in ran.err) == (4, True)
    assert Path("labels.h5").read_bytes() == before
    assert spt("make-labels", data, "--splits", "val", "--out", "labels.h5", "--force").code == 0
    assert LabelStore("labels.h5").strides == (8, 16, 32)


def test_several_splits_under_one_name(data):
    assert spt("make-labels", data, "--out", "labels.h5", "--from", "boxes").code == 0
    assert sorted(path.name for path in Path().glob("*.h5")) == ["labels-train.h5", "labels-val.h5"]
    assert LabelStore("labels-val.h5").header.ratio_from == "boxes"


def test_a_lone_annotation_file(data):
    ann = data / "annotations" / "instances_val2017.json"
    assert spt("make-labels", "coco", "--ann", ann, "--root", data, "--out", "labels.h5").code == 0
    assert LabelStore("labels.h5").header.params["split"] == "val"


def test_dry_run_writes_nothing(data, tmp_path):
    ran = spt("make-labels", data, "--dry-run", "--out", "labels.h5", "--json")
    assert ran.code == 0
    (train, val) = ran.document["would_write"]
    assert (train["split"], train["path"], train["exists"]) == ("train", "labels-train.h5", False)
    assert (val["n_images"], val["n_objects"]) == (3, 4)
    assert not [path for path in tmp_path.rglob("*") if "label" in path.name]
    assert "labels-train.h5" in spt("make-labels", data, "--dry-run", "--out", "labels.h5").out


def test_shards_and_merging(data, tmp_path):
    for number in (1, 2):
        ran = spt("make-labels", data, "--splits", "train", "--shard", f"{number}/2", "--out", f"part{number}.h5")
        assert ran.code == 0
        assert "--merge" in ran.err
    spt("make-labels", data, "--splits", "train", "--out", "whole.h5")
    ran = spt("make-labels", data, "--merge", "part2.h5", "--merge", "part1.h5", "--out", "merged.h5")
    assert ran.code == 0
    assert Path("merged.h5").read_bytes() == Path("whole.h5").read_bytes()
    assert spt("make-labels", data, "--merge", "part1.h5", "--out", "half.h5").code == 5
    assert not Path("half.h5").exists()
    other = coco_set(tmp_path / "other", 3)
    ran = spt("make-labels", other, "--merge", "part1.h5", "--merge", "part2.h5", "--out", "wrong.h5")
    assert (ran.code, "another annotation file" in ran.err) == (5, True)
    ran = spt("make-labels", data, "--splits", "train", "--shard", "1/2")
    assert (ran.code, "--out" in ran.err) == (2, True)


@pytest.mark.parametrize("untrusted", [[], ["--untrusted"]])
def test_verify(data, tmp_path, untrusted):
    spt("make-labels", data)
    ran = spt("make-labels", data, "--verify", "--json", *untrusted)
    assert ran.code == 0
    assert [(part["split"], part["n_images"]) for part in ran.document["verified"]] == [("train", 3), ("val", 3)]
    path = Path(ran.document["verified"][1]["path"])
    damaged = bytearray(path.read_bytes())
    damaged[-80] ^= 8
    path.write_bytes(damaged)
    ran = spt("make-labels", data, "--verify", "--json", *untrusted)
    assert ran.code == 5
    assert ran.document["ok"] is False
    assert ran.document["error"]["where"].startswith(str(path))


def test_verify_a_named_file_of_one_split(data, tmp_path):
    spt("make-labels", data, "--splits", "val", "--out", "labels.h5")
    assert spt("make-labels", data, "--verify", "--out", "labels.h5").code == 0
    other = coco_set(tmp_path / "other", 3)
    ran = spt("make-labels", other, "--splits", "train", "--verify", "--out", "labels.h5")
    assert (ran.code, "first difference" in ran.err) == (5, True)
    assert spt("make-labels", data, "--verify", "--splits", "val", "--out", "none.h5").code == 3


def test_resume(data, tmp_path, monkeypatch):
    root = coco_set(tmp_path / "many", 20)
    monkeypatch.setattr(staging, "BLOCK", 4)
    build, calls = crew.build_block, []

    def stops(*arguments: object) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        build(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(crew, "build_block", stops)
    ran = spt("make-labels", root, "--out", "labels.h5", "--jobs", 1)
    assert (ran.code, "--resume" in ran.err) == (130, True)
    assert not Path("labels.h5").exists()
    assert spt("make-labels", root, "--dry-run", "--out", "labels.h5", "--json").document["would_write"][0]["resumable"]
    monkeypatch.setattr(crew, "build_block", build)
    ran = spt("make-labels", root, "--out", "labels.h5", "--jobs", 1, "--resume")
    assert (ran.code, "3 of 5 blocks" in ran.err) == (0, True)
    spt("make-labels", root, "--out", "whole.h5")
    assert Path("labels.h5").read_bytes() == Path("whole.h5").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["no-such-set"], 3, "not found"),
        (["--splits", "test"], 3, "no split 'test'"),
        (["--strides", "12"], 2, "not a power of two"),
        (["--strides", "a"], 2, "not a list of strides"),
        (["--strides", "4096"], 2, "power of two from 1 to 1024"),
        (["--from", "pixels"], 2, "pixels"),
        (["--from", "image"], 3, "padded canvas"),
        (["--untrusted"], 2, "--verify"),
        (["--verify", "--merge", "a.h5"], 2, "does not go with"),
        (["--merge", "a.h5", "--shard", "1/2"], 2, "does not go with"),
        (["--verify", "--resume"], 2, "does not go with"),
        (["--shard", "3/2"], 2, "K/N"),
        (["--jobs", "0"], 2, "--jobs"),
        (["--merge", "none.h5"], 3, "no label store"),
        (["--out", "no/such/folder/labels.h5", "--splits", "val"], 4, "mkdir -p"),
        (["--out", ".", "--splits", "val"], 4, "folder"),
    ],
)
def test_bad_input(data, arguments, code, text):
    arguments = arguments if arguments[0] == "no-such-set" else [data, *arguments]
    ran = spt("make-labels", *arguments)
    assert ran.code == code, ran.err
    assert text in ran.err
    assert "Traceback" not in ran.err
    assert not list(Path().glob("*.h5"))


def test_annotations_that_are_at_fault(data):
    path = data / "annotations" / "instances_train2017.json"
    path.write_bytes(path.read_bytes()[:200])
    ran = spt("make-labels", data, "--splits", "train", "--json")
    assert (ran.code, ran.document["error"]["code"]) == (3, 3)
    document = json.loads((data / "annotations" / "instances_val2017.json").read_text())
    document["annotations"].append(document["annotations"][0] | {"id": 77, "bbox": [1, 1, -5, 2], "segmentation": []})
    (data / "annotations" / "instances_val2017.json").write_text(json.dumps(document))
    assert spt("make-labels", data, "--splits", "val", "--strict").code == 3
    assert spt("make-labels", data, "--splits", "val").code == 0


def test_names_of_any_kind_come_out_unharmed(data):
    document = json.loads((data / "annotations" / "instances_val2017.json").read_text())
    names = ["[red]x[/red].png", "-rf.png", "café/☕\n.png"]
    for image, name in zip(document["images"], names, strict=True):
        image["file_name"] = name
    (data / "annotations" / "instances_val2017.json").write_text(json.dumps(document))
    path = Path("[bold]labels.h5")
    ran = spt("make-labels", data, "--splits", "val", "--out", path)
    assert ran.code == 0
    assert "[bold]labels.h5" in ran.err
    store = LabelStore(path)
    assert [store.image(image_id).file_name for image_id in store.image_ids.tolist()] == names


SCRIPT = """
import sys, time
from sptcore.labels.build import crew, staging
from sptcli.app import main

def wait():
    print("waiting", flush=True)
    time.sleep(600)

if __name__ == "__main__":
    staging.BLOCK = 4
    build, receive = crew.build_block, crew.Crew._receive
    done = []

    def build_two(*arguments):  # in this process, --jobs 1: stop before the third block
        done.append(1) if len(done) < 2 else wait()
        build(*arguments)

    def receive_one(self, worker):  # from a worker, --jobs 2: stop after the first block, the workers being at the next
        receive(self, worker)
        wait()

    crew.build_block, crew.Crew._receive = build_two, receive_one
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("jobs", [1, 2])
def test_signals(tmp_path, monkeypatch, number, code, jobs):
    root, out, script = coco_set(tmp_path / "many", 40), tmp_path / "labels.h5", tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, script, "make-labels", root, "--out", out, "--jobs", str(jobs)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    started = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "waiting\n"
    started.send_signal(number)
    _, err = started.communicate(timeout=60)
    assert started.returncode == code, err
    assert "Traceback" not in err
    assert "--resume" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == [".labels.h5.spt-parts", "many", "script.py"]
    monkeypatch.setattr(staging, "BLOCK", 4)
    assert spt("make-labels", root, "--out", out, "--jobs", 1, "--resume").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.h5", "many", "script.py"]
