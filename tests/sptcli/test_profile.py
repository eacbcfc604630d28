from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from sptcli.profile import parse_ratios
from tests.support.cli import spt, spt_process
from tests.support.weights import nano_weights

SMALL = ("profile", "--res", "96x64", "--model", "swin-nano,spt-nano", "--iters", "1", "--warmup", "0")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", ()),
        ("0.3", (0.3,)),
        (".1,.3", (0.1, 0.3)),
        ("0.1:1.0:0.1", tuple(round(0.1 * n, 9) for n in range(1, 11))),
        ("0:1:0.4", (0.0, 0.4, 0.8)),
        ("1:1:1", (1.0,)),
        (".25,0.5:1:0.5", (0.25, 0.5, 1.0)),
    ],
)
def test_ratios(text: str, expected: tuple[float, ...]) -> None:
    assert tuple(parse_ratios(text)) == expected


@pytest.mark.parametrize("text", ["1.5", "-.1", "0.1:0.5", "1:0:.1", "0:1:0", "nan", "some", "", "auto,.3", ".3,"])
def test_ratios_that_are_none(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_ratios(text)


def test_both_scopes_and_a_file(tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    ran = spt(*SMALL, "--ratio", "0.3", "--json", "--out", out, "--by", "stage")
    assert ran.code == 0, ran.err
    rows = ran.document["rows"]
    assert [(row["scope"], row["model"], row["selection"]) for row in rows] == [
        (scope, model, selection)
        for scope in ("backbone", "detector")
        for model, selection in (("swin-nano", "dense"), ("spt-nano", "0.3"))
    ]
    assert rows[0]["latency"]["rounds"] == 1
    assert rows[2]["latency"] is None
    assert rows[1]["macs_counted"] == rows[1]["macs_actual"] < rows[1]["macs_eq9"]
    assert set(rows[1]["breakdown"]) == {"stage 1", "stage 2", "stage 3", "stage 4"}
    assert json.loads(out.read_text())["rows"] == rows


def test_models_and_ratios_given_in_parts_add_up() -> None:
    parts = ("--model", "swin-nano", "--model", "spt-nano", "--ratio", "0.3", "--ratio", "0.5:1:0.5")
    ran = spt("profile", "--res", "64x64", *parts, "--no-latency", "--scope", "backbone", "--json")
    assert ran.code == 0, ran.err
    found = [(row["model"], row["selection"]) for row in ran.document["rows"]]
    assert found == [("swin-nano", "dense"), ("spt-nano", "0.3"), ("spt-nano", "0.5"), ("spt-nano", "1")]


def test_detectors_of_two_sizes_say_which_heads_they_have() -> None:
    arguments = ("profile", "--res", "64x64", "--model", "swin-nano,swin-t", "--no-latency", "--scope", "detector")
    ran = spt(*arguments)
    assert ran.code == 0, ran.err
    assert "heads" in ran.out
    assert "detectors have small and standard heads" in ran.err
    same = spt(*arguments, "--heads", "standard", "--by", "part", "--json")
    assert same.code == 0, same.err
    nano, tiny = same.document["rows"]
    assert nano["heads"] == tiny["heads"] == "standard"
    assert nano["breakdown"]["rpn"] == tiny["breakdown"]["rpn"]
    assert nano["breakdown"]["fpn"] != tiny["breakdown"]["fpn"]  # its entry is as wide as the backbone
    assert "detectors have" not in same.err


def test_models_beside_a_trained_one_have_its_heads(tmp_path: Path) -> None:
    weights = nano_weights(tmp_path / "mine.safetensors")
    arguments = ("--weights", weights, "--data", "sample", "--limit", "1", "--ratio", "1", "--no-latency")
    ran = spt("profile", "--res", "64x64", *arguments, "--model", "swin-t", "--scope", "detector", "--json")
    assert ran.code == 0, ran.err
    assert {row["heads"] for row in ran.document["rows"]} == {"small"}


def test_the_paper_s_figures_at_its_resolution() -> None:
    """266.56 GMAC for Mask R-CNN with Swin-T at 1280 x 800, the default resolution."""
    ran = spt("profile", "--model", "swin-t", "--no-latency")
    assert ran.code == 0, ran.err
    assert "266.6" in ran.out
    assert "95.56" in ran.out


def test_tables_say_what_was_run() -> None:
    ran = spt(*SMALL, "--scope", "detector", "--ratio", "0.1:0.3:0.2", "--train", "--by", "component")
    assert ran.code == 0, ran.err
    assert "detector at 96 x 64, batch 1" in ran.out
    assert "mask_head.conv" in ran.out
    assert "timed: 1 interleaved rounds" in ran.err
    assert "agrees with the formula" in ran.err


def test_notes_are_footnotes_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    arguments = ("--res", "64x64", "--model", "swin-nano,spt-gt-nano", "--ratio", ".3", "--scope", "backbone")
    ran = spt("profile", *arguments, "--no-latency")
    assert ran.code == 0, ran.err
    lines = [line.rstrip() for line in ran.out.splitlines()]
    assert "[1] upper bound: selects by labels" in lines
    assert [line.split()[:2] for line in lines if " nano" in line.replace("-", " ")] == [
        ["swin-nano", "dense"], ["spt-gt-nano", "[1]"],
    ]  # fmt: skip
    plain = spt("profile", "--res", "64x64", "--model", "swin-nano", "--scope", "backbone", "--no-latency")
    assert "[1]" not in plain.out


def test_trained_weights_at_their_own_ratio(tmp_path: Path) -> None:
    weights = nano_weights(tmp_path / "mine.safetensors")
    arguments = ("--weights", weights, "--data", "sample", "--limit", "2", "--ratio", "1", "--no-latency")
    ran = spt("profile", "--res", "128x128", *arguments, "--scope", "backbone", "--json")
    assert ran.code == 0, ran.err
    rows = ran.document["rows"]
    assert [(row["model"], row["selection"]) for row in rows] == [
        ("swin-nano", "dense"),
        ("mine", "measured"),
        ("mine", "1"),
    ]
    assert 0 < rows[1]["select_ratio"] < 1


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("--model", "spt-x"), 2, "spt-"),
        (("--ratio", "2"), 2, "between 0 and 1"),
        (("--out", "profile.xlsx"), 2, ".csv"),
        (("--weights", "auto", "--model", "spt-nano", "--heads", "small"), 2, "--heads"),
        (("--device", "cuda:9"), 4, "cuda:9"),
        (("--data", "no-such-set", "--model", "spt-nano"), 3, "no-such-set"),
        (("--weights", "gone.safetensors"), 3, "gone.safetensors"),
    ],
)
def test_what_cannot_be_profiled(arguments: tuple[str, ...], code: int, word: str) -> None:
    ran = spt("profile", "--res", "64x64", *arguments)
    assert ran.code == code
    assert word in ran.err


def test_a_process_of_its_own_says_nothing_but_the_result() -> None:
    """torch's profiler, which measures memory, talks on stderr unless it was silenced before torch was loaded."""
    ran = spt_process(*SMALL, "--scope", "backbone", "--ratio", "1", "--progress", "off", "--json", "--quiet")
    assert ran.code == 0, ran.err
    assert ran.err == ""
    assert ran.document["rows"][0]["peak_bytes"] > 0
