"""`spt models`: the table, one model by stages, families, weights, and a name that does not exist."""

from __future__ import annotations

import pytest

from tests.support.cli import spt


def test_the_table_and_its_document() -> None:
    ran = spt("models", "--family", "spt")
    assert ran.code == 0
    assert "spt-t" in ran.out
    assert "swin-t" not in ran.out
    document = spt("models", "--json", "--res", "640x480").document
    assert document["resolution"] == "640x480"
    by_name = {row["name"]: row for row in document["models"]}
    assert by_name["spt-t"]["macs"]["0.25"] < by_name["spt-t"]["macs"]["1.0"]


def test_every_model_has_one_line_of_eighty_columns_and_an_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = [row["name"] for row in spt("models", "--json").document["models"]]
    costs, _, origins = spt("models").out.partition(" from ")
    lines = costs.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if " of " in line] == names
    told = {
        f"{family}-{size}"
        for word in origins.split()
        if ("-" in word and "|" in word) or word.endswith("-nano")
        for family, _, sizes in [word.rpartition("-")]
        for size in sizes.split("|")
    }
    assert told == set(names)
    assert "Swin Transformer, arXiv 2103.14030" in origins
    assert len(origins.splitlines()) < len(names)
    alone = spt("models", "spt-s").out
    assert "Select and Pack Transformer" in alone
    assert "spt-s" in alone
    assert "swin" not in alone


def test_one_model_by_stages() -> None:
    document = spt("models", "spt-nano", "--json", "--weights").document
    assert [row["stride"] for row in document["stages"]] == [4, 8, 16, 32]
    assert document["config"]["embed_dim"] == 32
    assert document["weights"] == []
    assert "160x100" in spt("models", "spt-nano").out


def test_stages_fit_eighty_columns_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = [line.split() for line in spt("models", "spt-s").out.splitlines()]
    stages = [line for line in lines if len(line) == 9 and line[0].isdigit()]
    assert [line[2] for line in stages] == ["320x200", "160x100", "80x50", "40x25"]
    assert [line[5] for line in stages] == ["0/2", "0/2", "18/18", "2/2"]


def test_bad_names() -> None:
    ran = spt("models", "spt-tt")
    assert ran.code == 2
    assert "did you mean 'spt-t'?" in ran.err
    assert spt("models", "--family", "x").code == 2
    assert spt("models", "--res", "0x0").code == 2
