"""Classification through every command: train, evaluate, results files, reports, pictures, profile, and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sptcore.data.locate import locate
from sptcore.data.sparse import SparsePlan, SparseRule, make_sparse
from sptcore.runs import Run
from tests.support.cli import spt
from tests.support.tiny import make_tiny
from tests.support.training import mini_data

QUICK = ("--model", "spt-nano", "--res", "64x64", "--batch", "2", "--epochs", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("data") / "tiny-imagenet-200")


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def padded(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("padded") / "in-s"
    make_sparse(locate(tiny), SparseRule(None), out, SparsePlan(pad=(2, 2)))
    return out


def trained(data: Path, folder: Path, *arguments: object) -> Run:
    ran = spt("train", "--data", data, *QUICK, *arguments, "--run-dir", folder)
    assert ran.code == 0, ran.err
    return Run(folder)


@pytest.fixture(scope="module")
def classified(padded: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(padded, tmp_path_factory.mktemp("runs") / "classified")


@pytest.fixture(scope="module")
def labelled(boxes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(boxes, tmp_path_factory.mktemp("runs") / "labelled", "--task", "multilabel")


def evaluated(*arguments: object) -> dict[str, Any]:
    ran = spt("evaluate", *arguments, "--device", "cpu", "--json")
    assert ran.code == 0, ran.err
    return ran.document


def test_the_data_decides_the_task_and_its_recipe(classified: Run, labelled: Run) -> None:
    settings = classified.config["train"]
    assert (settings["task"], settings["preset"], settings["warmup_epochs"]) == ("classify", "classify-light", 5.0)
    settings = labelled.config["train"]
    assert (settings["task"], settings["preset"]) == ("multilabel", "multilabel-voc")


def test_steps_of_warm_up_that_a_person_names_replace_the_recipes_epochs(padded: Path, tmp_path: Path) -> None:
    settings = trained(padded, tmp_path / "run", "--warmup", 3, "--max-steps", 1).config["train"]
    assert (settings["warmup"], settings["warmup_epochs"]) == (3, 0.0)


def test_evaluation_tells_figures_selection_and_macs(classified: Run, labelled: Run) -> None:
    document = evaluated(classified.home, "--per-class", "--by-ratio", ".5")
    figures = document["figures"]
    assert 0 <= figures["class.top1"] <= figures["class.top5"] <= 1
    assert figures["label_ratio.stage3"] == figures["label_ratio.stage4"] == 0.25
    assert [one["block"] for one in document["blocks"]] == [
        "stage3.block0", "stage3.block1", "stage4.block0", "stage4.block1",
    ]  # fmt: skip
    assert {one["select_ratio"] is not None for one in document["blocks"]} == {True}
    assert document["macs"]["actual"] <= document["macs"]["dense"]
    assert sum(one["images"] for one in document["bins"]) == 2
    document = evaluated(labelled.home, "--per-class")
    assert 0 <= document["figures"]["label.mAP"] <= 1
    assert set(document["scores"]["label"]["per_class"]) == {"0", "3"}
    shown = spt("evaluate", labelled.home, "--per-class", "--device", "cpu")
    assert "label AP" in shown.out


def test_selection_by_labels_and_by_a_fixed_share(classified: Run) -> None:
    document = evaluated(classified.home, "--gt-selection")
    assert document["selector"] == "ground_truth"
    assert document["figures"]["select_ratio.stage3"] == document["figures"]["recall.stage3"] / 4 == 0.25
    document = evaluated(classified.home, "--select-ratio", ".5")
    assert document["figures"]["select_ratio.stage4"] == 0.5


@pytest.mark.parametrize("which", ["classified", "labelled"])
def test_a_results_file_scores_as_the_model_that_wrote_it(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(which)
    path = tmp_path / "found.json"
    document = evaluated(run.home, "--save-predictions", path)
    entries = json.loads(path.read_text())
    assert entries
    assert all(entry.keys() == {"image_id", "category_id", "score"} for entry in entries)
    data = run.config["train"]["data"]
    task = [] if which == "classified" else ["--task", "multilabel"]
    again = evaluated("--predictions", path, "--data", data, *task)
    assert again["scores"] == document["scores"]
    ran = spt("evaluate", "--predictions", path, "--data", data, "--task", "detect")
    assert ran.code == 3
    assert "neither bbox nor segmentation" in ran.err
    path.write_text(json.dumps([*entries, entries[0]]))
    ran = spt("evaluate", "--predictions", path, "--data", data, *task)
    assert ran.code == 3
    assert "second score" in ran.err


def test_boxes_are_no_classes(labelled: Run, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text(json.dumps([{"image_id": 7, "category_id": 0, "score": 0.5, "bbox": [1, 2, 3, 4]}]))
    ran = spt("evaluate", "--predictions", path, "--data", labelled.config["train"]["data"], "--task", "multilabel")
    assert ran.code == 3
    assert "a box or mask" in ran.err


def test_demands(classified: Run, labelled: Run) -> None:
    assert spt("evaluate", classified.home, "--device", "cpu", "--fail-under", "top1=0,top5=0").code == 0
    assert spt("evaluate", classified.home, "--device", "cpu", "--fail-under", "top1=1.1").code == 5
    assert spt("evaluate", labelled.home, "--device", "cpu", "--fail-under", "mAP=0").code == 0
    ran = spt("evaluate", labelled.home, "--device", "cpu", "--fail-under", "label.mAP=1.1")
    assert ran.code == 5
    assert "label.mAP" in ran.err


def test_scorers_of_boxes_are_not_for_classes(classified: Run, boxes: Path) -> None:
    ran = spt("evaluate", classified.home, "--check-backends")
    assert ran.code == 2
    assert "--check-backends" in ran.err
    ran = spt("evaluate", classified.home, "--task", "detect")
    assert ran.code == 2
    ran = spt("evaluate", classified.home, "--data", boxes)
    assert ran.code == 3
    assert "classes" in ran.err


def test_data_that_cannot_teach_the_task(boxes: Path, tmp_path: Path) -> None:
    ran = spt("train", "--data", boxes, "--task", "classify", "--run-dir", tmp_path / "run")
    assert ran.code == 2
    assert "no class of their own" in ran.err
    assert "--task detect or --task multilabel" in ran.err
    assert not (tmp_path / "run").exists()
    ran = spt("train", "--data", boxes, "--task", "multilabel", "--set", "mixup=0.8")
    assert ran.code == 2
    assert "mixup" in ran.err
    ran = spt("train", "--data", boxes, "--task", "clasify")
    assert ran.code == 2
    assert "classify" in ran.err


def test_classes_can_be_detected_too(tiny: Path, tmp_path: Path) -> None:
    run = trained(tiny, tmp_path / "run", "--task", "detect", "--max-steps", "1")
    assert run.config["train"]["preset"] == "detect-paper"


def test_a_dry_run_tells_what_it_would_take(padded: Path) -> None:
    ran = spt("train", "--data", padded, *QUICK, "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert (ran.document["trial"]["images"], ran.document["trial"]["classes"]) == (4, 2)


def test_a_report_and_a_comparison(classified: Run, labelled: Run, tmp_path: Path) -> None:
    ran = spt("report", classified.home, "--out", tmp_path / "report.html")
    assert ran.code == 0, ran.err
    page = (tmp_path / "report.html").read_text()
    assert "top-1 accuracy" in page
    assert "Not shown" not in page  # heat maps of the padded images are there
    ran = spt("compare", classified.home, labelled.home, "--json", "--html", tmp_path / "compare.html")
    assert ran.code == 0, ran.err
    first, second = (one["figures"] for one in ran.document["runs"])
    assert first["top-1 accuracy"] is not None
    assert second["label mAP"] is not None
    assert first["label mAP"] is None


@pytest.mark.parametrize("which", ["classified", "labelled"])
def test_pictures_and_a_profile(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(which)
    data = run.config["train"]["data"]
    ran = spt("viz-selection", data, "--weights", run.weights, "--gt", "--out", tmp_path, "--json")
    assert ran.code == 0, ran.err
    if which == "classified":
        ratios = [row["label_ratio"] for image in ran.document["images"] for row in image["blocks"]]
        assert set(ratios) == {0.25}
    ran = spt(
        "profile", "--res", "64x64", "--weights", run.weights, "--data", data, "--no-latency", "--scope", "backbone",
        "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err


def test_detectors_of_a_profile_beside_a_classifier_differ_in_the_backbone_alone(classified: Run) -> None:
    ran = spt("profile", "--res", "64x64", "--weights", classified.home, "--ratio", "1", "--no-latency", "--json")
    assert ran.code == 0, ran.err
    macs = {
        (row["model"], row["scope"]): row["macs_actual"]
        for row in ran.document["rows"]
        if row["selection"] != "measured"
    }
    around = {model: macs[model, "detector"] - macs[model, "backbone"] for model, _ in macs}
    assert len(around) == 2
    assert len(set(around.values())) == 1


def test_weights_of_the_sample_find_its_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ("--res", "32x32", "--epochs", "1", "--max-steps", "1", "--device", "cpu")
    ran = spt("train", "--task", "classify", *small, "--run-dir", tmp_path / "run")
    assert ran.code == 0, ran.err
    lone = shutil.copy(Run(tmp_path / "run").weights, tmp_path / "lone.safetensors")
    assert evaluated(lone)["images"] == 50
    assert evaluated(lone, "--data", "sample")["images"] == 50


def test_predictions_of_padded_images_are_those_of_the_evaluation(classified: Run, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    evaluated(classified.home, "--save-predictions", path)
    data = classified.config["train"]["data"]
    ran = spt(
        "predict", data, "--weights", classified.weights, "--save", "json", "--conf", "0", "--out", tmp_path,
        "--device", "cpu",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    found = json.loads((tmp_path / "predictions.json").read_text())
    expected = json.loads(path.read_text())
    assert [(one["image_id"], one["category_id"]) for one in found] == [
        (one["image_id"], one["category_id"]) for one in expected
    ]
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected], abs=1e-6)
