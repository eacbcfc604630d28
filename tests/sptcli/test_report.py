from __future__ import annotations

from pathlib import Path

from tests.support.cli import spt
from tests.support.run_folders import finished_run


def test_the_last_run_on_a_page(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    ran = spt("report", run.home, "--images", "1", "--json")
    assert ran.code == 0, ran.err
    assert ran.document["summary"]["box AP"] == 0.3
    assert ran.document["artefacts"]["page"] == str(run.home / "report.html")
    assert (run.home / "report.html").is_file()


def test_missing_data_is_a_warning(tmp_path: Path) -> None:
    ran = spt("report", finished_run(tmp_path / "run", data="gone-away").home, "--out", tmp_path / "page.html")
    assert ran.code == 0
    assert "gone-away" in ran.err
    assert (tmp_path / "page.html").is_file()


def test_no_run_is_exit_3(tmp_path: Path) -> None:
    ran = spt("report", env={"SPT_RUNS": str(tmp_path / "none")})
    assert ran.code == 3
    assert "spt train" in ran.err


def test_a_page_that_cannot_be_written_is_exit_4(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    ran = spt("report", run.home, "--images", "0", "--out", tmp_path / "no" / "such" / "page.html")
    assert ran.code == 4
