from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import spt
from tests.support.run_folders import finished_run


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [finished_run(folder / name, aps=(ap,), seed=seed).home for name, ap, seed in (("a", 0.2, 0), ("b", 0.3, 1))]


def test_tables_and_files(homes: list[Path], tmp_path: Path) -> None:
    files = {kind: tmp_path / f"compare.{kind}" for kind in ("md", "csv", "html")}
    ran = spt("compare", *homes, *(word for kind, path in files.items() for word in (f"--{kind}", path)))
    assert ran.code == 0, ran.err
    assert "0.3 (+0.1)" in ran.out
    assert "seed" in ran.out
    assert all(path.stat().st_size > 50 for path in files.values())


def test_json(homes: list[Path]) -> None:
    ran = spt("compare", *homes, "--metrics", "ap", "--json")
    assert ran.code == 0, ran.err
    assert [run["figures"]["box AP"] for run in ran.document["runs"]] == [0.2, 0.3]
    assert ran.document["differences"]["seed"] == ["0", "1"]


@pytest.mark.parametrize(("extra", "code"), [((), 2), (("no-such-run",), 3), (("--metrics", "speed"), 2)])
def test_what_cannot_be_compared(homes: list[Path], extra: tuple[str, ...], code: int) -> None:
    ran = spt("compare", homes[0], *extra)
    assert ran.code == code
    assert ran.err
