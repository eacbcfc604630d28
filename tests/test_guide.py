"""The road of the user's guide, typed as it stands on a set in the layout it names, its long commands cut short."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from sptcore.data.sample import sample_root
from tests.support.cli import spt
from tests.test_docs import spt_lines

GUIDE = Path(__file__).parents[1] / "docs" / "guide.md"
ELSEWHERE = ("spt-t", "spt-s")  # models whose training takes a GPU, and starting weights from the network
SHORT = {"SPT_TRAIN_MAX_STEPS": "2", "SPT_PROFILE_ITERS": "1", "SPT_PROFILE_WARMUP": "0", "SPT_PROFILE_RES": "128x128"}


def road() -> list[list[str]]:
    """The command lines of the guide that a small machine without a network can run."""
    lines = [shlex.split(line, comments=True) for line in spt_lines(GUIDE.read_text(encoding="utf-8"))]
    return [words for words in lines if not set(words) & set(ELSEWHERE)]


def own_set(root: Path) -> None:
    """The built-in sample in the layout the guide begins with."""
    for split in ("train", "val"):
        shutil.copytree(sample_root() / "coco" / f"{split}2017", root / split)
        source = sample_root() / "coco" / "annotations" / f"instances_{split}2017.json"
        target = root / "annotations" / f"instances_{split}.json"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(source, target)


def test_the_guide_walks_from_data_to_results() -> None:
    named = [words[1] for words in road()]
    assert [name for index, name in enumerate(named) if name not in named[:index]] == [
        "stats", "make-sparse", "make-labels", "train", "evaluate", "report", "profile", "viz-selection", "predict",
        "export",
    ]  # fmt: skip
    assert len(GUIDE.read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.slow
def test_the_guide_runs_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All in this process: an interpreter for each command would take longer than the commands."""
    monkeypatch.chdir(tmp_path)
    own_set(tmp_path / "mydata")
    environment = SHORT | {"SPT_RUNS": str(tmp_path / "runs"), "SPT_CACHE": str(tmp_path / "cache")}
    for words in road():
        ran = spt(*words[1:], env=environment)
        assert ran.code == 0, f"{shlex.join(words)}\n{ran.err}"
    for made in ("data/mydata-s10/labels-train.h5", "mydata.html", "scored/predictions.json", "detector.safetensors"):
        assert (tmp_path / made).stat().st_size > 0, made
    assert list((tmp_path / "heat").iterdir())
