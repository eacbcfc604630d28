from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sptcore.runs.demo import DEMO_WEIGHTS
from tests.support.cli import spt
from tests.support.weights import nano_weights


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPT_RUNS", str(tmp_path / "runs"))


def classifier(variant: str = "spt-nano") -> Path:
    return nano_weights(
        Path("model.safetensors"),
        variant=variant,
        task="classify",
        resolution=(64, 64),
        embed_dim=16,
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 2, 2),
        num_spa_blocks=2,
    )


def test_the_demo_weights_when_nothing_is_named() -> None:
    ran = spt("export", "--format", "safetensors", "--json")
    assert ran.code == 0, ran.err
    assert ran.document["schema"] == "spt.export/1"
    assert ran.document["demo"]
    assert ran.document["largest_difference"] == 0
    (path,) = Path().glob("*.safetensors")
    assert path.name == f"{DEMO_WEIGHTS.stem}-128x128.safetensors"
    assert spt(*ran.document["next"].split()[1:], "--limit", "1", "--save", "json").code == 0


def test_a_graph_says_how_it_is_loaded_and_how_far_it_is() -> None:
    ran = spt("export", classifier(), "--out", "a.pt2", "--res", "96x64")
    assert ran.code == 0, ran.err
    assert "import sptcore.export.operators" in ran.err
    assert "uint8 [1, 3, 64, 96]" in ran.out
    assert "largest difference" in ran.out
    assert "noise" in ran.out
    assert Path("a.pt2").is_file()


def test_too_large_a_difference_is_exit_5_and_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from sptcore.export import job

    write = job._WRITERS["safetensors"]

    def damage(loaded, graph, path, description):
        run = write(loaded, graph, path, description)
        return lambda images: {name: value + 0.5 for name, value in run(images).items()}

    monkeypatch.setitem(job._WRITERS, "safetensors", damage)
    weights = classifier()
    ran = spt("export", weights, "--out", "a.safetensors", "--check", "1e-4", "--json")
    assert ran.code == 5
    assert ran.document["published"] is False
    assert ran.document["largest_difference"] == pytest.approx(0.5)
    assert not Path("a.safetensors").exists()
    assert spt("export", weights, "--out", "a.safetensors", "--check", "0.6").code == 0


def test_onnx_without_its_extra_is_exit_4_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    ran = spt("export", classifier(), "--out", "a.onnx")
    assert ran.code == 4
    assert "pip install 'spt[export]'" in ran.err
    assert not Path("a.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["gone.safetensors"], 3),
        (["--out", "a.zip"], 2),
        (["--check", "-1"], 2),
        (["--out", "no/such/folder/a.pt2"], 4),
    ],
)
def test_what_cannot_be_is_refused(arguments: list[str], code: int) -> None:
    assert spt("export", *arguments).code == code
