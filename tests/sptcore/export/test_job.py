from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from sptcore.errors import EnvironmentFault, UsageError
from sptcore.export import job
from sptcore.export.formats import EXTRA_FILE, METADATA, require_onnx
from sptcore.export.job import ExportSettings, export, pick_format
from sptcore.runs.demo import open_weights
from sptcore.runs.models import load_model
from sptcore.tasks.base import ModelSpec
from tests.support.weights import nano_weights

TINY = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "num_spa_blocks": 2}


def classifier(folder: Path, **settings) -> Path:
    return nano_weights(folder / "model.safetensors", task="classify", resolution=(64, 64), **TINY, **settings)


def has_onnx() -> bool:
    try:
        require_onnx()
    except EnvironmentFault:
        return False
    return True


needs_onnx = pytest.mark.skipif(not has_onnx(), reason="ONNX is not installed (spt[export])")


@needs_onnx
def test_an_onnx_file_stands_alone(tmp_path: Path) -> None:
    import onnxruntime

    weights = classifier(tmp_path)
    report = export(ExportSettings(str(weights), out=tmp_path / "model.onnx"))
    assert report.published
    assert 0 < report.largest < 1e-5
    ratios = [one.select_ratio for one in report.comparisons]
    assert len(set(ratios)) > 3
    session = onnxruntime.InferenceSession(str(report.path))
    images = np.random.default_rng(1).integers(0, 256, (1, 3, 64, 64), dtype=np.uint8)
    (logits,) = session.run(["logits"], {"images": images})
    with torch.inference_mode():
        wanted = load_model(open_weights(weights)).model(torch.from_numpy(images)).logits
    np.testing.assert_allclose(logits, wanted.numpy(), atol=1e-5)
    told = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
    assert told["schema"] == "spt.export/1"
    assert told["categories"] == [{"id": 1, "name": "ring"}, {"id": 2, "name": "star"}]


@needs_onnx
@pytest.mark.parametrize(("gate_bias", "share"), [(-100.0, 0.0), (100.0, 1.0)])
def test_nothing_and_everything_selected(tmp_path: Path, gate_bias: float, share: float) -> None:
    weights = classifier(tmp_path, gate_bias=gate_bias)
    report = export(
        ExportSettings(str(weights), resolution=(96, 50), scope="backbone", batch=2, out=tmp_path / "a.onnx")
    )
    assert report.published
    assert {one.select_ratio for one in report.comparisons} == {share}
    assert list(report.description["outputs"]) == ["map_stride32"]


def test_a_pt2_file_needs_one_import(tmp_path: Path) -> None:
    weights = classifier(tmp_path)
    report = export(ExportSettings(str(weights), resolution=(80, 64), batch=2, out=tmp_path / "model.pt2"))
    assert report.published
    assert report.format == "pt2"
    kept = {EXTRA_FILE: ""}
    program = torch.export.load(report.path, extra_files=kept)
    told = json.loads(kept[EXTRA_FILE])
    assert told["input"] == {"name": "images", "shape": [2, 3, 64, 80], "holds": "uint8 [2, 3, 64, 80] RGB, 0..255"}
    assert ModelSpec.from_dict(told["model"]) == load_model(open_weights(weights)).spec
    used = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "sptcore.attend_selected.default" in used


@pytest.mark.parametrize("format", ["pt2", pytest.param("onnx", marks=needs_onnx)])
def test_a_graph_names_no_folder_and_is_the_same_each_time(tmp_path: Path, format: str) -> None:
    weights = classifier(tmp_path)
    first, again = (export(ExportSettings(str(weights), out=tmp_path / f"{name}.{format}")).path for name in "ab")
    held = first.read_bytes()
    if format == "pt2":
        with zipfile.ZipFile(first) as archive:
            held = b"".join(archive.read(name) for name in archive.namelist())
    assert b"classifier.backbone" in held, "what is searched holds text"
    for trace in (b"stack_trace", b"graphs.py", str(Path(job.__file__).parents[2]).encode(), str(tmp_path).encode()):
        assert trace not in held
    assert first.read_bytes() == again.read_bytes()


def test_weights_are_those_of_other_commands(tmp_path: Path) -> None:
    weights = classifier(tmp_path)
    report = export(ExportSettings(str(weights), resolution=(32, 96), out=tmp_path / "again.safetensors"))
    assert report.published
    assert report.largest == 0
    first, again = (load_model(open_weights(path)) for path in (weights, report.path))
    assert again.spec.resolution == (96, 32)
    assert again.spec.backbone == first.spec.backbone
    assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in first.model.state_dict().items())


@pytest.mark.parametrize("format", ["pt2", "safetensors", pytest.param("onnx", marks=needs_onnx)])
def test_damaged_weights_are_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    """Negative control of every comparison above: one layer is another in the file than in the model."""
    write = job._WRITERS[format]

    def damage(loaded, graph, path, description):
        weight = loaded.model.head.weight
        kept = weight.clone()
        weight.data.neg_()
        try:
            return write(loaded, graph, path, description)
        finally:
            weight.data.copy_(kept)

    monkeypatch.setitem(job._WRITERS, format, damage)
    out = tmp_path / f"model-out.{format}"
    out.write_text("earlier")
    report = export(ExportSettings(str(classifier(tmp_path)), out=out))
    assert not report.published
    assert report.largest > 1e-3
    assert out.read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["model.safetensors", out.name])


def test_one_image_that_differs_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = job._WRITERS["safetensors"]

    def damage(loaded, graph, path, description):
        run = write(loaded, graph, path, description)
        (*_, (name, noise)) = job.check_inputs(graph.shape)
        assert name == "noise"
        return lambda images: {output: value + torch.equal(images, noise) for output, value in run(images).items()}

    monkeypatch.setitem(job._WRITERS, "safetensors", damage)
    report = export(ExportSettings(str(classifier(tmp_path)), out=tmp_path / "out.safetensors"))
    assert not report.published
    assert [one.largest > 0.5 for one in report.comparisons] == [False] * 4 + [True]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"attention": "window_gather"}, "window_gather"),
        ({"selector": "ground_truth"}, "labels"),
    ],
)
def test_what_no_graph_can_hold_is_refused_by_its_setting(tmp_path: Path, settings: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        export(ExportSettings(str(classifier(tmp_path, **settings)), out=tmp_path / "model.pt2"))
    assert not (tmp_path / "model.pt2").exists()


def test_the_smallest_frame(tmp_path: Path) -> None:
    weights = classifier(tmp_path)
    report = export(ExportSettings(str(weights), resolution=(1, 1), out=tmp_path / "one.safetensors"))
    assert report.description["input"]["shape"] == [1, 3, 1, 1]
    assert report.largest == 0


def test_a_folder_in_its_place_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_WRITERS", {})
    (tmp_path / "model.pt2").mkdir()
    with pytest.raises(UsageError, match="folder"):
        export(ExportSettings(str(classifier(tmp_path)), out=tmp_path / "model.pt2"))


def test_a_vit_takes_whole_multiples_of_32(tmp_path: Path) -> None:
    weights = nano_weights(tmp_path / "vit.safetensors", variant="vit-nano", task="classify")
    with pytest.raises(UsageError, match="32") as refused:
        export(ExportSettings(str(weights), resolution=(100, 64), out=tmp_path / "vit.pt2"))
    assert refused.value.hint == "--res 128x64"


def test_a_detector_takes_one_image_and_weights_no_part(tmp_path: Path) -> None:
    weights = str(nano_weights(tmp_path / "model.safetensors"))
    with pytest.raises(UsageError, match="one image"):
        export(ExportSettings(weights, batch=2, out=tmp_path / "model.pt2"))
    with pytest.raises(UsageError, match="whole model"):
        export(ExportSettings(weights, scope="backbone", out=tmp_path / "some.safetensors"))
    with pytest.raises(UsageError, match="replace the weights"):
        export(ExportSettings(weights, out=Path(weights)))


def test_the_format_follows_the_ending() -> None:
    assert pick_format(ExportSettings()) == "onnx"
    assert pick_format(ExportSettings(out=Path("a.pt2"))) == "pt2"
    assert pick_format(ExportSettings(format="safetensors")) == "safetensors"
    for settings in (
        ExportSettings(format="onnx", out=Path("a.pt2")),
        ExportSettings(out=Path("a.zip")),
        ExportSettings(format="tflite"),
        ExportSettings(out=Path("a")),
        ExportSettings(limit=-1),
        ExportSettings(limit=float("nan")),
    ):
        with pytest.raises(UsageError):
            pick_format(settings)


SHORT = {"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 1, 2, 2)}


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize(
    ("variant", "settings"),
    [
        ("spt-nano", {**SHORT, "num_spa_blocks": 3, "bypass": "proj", "eval_packing": "stream", "rpb": "slot"}),
        ("spt-nano", {**SHORT, "num_spa_blocks": 3, "ffn": "selected", "scope": "image_region"}),
        ("topk-tokens-nano", {**SHORT, "num_spa_blocks": 3}),
        ("dynamicswin-nano", SHORT),
        ("dat-nano", SHORT),
        ("dynamicvit-nano", {}),
        ("evit-nano", {}),
    ],
)
def test_settings_and_rivals_go_into_onnx(tmp_path: Path, variant: str, settings: dict) -> None:
    weights = nano_weights(
        tmp_path / "model.safetensors", variant=variant, task="multilabel", resolution=(96, 64), **settings
    )
    report = export(ExportSettings(str(weights), batch=2, out=tmp_path / "model.onnx"))
    assert report.published
    assert report.largest < 1e-5
