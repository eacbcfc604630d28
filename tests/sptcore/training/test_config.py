"""The settings of a run: documented, checked, written and read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from sptcore.errors import UsageError
from sptcore.training.config import (
    RUNNING_FIELDS,
    TrainConfig,
    load_preset,
    make_config,
    parse_interval,
    preset_for,
    preset_names,
    read_config,
)


def test_every_field_says_what_it_is() -> None:
    silent = [name for name, field in TrainConfig.model_fields.items() if len(field.description or "") < 10]
    assert silent == []


@pytest.mark.parametrize("name", preset_names())
def test_a_config_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    config = make_config({**load_preset(name), "select_threshold": 0.02, "val_data": 'a "quoted" \\ name'})
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml())
    assert read_config(path) == config


def test_the_papers_preset_has_the_papers_numbers() -> None:
    paper = make_config(load_preset("detect-paper"))
    assert (paper.epochs, paper.batch, paper.lr, paper.weight_decay, paper.warmup) == (36, 2, 1e-4, 0.05, 1000)
    assert (paper.select_loss_weight, paper.gate_lr_mult, paper.clip, paper.scale_lr) == (0.01, 1.0, 0.0, True)
    assert [round(share * 36) for share in paper.lr_drops] == [27, 33]
    assert [round(800 * scale) for scale in paper.scales] == list(range(480, 801, 32))
    assert [800 * scale for scale in paper.crop_scales] == [400, 500, 600]
    assert [800 * share for share in paper.crop_range] == [384, 600]


def test_the_sample_has_a_preset_of_its_own() -> None:
    assert preset_for("sample") == "sample"
    assert preset_for("coco") == preset_for("coco-s20") == "detect-paper"
    assert make_config(load_preset("sample")).model == "spt-nano"


def test_every_task_has_a_preset_for_the_sample_and_for_real_data() -> None:
    for task in ("detect", "multilabel", "classify"):
        for data in ("sample", "voc"):
            assert make_config({**load_preset(preset_for(data, task)), "data": data}).task == task
    with pytest.raises(UsageError, match="no task 'clasify'"):
        preset_for("voc", "clasify")


def test_swins_classification_preset_has_swins_numbers() -> None:
    swin = make_config(load_preset("classify-swin"))
    assert (swin.epochs, swin.warmup_epochs, swin.lr, swin.lr_batch, swin.min_lr_share) == (300, 20, 5e-4, 512, 0.01)
    assert (swin.mixup, swin.cutmix, swin.label_smoothing, swin.erasing, swin.clip) == (0.8, 1.0, 0.1, 0.25, 5.0)
    assert (swin.rand_augment, swin.decay_biases, swin.weight_decay, swin.scale_lr) == (9, False, 0.05, True)
    light = make_config(load_preset("classify-light"))
    assert (light.epochs, light.mixup, light.cutmix, light.rand_augment, light.erasing) == (100, 0, 0, 0, 0)


def test_the_sample_is_read_in_the_layout_of_the_task() -> None:
    assert make_config({"data": "sample", "task": "classify"}).format == "tiny-imagenet"
    assert make_config({"data": "sample", "task": "classify", "format": "coco"}).format == "coco"
    assert make_config({"data": "sample", "task": "multilabel"}).format == "auto"
    assert make_config({"data": "voc", "task": "classify"}).format == "auto"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", -1.0),
        ("lr", float("nan")),
        ("epochs", 0),
        ("res", "10x10"),
        ("res", "big"),
        ("schedule", "linear"),
        ("save_every", "often"),
        ("scales", ()),
        ("crop_range", (0.9, 0.2)),
        ("ema", 1.0),
        ("task", "segment"),
    ],
)
def test_a_value_out_of_range_names_its_key(key: str, value: object) -> None:
    with pytest.raises(UsageError, match=key):
        make_config({key: value})


def test_an_unknown_key_has_a_suggestion() -> None:
    with pytest.raises(UsageError) as caught:
        make_config({"epoch": 3})
    assert caught.value.hint == "did you mean 'epochs'?"
    with pytest.raises(UsageError, match="no preset"):
        load_preset("detect-papr")


def test_a_broken_file_is_a_usage_error(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    for content in (b"[train\n", b"\xff\xfe", b"[train]\nlr = true_\n"):
        path.write_bytes(content)
        with pytest.raises(UsageError) as caught:
            read_config(path)
        assert caught.value.where == str(path)
    with pytest.raises(UsageError):
        read_config(tmp_path / "absent.toml")


def test_changed_settings_leave_out_what_only_says_how_to_run() -> None:
    config = TrainConfig()
    assert {"workers", "device", "keep", "save_every", "max_steps"} <= RUNNING_FIELDS
    assert config.changed_settings(config.model_copy(update={"workers": 3, "max_steps": 5})) == {}
    assert config.changed_settings(config.model_copy(update={"lr": 0.5})) == {"lr": (1e-4, 0.5)}


def test_overrides_reach_the_backbone_under_its_own_names() -> None:
    config = make_config({"packing": "aligned", "drop_path": 0.1, "num_spa_blocks": 2})
    assert config.backbone_overrides == {"train_packing": "aligned", "drop_path": 0.1, "num_spa_blocks": 2}


def test_intervals() -> None:
    assert parse_interval("1ep") == (1, "ep")
    assert parse_interval("500it") == (500, "it")
    for wrong in ("0ep", "1.5ep", "ep", "5"):
        with pytest.raises(ValueError):
            parse_interval(wrong)
