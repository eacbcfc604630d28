"""`spt make-sparse`: files, exit codes, --json, bad input. Numbers in comments are fault-table rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.support.cli import Ran, spt, spt_process
from tests.support.miniatures import coco_document, mini_coco, write_coco_file


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return mini_coco(tmp_path / "mini")


def one_screen(ran: Ran, code: int, *words: str) -> None:
    """A failure is `code`, says `words`, and is no traceback."""
    assert ran.code == code, ran.err
    assert "Traceback" not in ran.err
    assert ran.err.count("\n") < 12
    for word in words:
        assert word in ran.err


def test_by_name_from_a_root_to_the_usual_place(data: Path, tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    data.rename(tmp_path / "sets" / "coco")
    ran = spt("make-sparse", "coco", "--max-ratio", "0.2", "--root", "sets")
    assert ran.code == 0
    assert sorted(path.name for path in Path("data/coco-s20").iterdir()) == [
        "annotations", "manifest.json", "ratios.csv"
    ]  # fmt: skip
    assert "next: spt make-labels coco-s20" in ran.err
    assert "train" in ran.out
    again = spt("make-sparse", "coco-s20", "-r", "0.1", "--json")
    assert again.code == 0
    assert again.document["splits"]["val"]["images"] == 2
    assert Path("data/coco-s20-s10").is_dir()


def test_the_document(data: Path) -> None:
    ran = spt("make-sparse", data, "-r", "1/5", "--out", "out", "--json")
    document = ran.document
    assert (document["schema"], document["ok"], document["out"]) == ("spt.make-sparse/1", True, "out")
    assert document["rule"]["max_ratio"] == "0.2"
    assert document["splits"]["train"]["kept"] == 2
    assert document["splits"]["train"]["would_keep"] == {"0.15": 2, "0.20": 2, "0.25": 2}
    assert document["next"] == "spt make-labels out"
    assert json.loads(Path("out/manifest.json").read_bytes())["splits"]["train"]["kept"] == 2


FLAGS = {
    "--ratio-from masks": [140, 0, 0],
    "--ratio-from boxes": [160, 150, 0],
    "--crowd exclude": [120, 150, 0],
    "--sum": [180, 150, 0],
    "--classes cup": [100, 0, 0],
    "--difficult exclude --void include --min-ratio 0.01": [160, 150, 0],
}


@pytest.mark.parametrize("flags", FLAGS)
def test_flags_reach_the_rule(data: Path, flags: str) -> None:
    assert spt("make-sparse", data, "-r", "0.2", "--out", "out", "--splits", "val", *flags.split()).code == 0
    with open("out/ratios.csv", newline="", encoding="utf-8") as stream:
        assert [int(row["object_pixels"]) for row in csv.DictReader(stream)] == FLAGS[flags]


def test_other_flags(data: Path) -> None:
    flags = ["--drop-empty", "--limit", "1", "--images", "copy", "--jobs", "2", "--splits", "train"]
    assert spt("make-sparse", data, "-r", "0.2", "--out", "out", *flags).code == 0
    assert [path.name for path in Path("out/train2017").iterdir()] == ["seven.png"]
    document = spt("make-sparse", data, "-r", "0.2", "--crowd", "drop-image", "--dry-run", "--json").document
    assert document["splits"]["train"]["verdicts"]["crowd"] == 1
    assert document["out"] is None
    assert not Path("data").exists()
    ann = data / "annotations" / "instances_val2017.json"
    assert list(spt("make-sparse", "coco", "--ann", ann, "-r", "0.2", "--dry-run", "--json").document["splits"]) == [
        "val"
    ]


def test_padded(data: Path) -> None:
    assert spt("make-sparse", data, "--pad", "2x2", "--splits", "train").code == 0
    assert Path("data/mini-pad2x2/train2017/seven.png").is_file()
    one_screen(spt("make-sparse", data, "--pad", "two"), 2, "--pad 2x2")


def test_parts_and_their_merge(data: Path) -> None:
    spt("make-sparse", data, "-r", "0.2", "--out", "whole")
    for part in ("1/2", "2/2"):
        ran = spt("make-sparse", data, "-r", "0.2", "--shard", part, "--json")
        assert (ran.code, ran.document["part"]) == (0, part)
    parts = ["--merge", "data/mini-s20.part-1-of-2", "--merge", "data/mini-s20.part-2-of-2"]
    assert spt("make-sparse", data, "-r", "0.2", *parts, "--out", "merged").code == 0
    for name in ("manifest.json", "ratios.csv", "annotations/instances_train2017.json"):
        assert Path("merged", name).read_bytes() == Path("whole", name).read_bytes()
    one_screen(spt("make-sparse", data, "-r", "0.3", "--sum", *parts, "--out", "x"), 5, "another source or by another")


@pytest.mark.parametrize("ratio", ["-1", "0", "1.5", "nan", "20%", "inf", "", "1/0"])
def test_senseless_ratios_are_usage_errors(data: Path, ratio: str) -> None:  # 46
    one_screen(spt("make-sparse", data, f"--max-ratio={ratio}", "--out", "out"), 2)
    assert not Path("out").exists()


def test_usage_errors(data: Path) -> None:
    one_screen(spt("make-sparse", data), 2, "--max-ratio 0.2")
    one_screen(spt("make-sparse", data, "-r", "0.2", "--classes", "cups"), 2, "did you mean 'cup'?")
    one_screen(spt("make-sparse", data, "-r", "0.2", "--format", "cocoo"), 2, "did you mean 'coco'?")
    one_screen(spt("make-sparse", data, "-r", "0.2", "--executor", "ray"), 2, "dask://HOST:PORT")
    one_screen(spt("make-sparse", data, "-r", "0.2", "--out", data), 2, "its own input")


def test_data_errors(data: Path) -> None:
    one_screen(spt("make-sparse", "bdd", "-r", "0.2"), 3, "looked in", "--root")
    one_screen(spt("make-sparse", "cocoo", "-r", "0.2"), 3, "did you mean 'coco'?")
    one_screen(spt("make-sparse", data, "-r", "0.2", "--splits", "trian"), 3, "found: train, val")
    write_coco_file(data / "annotations" / "instances_train2017.json", b'{"images": [')
    one_screen(spt("make-sparse", data, "-r", "0.2"), 3, "instances_train2017.json", "byte 12")
    failed = spt("make-sparse", data, "-r", "0.2", "--json")
    assert failed.code == 3
    assert failed.document["ok"] is False
    assert "byte 12" in failed.document["error"]["message"]


def test_strict(data: Path) -> None:
    document = coco_document()
    document["annotations"][0]["segmentation"][0].pop()
    write_coco_file(data / "annotations" / "instances_train2017.json", document)
    where = "annotations[0].segmentation[0]"
    one_screen(spt("make-sparse", data, "-r", "0.2", "--strict"), 3, where, "odd count (7 numbers)")
    ran = spt("make-sparse", data, "-r", "0.2", "--json")
    assert ran.code == 0
    assert ran.document["splits"]["train"]["dropped"]["by_cause"] == {"polygon with an odd count": 1}


def test_what_exists_and_what_is_empty(data: Path) -> None:
    assert spt("make-sparse", data, "-r", "0.2", "--out", "out").code == 0
    one_screen(spt("make-sparse", data, "-r", "0.2", "--out", "out"), 4, "--force")  # 54
    assert spt("make-sparse", data, "-r", "0.2", "--out", "out", "--force").code == 0
    assert spt("make-sparse", data, "-r", "0.2", "--out", "out", "--resume").code == 0
    one_screen(spt("make-sparse", data, "-r", "0.2", "--out", "no/such/out"), 4, "mkdir -p")  # 52
    ran = spt("make-sparse", data, "-r", "0.01", "--drop-empty", "--out", "none")  # 47
    assert (ran.code, "no image is kept" in ran.err) == (0, True)
    one_screen(spt("make-sparse", data, "-r", "0.01", "--drop-empty", "--out", "n2", "--fail-empty"), 5, "no image")


def test_a_name_with_markup_is_printed_literally(data: Path) -> None:  # 39
    document = coco_document()
    document["images"][0]["file_name"] = "[red]x[/red].png"
    write_coco_file(data / "annotations" / "instances_train2017.json", document)
    ran = spt("make-sparse", data, "-r", "0.2", "--images", "copy", "--splits", "train")
    one_screen(ran, 3, "[red]x[/red].png", "missing")


def test_without_torch_in_a_fresh_interpreter(data: Path) -> None:
    code = (
        "import sys; from sptcli.app import main; "
        "code = main(['make-sparse', sys.argv[1], '-r', '0.2', '--out', 'out', '--quiet']); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", code, str(data)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_as_a_program(data: Path, tmp_path: Path) -> None:
    ran = spt_process("make-sparse", data, "-r", "0.2", "--out", tmp_path / "out", "--jobs", 2, cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert (tmp_path / "out" / "manifest.json").is_file()
