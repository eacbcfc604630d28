"""The fixed-ratio and ground-truth baselines from the command line: trained, evaluated, drawn, profiled, compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from sptcore.runs import Run
from tests.support.cli import spt
from tests.support.training import mini_data, tiny_run

FAMILIES = ("topk-windows", "topk-tokens", "swin-gt", "spt-gt")
QUICK = ("--res", "128x128", "--batch", "2", "--max-steps", "2", "--device", "cpu", "--set", "eval_every=0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module", params=FAMILIES)
def run(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two steps of the nano model of each family."""
    folder, model = tmp_path_factory.mktemp("runs") / "run", f"{request.param}-nano"
    ran = spt("train", "--data", data, "--preset", "sample", "--model", model, *QUICK, "--run-dir", folder)
    assert ran.code == 0, ran.err
    assert ("upper bound" in ran.err) == request.param.endswith("-gt")
    return Run(folder)


def family(run: Run) -> str:
    return str(run.config["train"]["model"]).removesuffix("-nano")


def test_it_is_evaluated_as_it_selects(run: Run) -> None:
    ran = spt("evaluate", run.home, "--json")
    assert ran.code == 0, ran.err
    document = ran.document
    blocks = document["blocks"]
    assert [one["block"] for one in blocks] == ["stage3.block0", "stage3.block1", "stage4.block0", "stage4.block1"]
    if family(run).endswith("-gt"):
        assert document["selector"] == "ground_truth"
        assert all(one["select_ratio"] == one["label_ratio"] for one in blocks)
    else:
        assert all(0 <= one["select_ratio"] <= 0.6 for one in blocks)
        assert blocks[0]["select_ratio"] >= 0.4
    assert document["packing"] == ("aligned" if family(run) in ("topk-tokens", "spt-gt") else None)
    assert 0 < document["macs"]["actual"] <= document["macs"]["dense"]
    assert ("upper bound" in spt("evaluate", run.home).out) == family(run).endswith("-gt")


def test_what_it_selects_is_drawn(run: Run, data: Path, tmp_path: Path) -> None:
    ran = spt("viz-selection", data, "--weights", run.home, "--limit", "1", "--out", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    (image,) = ran.document["images"]
    assert Path(image["file"]).is_file()
    for block in image["blocks"]:
        if family(run).endswith("-gt"):
            assert block["ratio"] == block["label_ratio"]


def test_it_is_profiled_at_its_own_ratio_and_counted_exactly(run: Run) -> None:
    name = family(run)
    ran = spt("profile", "--model", f"{name}-nano", "--res", "256x192", "--no-latency", "--json")
    assert ran.code == 0, ran.err
    rows = ran.document["rows"]
    assert ran.document["miscounted"] == []
    wanted = ["0.1", "0.22", "0.3", "0.5", "1"] if name.endswith("-gt") else ["0.5"]
    assert [row["selection"] for row in rows if row["scope"] == "backbone"] == wanted
    assert all(("upper bound" in row["note"]) == name.endswith("-gt") for row in rows)


def test_trained_weights_are_profiled_beside_swin(run: Run) -> None:
    ran = spt("profile", "--weights", run.home, "--ratio", "0.3", "--res", "128x128", "--no-latency", "--json")
    assert ran.code == 0, ran.err
    found = {(row["model"], row["selection"]) for row in ran.document["rows"]}
    real = "labels" if family(run).endswith("-gt") else "measured"
    assert found == {("swin-nano", "dense"), (run.name, real), (run.name, "0.3")}
    assert ran.document["miscounted"] == []


@pytest.fixture(scope="module")
def plain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of SPT to compare with."""
    return tiny_run(tmp_path_factory.mktemp("runs") / "plain", data, max_steps=1).run.home


def test_an_upper_bound_is_told_wherever_its_figures_are_shown(run: Run, plain: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert spt("report", run.home, "--out", page, "--images", "1").code == 0
    compared = spt("compare", run.home, plain)
    assert compared.code == 0, compared.err
    profiled = spt("profile", "--model", f"{family(run)}-nano", "--res", "64x64", "--no-latency", "--ratio", "0.5")
    for text in (page.read_text(), compared.out, profiled.out):
        assert ("upper bound" in text) == family(run).endswith("-gt")


def test_labels_of_images_give_ratios_only_to_what_can_follow_them(data: Path) -> None:
    models = ",".join(f"{name}-nano" for name in FAMILIES)
    ran = spt(
        "profile", "--model", models, "--data", data, "--res", "128x128", "--no-latency", "--ratio", "0.5", "--json"
    )
    assert ran.code == 0, ran.err
    by_labels = {row["model"] for row in ran.document["rows"] if row["selection"] == "labels"}
    assert by_labels == {"swin-gt-nano", "spt-gt-nano"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["score_propagation=false"], {"score_propagation": False}),
        (["selector=random", "select_ratio=0.25"], {"selector": "random", "select_ratio": 0.25}),
        (["selector=topk", "topk_score=l2"], {"selector": "topk", "topk_score": "l2"}),
        (["attention=window_gather", "noise=logistic"], {"attention": "window_gather", "noise": "logistic"}),
        (["scope=image_region", "select_loss_weight=0"], {"scope": "image_region"}),
        (["num_spa_blocks=5"], {"num_spa_blocks": 5}),
        (["num_spa_blocks=8"], {"num_spa_blocks": 8}),
    ],
)
def test_every_ablation_is_a_setting(data: Path, tmp_path: Path, settings: list[str], expected: dict) -> None:
    """Table 6, Table 7 and Fig. 5; with 5 and 8 blocks selection begins in stages 2 and 1, whose labels are built."""
    sets = [part for one in settings for part in ("--set", one)]
    ran = spt("train", "--data", data, "--preset", "sample", *QUICK, "--run-dir", tmp_path / "run", *sets)
    assert ran.code == 0, ran.err
    run = Run(tmp_path / "run")
    backbone = run.info.model["backbone"]
    assert {name: backbone[name] for name in expected} == expected
    evaluated = spt("evaluate", run.home, "--json")
    assert evaluated.code == 0, evaluated.err
    blocks = evaluated.document["blocks"]
    assert len(blocks) == expected.get("num_spa_blocks", 4)
    if len(blocks) > 4:
        assert blocks[0]["stride"] == {5: 8, 8: 4}[len(blocks)]
        assert blocks[0]["label_ratio"] > 0
    supervised = "selector" not in expected and "select_loss_weight=0" not in settings
    assert (run.metrics()[0].get("loss_select", 0.0) > 0) == supervised


def test_a_setting_that_does_not_exist_is_refused(data: Path, tmp_path: Path) -> None:
    for setting, words in {
        "selector=topc": "topk",
        "attention=windows": "window",
        "score_propagation=7": "Eq. 4",
    }.items():
        ran = spt("train", "--data", data, *QUICK, "--run-dir", tmp_path / "run", "--set", setting)
        assert ran.code == 2
        assert words in ran.err


def test_a_stated_share_is_restated_in_evaluation(data: Path, tmp_path: Path) -> None:
    home = tiny_run(tmp_path / "run", data, model="topk-windows-nano", max_steps=1, res="128x128").run.home
    document = spt("evaluate", home, "--select-ratio", "0.25", "--json").document
    assert document["selector"] == "topk_windows"
    assert all(block["select_ratio"] <= 0.3 for block in document["blocks"])


def test_a_flag_that_would_do_nothing_is_refused(data: Path, tmp_path: Path) -> None:
    home = tiny_run(tmp_path / "run", data, model="topk-windows-nano", max_steps=1, res="128x128").run.home
    train = ("train", "--data", data, "--preset", "sample", *QUICK, "--run-dir", tmp_path / "new")
    for words, command in {
        "packing does nothing in this model: with attention = 'window_gather'": (
            ("evaluate", home, "--packing", "stream"),
            (*train, "--model", "topk-windows-nano", "--packing", "stream"),
        ),
        "select_threshold does nothing": ((*train, "--model", "swin-nano", "--select-threshold", "0.2"),),
        "rpb does nothing": ((*train, "--model", "swin-gt-nano", "--rpb", "slot"),),
        "ffn does nothing": ((*train, "--model", "dynamicswin-nano", "--ffn", "selected"),),
    }.items():
        for one in command:
            ran = spt(*one)
            assert ran.code == 2, one
            assert words in ran.err
    assert not (tmp_path / "new").exists()
