"""Every nano model in every task through every command: it works, or it is refused in words.

Detection has the tests of its own families (test_baselines, test_vit, test_dynamicswin_and_dat); here only training.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sptcore.models.variants import VARIANTS, backbone_config
from tests.support.cli import Ran, spt
from tests.support.tiny import make_tiny
from tests.support.training import mini_data

NANO = sorted(name for name in VARIANTS if name.endswith("-nano"))
QUICK = ("--res", "64x64", "--batch", "2", "--max-steps", "2", "--device", "cpu", "--set", "eval_every=0")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """The data of each task, and one image of it."""
    objects, classes = mini_data(tmp_path_factory.mktemp("objects")), make_tiny(tmp_path_factory.mktemp("classes"))
    found = {}
    for task, data in (("detect", objects), ("multilabel", objects), ("classify", classes)):
        found[task] = data, min(one for one in data.rglob("*") if one.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return found


def trained(model: str, task: str, data: Path, folder: Path) -> Path:
    recipe = ("--preset", "sample") if task == "detect" else ()  # the paper's heads are not quick
    ran = spt("train", "--data", data, "--task", task, "--model", model, *recipe, *QUICK, "--run-dir", folder)
    assert ran.code == 0, ran.err
    return folder


def is_refused(ran: Ran, *words: str) -> None:
    assert ran.code == 2, ran.err
    error = ran.document["error"]
    assert any(word in error["message"] for word in words), error


@pytest.mark.parametrize("model", NANO)
def test_it_learns_to_detect(model: str, sets: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    trained(model, "detect", sets["detect"][0], tmp_path / "run")


@pytest.mark.parametrize("task", ["multilabel", "classify"])
@pytest.mark.parametrize("model", NANO)
def test_it_classifies(model: str, task: str, sets: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    data, image = sets[task]
    run = trained(model, task, data, tmp_path / "run")
    selects = backbone_config(model).num_spa_blocks > 0
    by_labels = backbone_config(model).selector == "ground_truth" and selects
    evaluated = spt("evaluate", run, "--json")
    assert evaluated.code == 0, evaluated.err
    assert bool(evaluated.document["blocks"]) == selects
    predicted = spt("predict", image, "--weights", run, "--out", tmp_path, "--json")
    shown = spt("viz-selection", image, "--weights", run, "--out", tmp_path, "--json")
    beside = spt("viz-selection", data, "--gt", "--limit", "1", "--weights", run, "--out", tmp_path / "gt", "--json")
    if by_labels:
        is_refused(predicted, "selects by labels")
        is_refused(shown, "selects by labels")
    else:
        assert predicted.code == 0, predicted.err
    if not selects:
        is_refused(shown, "no block that selects")
        is_refused(beside, "no block that selects")
    else:
        assert beside.code == 0, beside.err
    profiled = spt("profile", "--weights", run, "--no-latency", "--res", "64x64", "--json")
    assert profiled.code == 0, profiled.err
    assert profiled.document["miscounted"] == []
