"""The catalogue of models: parameters as a built model has them, costs as the formulas give them, weights found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sptcore.catalogue import PRETRAINED, family_of, list_models, list_stages, list_weights, models_of, run_weights
from sptcore.errors import UsageError
from sptcore.models.variants import VARIANTS, build_backbone


@pytest.mark.parametrize("name", ["spt-nano", "swin-nano", "spt-t"])
def test_parameters_are_those_of_a_real_model(name: str) -> None:
    built = build_backbone(name)
    (row,) = list_models([name], width=128, height=128)
    stages = list_stages(name, width=128, height=128)
    assert row.params == sum(parameter.numel() for parameter in built.parameters())
    assert sum(stage.params for stage in stages) == row.params
    assert stages[2].params >= sum(parameter.numel() for parameter in built.stages[2].parameters())
    assert sum(stage.spa_blocks for stage in stages) == row.spa_blocks


def test_costs_fall_with_the_ratio_where_blocks_select() -> None:
    rows = {row.name: row.macs for row in list_models(models_of(), width=1280, height=800)}
    assert set(rows) == set(VARIANTS)
    for name, macs in rows.items():
        free = VARIANTS[name].num_spa_blocks and VARIANTS[name].fixed_ratios is None
        assert (macs[0.25] < macs[1.0]) == bool(free)
    assert list_stages("spt-t", width=1280, height=800)[2].grid == (80, 50)


def test_families() -> None:
    assert all(name.startswith("swin-") for name in models_of("swin"))
    assert [family_of(name) for name in ("spt-t", "topk-windows-nano", "swin-gt-b")] == [
        "spt",
        "topk-windows",
        "swin-gt",
    ]
    assert models_of("topk-windows") == [f"topk-windows-{size}" for size in ("nano", "t", "s", "b")]
    with pytest.raises(UsageError, match="no family 'spd'"):
        models_of("spd")


def test_weights_on_disk_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("SPT_RUNS", str(tmp_path / "runs"))
    (row,) = list_weights(["spt-t"])
    assert (row.kind, row.path) == ("pretrained", None)
    file = tmp_path / "torch" / "hub" / "checkpoints" / PRETRAINED["t"][1]
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    assert list_weights(["spt-t"])[0].path == file
    assert list_weights(["spt-nano"]) == []
    assert [row.name for row in list_weights(["vit-b", "evit-b", "vit-s"])] == ["ViT_B_16_Weights.IMAGENET1K_V1"] * 2
    assert list_weights(["dynamicswin-t"])[0].path == file
    assert list_weights(["dat-t", "vit-s"]) == []


def test_weights_of_runs_are_listed_damaged_ones_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sptcore.runs import save_weights

    monkeypatch.setenv("SPT_RUNS", str(tmp_path))
    for run in ("20260101-000000-a", "20260102-000000-b"):
        (tmp_path / "train" / run / "weights").mkdir(parents=True)
    tensors = {"x": torch.ones(3)}
    save_weights(
        tmp_path / "train/20260101-000000-a/weights/last.safetensors",
        tensors,
        {"variant": "spt-nano", "task": "detect"},
    )
    (tmp_path / "train/20260102-000000-b/weights/best.safetensors").write_bytes(b"no weights")
    (tmp_path / "train" / "latest").symlink_to("20260101-000000-a")
    rows = run_weights()
    assert [(row.name, row.model) for row in rows] == [("20260102-000000-b", "?"), ("20260101-000000-a", "spt-nano")]
    assert [row.name for row in list_weights(["spt-nano"])] == ["20260101-000000-a"]
