from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sptcore.export.check import check_inputs, differences, run_eager
from sptcore.export.formats import require_onnx
from sptcore.export.graphs import build_graph
from sptcore.export.job import ExportSettings, export
from sptcore.runs.demo import DEMO_WEIGHTS, open_weights
from sptcore.runs.models import LoadedModel, load_model
from tests.support.weights import nano_weights


def loaded(weights: Path) -> LoadedModel:
    return load_model(open_weights(weights))


@pytest.mark.parametrize("resolution", [(128, 128), (120, 100)])
def test_its_own_walk_finds_what_torchvision_finds(resolution: tuple[int, int]) -> None:
    """Bit for bit, inside a padding too; then the same in another order is another walk."""
    model = loaded(DEMO_WEIGHTS)
    graph = build_graph(model, resolution=resolution, batch=1, scope="model")
    most = 0
    for _, images in check_inputs(graph.shape):
        wanted, _ = run_eager(model, images, "model")
        with torch.no_grad():
            got = dict(zip(graph.outputs, graph.module(images), strict=True))
        assert set(differences(wanted, got).values()) == {0.0}
        most = max(most, len(wanted["boxes"]))
    assert most > 3


def test_classes_are_the_ids_of_the_data() -> None:
    model = loaded(DEMO_WEIGHTS)
    ids = [90, 7, 300, 12, 5]
    named = [name for _, name in model.spec.categories]
    model = replace(model, spec=replace(model.spec, categories=tuple(zip(ids, named, strict=True))))
    graph = build_graph(model, resolution=(128, 128), batch=1, scope="model")
    _, images = next(check_inputs(graph.shape))
    wanted, _ = run_eager(model, images, "model")
    with torch.inference_mode():
        got = dict(zip(graph.outputs, graph.module(images), strict=True))
        labels = model.model(images, torch.tensor([[128, 128]])).detections[0]["labels"]
    expected = [ids[label - 1] for label in labels.tolist()]
    assert len(set(expected)) > 1
    assert wanted["classes"].tolist() == expected
    assert got["classes"].tolist() == expected


def test_other_thresholds_find_something_else() -> None:
    """Negative control: the comparison above sees another suppression."""
    model, other = loaded(DEMO_WEIGHTS), loaded(DEMO_WEIGHTS)
    other.model.roi_heads.nms_thresh = 0.9  # type: ignore[union-attr]
    graph = build_graph(other, resolution=(128, 128), batch=1, scope="model")
    far = []
    for _, images in check_inputs(graph.shape):
        with torch.no_grad():
            got = dict(zip(graph.outputs, graph.module(images), strict=True))
        far.append(max(differences(run_eager(model, images, "model")[0], got).values()))
    assert max(far) == float("inf")


@pytest.mark.slow
def test_a_whole_detector_in_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (spt[export])")
    require_onnx()
    report = export(ExportSettings(str(DEMO_WEIGHTS), resolution=(128, 96), out=tmp_path / "demo.onnx"))
    assert report.published
    assert 0 < report.largest < 1e-3
    assert list(report.description["outputs"]) == ["boxes", "scores", "classes", "masks"]


@pytest.mark.slow
def test_a_pt2_detector_of_boxes_alone(tmp_path: Path) -> None:
    weights = nano_weights(
        tmp_path / "boxes.safetensors", masks=False, depths=(1, 1, 1, 1), num_spa_blocks=2, resolution=(96, 64)
    )
    report = export(ExportSettings(str(weights), out=tmp_path / "boxes.pt2", limit=1e-2))
    assert list(report.description["outputs"]) == ["boxes", "scores", "classes"]
    assert report.description["input"]["shape"] == [1, 3, 64, 96]
