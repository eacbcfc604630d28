from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from sptcore.data.locate import open_index
from sptcore.errors import DataError
from sptcore.reporting.report import duration, report, summary
from sptcore.runs import Run, new_run
from sptcore.viz.pictures import Picture
from sptcore.viz.selection import Seen
from tests.support.run_folders import finished_run
from tests.support.weights import nano_weights


def test_the_page_of_a_run_stands_alone_and_shows_everything(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", ratio=0.4)
    result = report(run, images=2)
    html = result.page.read_text(encoding="utf-8")
    assert result.page == run.home / "report.html"
    assert result.missing == ()
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert headings == [
        "In short",
        "Curves",
        "Validations",
        "Where the model looks",
        "What the backbone costs",
        "Settings",
        "Environment",
        "Log",
    ]
    assert html.count("<svg") >= 6
    assert html.count("data:image/webp;base64,") == 2
    assert not re.search(r'(?:src|href)="(?!data:)', html)
    assert "best weights of step 20" in html
    assert "done &lt;at last&gt;" in html


def test_without_its_data_the_page_says_so_and_shows_the_rest(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", data="gone-away")
    result = report(run, tmp_path / "page.html")
    assert "gone-away" in result.missing[0]
    html = result.page.read_text(encoding="utf-8")
    assert "Not shown: " in html
    assert "<svg" in html


def test_a_classifier_of_the_sample_is_shown_the_images_it_was_validated_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run(tmp_path / "run", task="classify")
    nano_weights(run.home / "weights" / "best.safetensors", task="classify")
    shown: list[Path] = []

    def noted(pictures: Sequence[Picture], *rest: object) -> list[Seen]:
        shown.extend(one.path for one in pictures)
        return []

    monkeypatch.setattr("sptcore.reporting.report.see", noted)
    report(Run(run.home), images=2)
    validated = open_index("sample", "val", format="tiny-imagenet")
    assert len(shown) == 2
    assert {path.name for path in shown} <= {Path(record.file_name).name for record in validated.records}


def test_a_dense_run_has_no_heat_maps(tmp_path: Path) -> None:
    result = report(finished_run(tmp_path / "run", variant="swin-nano"))
    html = result.page.read_text(encoding="utf-8")
    assert "Where the model looks" not in html
    assert dict(summary(result.facts))["MACs saved by selection"] == "0.0%"


def test_a_lone_weights_file_lands_beside_you(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights = nano_weights(tmp_path / "nano.safetensors")
    result = report(Run(None, weights), images=1)
    assert result.page == Path("report.html")
    assert "In short" in result.page.read_text(encoding="utf-8")


def test_a_run_without_weights_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPT_RUNS", str(tmp_path))
    with pytest.raises(DataError, match="no weights"):
        report(new_run("train", "empty"))


@pytest.mark.parametrize(("seconds", "text"), [(8.4, "8 s"), (200, "3 min 20 s"), (3720, "1 h 02 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
