"""`spt evaluate`: figures, selection, bins, results files, demands."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from sptcore.data.locate import open_index
from sptcore.labels.build import build_labels
from sptcore.models.variants import backbone_config
from sptcore.profiling.macs import backbone_macs
from sptcore.runs import Run
from sptcore.runs.demo import DEMO_WEIGHTS
from tests.support.cli import spt, spt_process
from tests.support.miniatures import coco_document, mini_coco
from tests.support.training import mini_data, tiny_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_run(tmp_path_factory.mktemp("runs") / "run", data, max_steps=2).run


@pytest.fixture(scope="module")
def swin(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_run(tmp_path_factory.mktemp("runs") / "swin", data, max_steps=1, model="swin-nano").run


def test_a_run_is_evaluated_on_its_own_data(run: Run, data: Path) -> None:
    ran = spt("evaluate", run.home, "--json")
    assert ran.code == 0, ran.err
    document = ran.document
    assert (document["data"], document["split"], document["images"]) == (str(data), "val", 3)
    assert set(document["scores"]) == {"bbox", "segm"}
    assert len(document["scores"]["bbox"]["figures"]) == 12
    assert [block["block"] for block in document["blocks"]] == [
        "stage3.block0", "stage3.block1", "stage4.block0", "stage4.block1",
    ]  # fmt: skip
    assert document["macs"]["actual"] <= document["macs"]["dense"]
    assert (document["selector"], document["packing"]) == ("gate", "aligned")
    assert json.loads((run.home / "evaluation.json").read_text())["figures"] == document["figures"]
    last = [row for row in run.metrics() if "val.bbox.AP" in row][-1]
    assert document["figures"]["bbox.AP"] == pytest.approx(last["val.bbox.AP"], abs=1e-12)


@pytest.mark.slow
def test_two_processes_say_what_one_says(run: Run) -> None:
    alone = spt("evaluate", run.home, "--json").document
    ran = spt_process("evaluate", run.home, "--devices", "2", "--json", env={"OMP_NUM_THREADS": "1"})
    assert ran.code == 0, ran.err
    shared = ran.document
    assert shared == alone


def test_a_run_remembers_where_its_data_lies(tmp_path: Path) -> None:
    """A set found by name under --root: the command that training tells comes without the root."""
    mini_data(tmp_path / "sets" / "coco")
    home = tiny_run(tmp_path / "run", Path("coco"), max_steps=1, root=str(tmp_path / "sets")).run.home
    ran = spt("evaluate", home, "--json")
    assert ran.code == 0, ran.err
    assert (ran.document["data"], ran.document["images"]) == ("coco", 3)
    assert ran.document["found_by"] == {"root": str(tmp_path / "sets")}
    following = shlex.split(ran.document["next"])
    assert following[:3] == ["spt", "viz-selection", "coco"]
    assert spt(*following[1:], "--limit", "1", "--out", tmp_path).code == 0


def test_a_run_is_judged_by_the_labels_it_was_validated_by(data: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.h5"
    build_labels(open_index(data, "val"), mine, source="boxes")
    run = tiny_run(tmp_path / "run", data, max_steps=1, val_labels=str(mine)).run
    labelled = "label_ratio.stage3"
    (validated,) = [row[f"val.{labelled}"] for row in run.metrics() if f"val.{labelled}" in row]
    ran = spt("evaluate", run.home, "--json")
    assert ran.code == 0, ran.err
    assert ran.document["figures"][labelled] == pytest.approx(validated, abs=1e-12)
    other = spt("evaluate", run.home, "--labels", "masks", "--json")
    assert other.document["figures"][labelled] < validated - 0.01


def test_tables_for_people(run: Run) -> None:
    ran = spt("evaluate", run.home, "--per-class", "--by-ratio", ".05,.2", "--check-backends")
    assert ran.code == 0, ran.err
    for word in ("AP50", "stage3.block0", "recall", "café", "0.05 to 0.2", "backbone MACs", "gate, aligned"):
        assert word in ran.out


def test_bins_share_out_the_images(run: Run) -> None:
    bins = spt("evaluate", run.home, "--by-ratio", ".05,.2", "--json").document["bins"]
    assert sum(one["images"] for one in bins) == 3
    assert (bins[0]["low"], bins[0]["high"]) == (0.0, 0.05)


def test_ground_truth_selection_selects_the_labels(run: Run) -> None:
    document = spt("evaluate", run.home, "--gt-selection", "--json").document
    for block in document["blocks"]:
        assert block["select_ratio"] == block["label_ratio"]
        assert block["recall"] in (1.0, None)
    assert "upper bound" in spt("evaluate", run.home, "--gt-selection").out


def test_an_upper_bound_never_stands_where_the_result_of_the_run_does(run: Run) -> None:
    """Neither in evaluation.json, nor in what report and compare show, which read the run's own validation."""
    own = spt("evaluate", run.home, "--json").document
    before = spt("compare", run.home, run.home, "--json").document
    changes = {
        ("--gt-selection",): ("evaluation-gt-selection.json", "ground_truth"),
        ("--select-ratio", "0.25"): ("evaluation-select-ratio-0.25.json", "topk"),
        ("--packing", "stream"): ("evaluation-stream.json", "gate"),
        ("--gt-selection", "--packing", "stream"): ("evaluation-gt-selection-stream.json", "ground_truth"),
    }
    for flags, (name, selector) in changes.items():
        ran = spt("evaluate", run.home, *flags, "--json")
        assert Path(ran.document["artefacts"]["evaluation"]).name == name, ran.err
        assert json.loads((run.home / name).read_text())["selector"] == selector
        assert json.loads((run.home / "evaluation.json").read_text())["figures"] == own["figures"]
    assert spt("compare", run.home, run.home, "--json").document == before
    assert (
        spt("evaluate", run.home, "--packing", "aligned", "--json")
        .document["artefacts"]["evaluation"]
        .endswith("/evaluation.json")
    )


def test_a_fixed_share_of_the_tokens(run: Run) -> None:
    document = spt("evaluate", run.home, "--select-ratio", "0.25", "--res", "128x128", "--json").document
    assert document["selector"] == "topk"
    assert all(0.25 <= block["select_ratio"] <= 0.34 for block in document["blocks"][:2])


def test_stream_packing_warns_that_images_depend_on_each_other(run: Run) -> None:
    ran = spt("evaluate", run.home, "--packing", "stream", "--json")
    assert ran.document["packing"] == "stream"
    assert "depends on the images beside it" in ran.err
    assert "depends" not in spt("evaluate", run.home, "--packing", "stream", "--batch", 1).err


def test_results_written_and_read_score_the_same(run: Run, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    scores = spt("evaluate", run.weights, "--data", data, "--save-predictions", path, "--json").document["scores"]
    ran = spt("evaluate", "--predictions", path, "--data", data, "--check-backends", "--json")
    assert ran.code == 0, ran.err
    assert ran.document["scores"]["bbox"] == scores["bbox"]
    assert ran.document["scores"]["segm"] == scores["segm"]
    assert "viz-selection" not in ran.err, "a results file and a dense model have no selection to show"
    for flag in (("--gt-selection",), ("--select-ratio", ".5"), ("--packing", "stream")):
        assert spt("evaluate", "--predictions", path, "--data", data, *flag).code == 2


def test_figures_are_those_of_pycocotools_on_the_saved_predictions(tmp_path: Path) -> None:
    """By hand: the set's own annotation file, the saved file, and pycocotools as its demo uses it.

    Masks without their boxes: beside a box, loadRes takes the box's area for the mask's, as detectron2 and mmdetection
    avoid too.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    path = tmp_path / "found.json"
    ran = spt("evaluate", DEMO_WEIGHTS, "--data", "sample", "--save-predictions", path, "--json")
    assert ran.code == 0, ran.err
    truth = COCO(str(open_index("sample", "val").annotation_path))
    saved = json.loads(path.read_text())
    for kind in ("bbox", "segm"):
        plain = [{name: value for name, value in one.items() if kind == "bbox" or name != "bbox"} for one in saved]
        evaluation = COCOeval(truth, truth.loadRes(plain), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        figures = list(ran.document["scores"][kind]["figures"].values())
        assert figures == pytest.approx(evaluation.stats.tolist(), abs=1e-9)
        assert figures[0] > 0.3


def test_labels_that_are_not_there_are_data_that_is_missing(run: Run, tmp_path: Path) -> None:
    ran = spt("evaluate", run.home, "--labels", tmp_path / "none.h5")
    assert ran.code == 3, ran.err
    assert "no label store" in ran.err
    assert "none.h5" in ran.err


def test_demands(run: Run) -> None:
    assert spt("evaluate", run.home, "--fail-under", "AP=-1,segm.AP50=-1,recall.stage3=0").code == 0
    ran = spt("evaluate", run.home, "--fail-under", "AP=.99", "--json")
    assert ran.code == 5
    assert ran.document["ok"] is False
    assert "bbox.AP" in ran.document["error"]["message"]
    assert "figures" in ran.document
    for wrong in ("AP", "AP=high", "APX=.2"):
        assert spt("evaluate", run.home, "--fail-under", wrong).code == 2


def test_a_swin_has_nothing_to_select(swin: Run) -> None:
    document = spt("evaluate", swin.home, "--res", "32x32", "--json").document
    assert (document["blocks"], document["selector"]) == ([], None)
    macs = sum(stage.macs for stage in backbone_macs(backbone_config("swin-nano"), 32, 32))
    assert document["macs"]["actual"] == document["macs"]["dense"] == macs
    assert "below selecting all" not in spt("evaluate", swin.home).out
    for flag in (("--gt-selection",), ("--select-ratio", ".5"), ("--packing", "stream")):
        ran = spt("evaluate", swin.home, *flag)
        assert ran.code == 2, ran.err


def test_data_without_an_object_says_what_evaluation_needs_and_where_it_looked(run: Run, tmp_path: Path) -> None:
    root = mini_data(tmp_path / "bare")
    path = root / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    (tmp_path / "found.json").write_text("[]")
    for subject in ((run.home,), ("--predictions", tmp_path / "found.json")):
        ran = spt("evaluate", *subject, "--data", root)
        assert ran.code == 3, ran.err
        for words in ("no image with an object to evaluate on", f"{path} (split val, 3 images)", "evaluation needs"):
            assert words in ran.err
        assert "learn" not in ran.err


def test_other_classes_are_refused(run: Run, tmp_path: Path) -> None:
    document = coco_document()
    for category in document["categories"]:
        category["name"] += " of another kind"
    ran = spt("evaluate", run.home, "--data", mini_coco(tmp_path / "set", document))
    assert ran.code == 3
    assert "of another kind" in ran.err


def renamed(tmp_path: Path, categories: list[dict[str, object]], number: dict[int, int]) -> Path:
    """The miniature set with other `categories`, its objects renumbered."""
    document = coco_document() | {"categories": categories}
    for annotation in document["annotations"]:
        annotation["category_id"] = number[annotation["category_id"]]
    return mini_coco(tmp_path, document)


def test_classes_are_matched_by_name_where_their_ids_differ(run: Run, tmp_path: Path) -> None:
    """The same objects under other ids, 0 the name of another class: the same figures, results under the data's ids."""
    own, number = tmp_path / "own.json", {0: 3, 3: 70}
    before = spt("evaluate", run.home, "--save-predictions", own, "--json").document
    names = [{"id": 0, "name": "dog"}, {"id": 3, "name": "cup"}, {"id": 70, "name": "café ☕"}]
    data, saved = renamed(tmp_path / "set", names, number), tmp_path / "saved.json"
    ran = spt("evaluate", run.home, "--data", data, "--save-predictions", saved, "--json")
    assert ran.code == 0, ran.err
    assert "2 of the data's 3 classes matched by name (2 under another id)" in ran.err
    assert "the model does not know dog, which count as missed" in ran.err
    expected = [one | {"category_id": number[one["category_id"]]} for one in json.loads(own.read_text())]
    assert len(expected) > 1
    assert json.loads(saved.read_text()) == expected
    assert ran.document["figures"] == before["figures"]
    per_class = before["scores"]["bbox"]["per_class"]
    assert ran.document["scores"]["bbox"]["per_class"] == {"0": -1.0, "3": per_class["0"], "70": per_class["3"]}
    assert spt("evaluate", "--predictions", saved, "--data", data).code == 0


def test_voc_weights_on_coco_answer_for_the_classes_of_equal_name(tmp_path: Path) -> None:
    """VOC's aeroplane is not taken for COCO's airplane, nor class 1 of one for class 1 of the other."""
    voc = [{"id": 1, "name": "aeroplane"}, {"id": 8, "name": "cat"}, {"id": 15, "name": "person"}]
    coco = [{"id": 1, "name": "person"}, {"id": 5, "name": "airplane"}, {"id": 17, "name": "cat"}]
    run = tiny_run(tmp_path / "run", renamed(tmp_path / "voc", voc, {0: 1, 3: 15}), max_steps=2).run
    data, saved = renamed(tmp_path / "coco", coco, {0: 5, 3: 1}), tmp_path / "saved.json"
    ran = spt("evaluate", run.home, "--data", data, "--save-predictions", saved, "--json")
    assert ran.code == 0, ran.err
    for words in ("2 of the data's 3 classes matched by name (2 under another id)", "does not know airplane, which",
                  "does not know aeroplane, which are left out", "'airplane' is not 'aeroplane'"):  # fmt: skip
        assert words in " ".join(ran.err.split())
    found = {one["category_id"] for one in json.loads(saved.read_text())}
    assert found
    assert found <= {1, 17}
    assert ran.document["class_names"] == {"1": "person", "5": "airplane", "17": "cat"}
    assert ran.document["scores"]["bbox"]["per_class"]["5"] == 0.0


def test_errors_are_explained(run: Run, data: Path, tmp_path: Path) -> None:
    assert spt("evaluate", tmp_path / "nothing").code == 3
    assert spt("evaluate", "--predictions", tmp_path / "none.json").code == 2
    assert spt("evaluate", "--predictions", tmp_path / "none.json", "--data", data).code == 3
    assert spt("evaluate", run.home, "--gt-selection", "--select-ratio", ".5").code == 2
    damaged = tmp_path / "w.safetensors"
    content = bytearray(run.weights.read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(content)
    ran = spt("evaluate", damaged)
    assert ran.code == 5
    assert "damaged" in ran.err
