"""`spt models`: the table, one model by stages, families, weights, and a name that does not exist."""

from __future__ import annotations

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


def test_one_model_by_stages() -> None:
    document = spt("models", "spt-nano", "--json", "--weights").document
    assert [row["stride"] for row in document["stages"]] == [4, 8, 16, 32]
    assert document["config"]["embed_dim"] == 32
    assert document["weights"] == []
    assert "160x100" in spt("models", "spt-nano").out


def test_bad_names() -> None:
    ran = spt("models", "spt-tt")
    assert ran.code == 2
    assert "did you mean 'spt-t'?" in ran.err
    assert spt("models", "--family", "x").code == 2
    assert spt("models", "--res", "0x0").code == 2
