"""`spt config`: settings with their origins, a file to start from that is itself valid, and the check of a file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sptcli.app import COMMANDS
from tests.support.cli import spt
from tests.support.probe import probe_command


@pytest.fixture(autouse=True)
def _probe() -> Iterator[None]:
    with probe_command():
        yield


def settings_of(*arguments: object, **env: str) -> dict[str, tuple[object, str]]:
    document = spt("config", "show", "probe", "--json", *arguments, env=env).document
    return {row["key"]: (row["value"], row["origin"]) for row in document["settings"]}


def test_show_tells_each_origin(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[probe]\nnames = ["a"]\n')
    rows = settings_of("-c", config, "--set", "data=paper", SPT_PROBE_DROP="false")
    assert rows["names"] == (["a"], f"{config} [probe]")
    assert rows["data"] == ("paper", "--set data=paper")
    assert rows["drop"] == (False, "SPT_PROBE_DROP")
    assert rows["lr"] == (5.0, "preset paper")
    assert rows["max-ratio"] == ("1/5", "default")
    assert rows["crop-prob"] == (0.5, "default")
    assert rows["scales"] == ([0.5, 1.0], "preset paper")
    ran = spt("config", "show", "probe", "--origin", "--set", "res=8x9")
    assert "8x9" in ran.out
    assert "--set res=8x9" in ran.out


def test_show_without_a_command_tells_the_folders(tmp_path: Path) -> None:
    document = spt("config", "show", "--json", env={"SPT_CACHE": str(tmp_path), "SPT_DATA": "/d"}).document
    assert document["folders"]["cache"] == [str(tmp_path), "SPT_CACHE"]
    assert document["folders"]["data"] == ["/d", "SPT_DATA"]


def test_init_writes_a_file_that_passes_its_own_check(tmp_path: Path) -> None:
    out = tmp_path / "probe.toml"
    ran = spt("config", "init", "probe", "--out", out)
    assert ran.code == 0
    text = out.read_text()
    assert tomllib.loads(text) == {"probe": {}}
    assert "# SPT_PROBE_LR" in text or "(SPT_PROBE_LR)" in text
    uncommented = "\n".join(
        line.removeprefix("# ") for line in text.splitlines() if " = " in line and not line.startswith("# (")
    )
    out.write_text("[probe]\n" + uncommented + "\n")
    assert tomllib.loads(out.read_text())["probe"]["lr"] == 1.0
    assert tomllib.loads(out.read_text())["probe"]["scales"] == [1.0]
    ran = spt("config", "check", out, "probe")
    assert ran.code == 0, ran.err
    assert spt("config", "init", "probe", "--out", out).code == 4
    assert spt("config", "init", "probe", "--out", out, "--force").code == 0


def test_init_without_a_command_knows_every_table() -> None:
    tables = tomllib.loads(spt("config", "init").out)
    assert set(tables) == set(COMMANDS) - {"config", "doctor"}


@pytest.mark.parametrize("text", ["[probe]\nlrr = 1\n", '[probe]\nlr = "x"\n', "[probe\n", '[probe]\nres = "8"\n'])
def test_check_refuses(tmp_path: Path, text: str) -> None:
    config = tmp_path / "c.toml"
    config.write_text(text)
    ran = spt("config", "check", config, "probe")
    assert ran.code == 2
    assert str(config) in ran.err


def test_bad_words() -> None:
    assert spt("config", "show", "prob").code == 2
    assert "did you mean 'probe'?" in spt("config", "show", "prob").err
    assert spt("config", "check", "x.toml").code == 2
    assert spt("config", "show", "a", "b").code == 2
    assert spt("config", "mend").code == 2
