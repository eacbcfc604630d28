from __future__ import annotations

from pathlib import Path

import pytest

from sptcore.profiling.macs import backbone_macs, total
from sptcore.reporting.facts import best_validation, read_facts, told
from sptcore.runs import Run
from tests.support.run_folders import finished_run
from tests.support.weights import nano_weights


def test_a_run_folder_tells_its_best_validation_and_cost(tmp_path: Path) -> None:
    facts = read_facts(finished_run(tmp_path / "run", aps=(0.1, 0.3, 0.2), ratio=0.4))
    assert (facts.step, facts.figures["bbox.AP"], facts.figures["select_ratio.stage3"]) == (20, 0.3, 0.4)
    assert "bbox.APl" not in facts.figures
    assert facts.seconds == 18.0
    assert len(facts.validations()) == 3
    expected = total(backbone_macs(facts.spec.backbone, 128, 128, 0.4))
    assert (facts.cost.actual, facts.cost.eq9) == expected
    assert facts.cost.dense == total(backbone_macs(facts.spec.backbone, 128, 128, 1.0))[0] > facts.cost.actual
    assert facts.settings["model"] == "spt-nano"
    assert facts.environment["packages"]["torch"]


def test_of_equals_the_later_validation_is_the_best() -> None:
    """As in training, which keeps the weights of a validation that is not worse."""
    rows = [{"step": 1, "val.bbox.AP": 0.2}, {"step": 2, "loss": 1.0}, {"step": 3, "val.bbox.AP": 0.2}]
    assert best_validation(rows, "bbox.AP")["step"] == 3
    assert best_validation(rows[1:2], "bbox.AP") == {}


def test_a_lone_weights_file_counts_every_token(tmp_path: Path) -> None:
    facts = read_facts(Run(None, nano_weights(tmp_path / "nano.safetensors")))
    assert facts.figures == {}
    assert facts.cost.actual == facts.cost.dense
    assert facts.params > 1_000_000


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("bbox.APl", -1.0, False), ("bbox.AP", 0.0, True), ("loss", -2.0, True), ("loss", float("nan"), False)],
)
def test_what_says_nothing_is_left_out(name: str, value: float, expected: bool) -> None:
    assert told(name, value) is expected
