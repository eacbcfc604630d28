"""The settings of a training run: one flat record, its presets, and the file that re-runs the job."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import tomlkit
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sptcore.errors import UsageError, did_you_mean

LOGS = ("csv", "tensorboard")
_PRESETS = Path(__file__).with_name("presets")


def _setting(default: Any, text: str, *, running: bool = False, **limits: Any) -> Any:
    """A documented field; `running` marks what may change when a run is resumed, since it cannot change the result."""
    return Field(default=default, description=text, json_schema_extra={"running": running}, **limits)


_BACKBONE_FIELDS = (
    "select_threshold", "num_spa_blocks", "attention", "selector", "select_ratio", "topk_score", "noise",
    "score_propagation", "scope", "bypass", "ffn", "rpb", "keep_rate",
)  # fmt: skip
"""Fields that replace the variant's setting of the same name, where they are given."""


class TrainConfig(BaseModel):
    """Everything that decides a training run; None means "as the model or the data say".

    Written to the run folder as `config.toml`. The defaults are the neutral ones; the recipes are presets.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    preset: str | None = _setting(None, "preset the values started from (for the record; the values themselves follow)")

    model: str = _setting("spt-t", "model variant: spt-nano, spt-t, spt-s, spt-b, swin-nano, swin-t ...")
    task: Literal["detect", "multilabel", "classify"] = _setting(
        "detect",
        "what is learned: detect = boxes, and masks where the data has them; multilabel = the classes an image shows; "
        "classify = the one class of an image",
    )
    heads: Literal["auto", "standard", "small"] = _setting(
        "auto",
        "detector heads: standard (FPN 256, strides 4 to 64), small (FPN 48, strides 8 to 32); auto: small for nano",
    )
    label_smoothing: float = _setting(0.0, "classify: share of the class spread over all classes", ge=0, lt=1)

    data: str = _setting("sample", "data set: a name (coco, bdd, voc, sample ...) or a path")
    root: str | None = _setting(None, "folder in which the named data set lies")
    ann: str | None = _setting(None, "annotation file of the training, instead of the layout's own")
    format: str = _setting("auto", "format of the data set: auto, coco, bdd, voc, tiny-imagenet")
    split: str = _setting("train", "split to train on")
    val_data: str | None = _setting(None, "data set of the validation (default: the same)")
    val_split: str = _setting("val", "split of the validation")
    val_ann: str | None = _setting(None, "annotation file of the validation, instead of the layout's own")
    labels: str = _setting(
        "auto",
        "selection labels: auto (found or built), a file make-labels wrote, or what to make them from: boxes, masks, "
        "image (where a padded image lies on its canvas)",
    )
    val_labels: str | None = _setting(
        None,
        "selection labels of the validation, as `labels`; by default its file, or one beside it, where it fits",
    )
    strict: bool = _setting(False, "stop at the first invalid annotation instead of leaving it out")
    allow_truncated: bool = _setting(False, "use images whose file ends early instead of stopping")
    follow_symlinks: bool = _setting(False, "open images through links that leave the image folder")
    size: tuple[int, int] | None = _setting(None, "width and height of images whose annotation does not say")

    res: tuple[int, int] = _setting(
        (1333, 800), "an image is resized to fit into this: longer and shorter side in pixels, in either orientation"
    )
    scales: tuple[float, ...] = _setting((1.0,), "training draws one of these factors on `res` for each image")
    crop_prob: float = _setting(0.0, "probability of a random crop before resizing", ge=0, le=1)
    crop_scales: tuple[float, ...] = _setting(
        (0.5, 0.625, 0.75), "the image is seen at one of these factors on `res` while the crop is drawn"
    )
    crop_range: tuple[float, float] = _setting(
        (0.48, 0.75), "sides of the crop, each drawn between these factors of the shorter side of `res`"
    )
    resized_crop: tuple[float, float] | None = _setting(
        None, "a crop of a share of the image's area drawn from this range, stretched to `res`; instead of scales, crop"
    )
    resized_crop_ratio: tuple[float, float] = _setting(
        (0.75, 1.3333333333333333), "aspect ratio of that crop, drawn from this range on a logarithmic scale"
    )
    flip_prob: float = _setting(0.5, "probability of a horizontal flip", ge=0, le=1)
    rand_augment: int = _setting(0, "magnitude of RandAugment's two operations an image; 0 = none", ge=0, le=30)
    erasing: float = _setting(0.0, "probability that a rectangle of an image becomes noise", ge=0, le=1)
    mixup: float = _setting(0.0, "classify: alpha of mixup's Beta distribution; 0 = none", ge=0)
    cutmix: float = _setting(0.0, "classify: alpha of CutMix's Beta distribution; 0 = none", ge=0)
    mix_prob: float = _setting(1.0, "probability that a batch is mixed, by either where both are on", ge=0, le=1)

    epochs: int = _setting(36, "passes over the training images", ge=1)
    max_steps: int | None = _setting(None, "stop after this many optimizer steps; the schedule stays", ge=1)
    batch: int = _setting(2, "images a device and forward pass; auto (0) tries how many fit into memory", ge=0)
    accum: int = _setting(1, "forward passes to sum before an optimizer step", ge=1)
    devices: int = _setting(1, "processes of a machine, each with its own batch and on CUDA its own GPU", ge=1)
    nodes: int = _setting(1, "machines that share a step, `devices` processes each", ge=1)
    gpus: tuple[int, ...] | None = _setting(None, "numbers of the GPUs the processes use, in order", running=True)

    lr: float = _setting(1e-4, "learning rate of AdamW", gt=0)
    scale_lr: bool = _setting(True, "scale lr by (images a step) / lr_batch")
    lr_batch: int = _setting(16, "images a step that lr is meant for", ge=1)
    weight_decay: float = _setting(0.05, "weight decay; norms, position biases and gate biases have none", ge=0)
    decay_biases: bool = _setting(True, "biases decay too (mmdetection's rule); false: no parameter of one dimension")
    gate_lr_mult: float = _setting(1.0, "factor on the learning rate of the gates", gt=0)
    warmup: int = _setting(1000, "steps of linear warm-up", ge=0)
    warmup_epochs: float = _setting(0.0, "epochs of linear warm-up, instead of `warmup` steps; 0 = those", ge=0)
    schedule: Literal["step", "cosine"] = _setting("step", "learning rate after the warm-up")
    min_lr_share: float = _setting(0.0, "cosine: share of the learning rate at which it ends", ge=0, le=1)
    lr_drops: tuple[float, ...] = _setting((0.75, 0.9167), "step: times lr_drop_factor at these shares of the epochs")
    lr_drop_factor: float = _setting(0.1, "factor of a drop", gt=0, lt=1)
    clip: float = _setting(0.0, "largest norm of the gradient; 0 = not clipped", ge=0)
    ema: float = _setting(0.0, "decay of the averaged weights; 0 = none kept", ge=0, lt=1)
    amp: Literal["auto", "bf16", "fp16", "off"] = _setting(
        "off", "mixed precision; auto = bf16 on CUDA; fp16 scales its gradients; gates stay in float32"
    )
    compile: bool = _setting(False, "fuse the dense parts of the backbone by torch.compile, in training only")

    select_loss_weight: float = _setting(0.01, "alpha of the selection loss (Eq. 10)", ge=0)
    select_threshold: float | None = _setting(None, "probability above which a token is selected", gt=0, lt=1)
    num_spa_blocks: int | None = _setting(None, "blocks with selection, counted from the last one", ge=0)
    attention: str | None = _setting(None, "attention of these blocks: spa, or window_gather (within Swin's windows)")
    selector: str | None = _setting(
        None, "what selects: gate, ground_truth (labels: an upper bound), topk, topk_windows, random or all"
    )
    select_ratio: float | None = _setting(None, "share that topk, topk_windows and random select", ge=0, le=1)
    topk_score: str | None = _setting(None, "by which topk ranks tokens: gate, or l2 (their norm)")
    keep_rate: float | None = _setting(
        None, "share of tokens that dynamicvit and evit keep where they prune", gt=0, le=1
    )
    noise: str | None = _setting(None, "noise on the gates in training: gumbel, logistic or none")
    score_propagation: bool | None = _setting(None, "raise a stage's scores by the finer stage's (Eq. 4)")
    scope: str | None = _setting(None, "which selected tokens see each other: image, image_region or image_window")
    packing: Literal["stream", "aligned"] | None = _setting(None, "packing in training: stream (paper) or aligned")
    bypass: str | None = _setting(None, "what unselected tokens get from attention: identity or proj")
    ffn: str | None = _setting(None, "tokens that take the feed-forward network: all or selected")
    rpb: str | None = _setting(None, "relative position bias: spatial, slot or none")
    drop_path: float | None = _setting(None, "largest rate of stochastic depth", ge=0, lt=1)
    gate_bias_init: float | None = _setting(
        None, "bias the gates start with; 0, or 4 beside weights of a pretrained Swin"
    )

    init: str = _setting("none", "starting weights: none, imagenet (torchvision's Swin), or a file (ours, or a Swin's)")
    teacher: str | None = _setting(
        None, "a trained dense model (run folder or weights file) whose tokens and logits are imitated too"
    )
    distill_weight: float = _setting(0.5, "weight of the teacher's two losses", ge=0)
    seed: int = _setting(0, "seed of everything random", ge=0)
    deterministic: bool = _setting(False, "only deterministic algorithms, also on CUDA")
    checkpoint_activations: bool = _setting(
        False,
        "compute blocks again in the backward pass instead of keeping what they computed: less memory, slower",
        running=True,
    )

    device: str = _setting("auto", "cpu, cuda, or auto", running=True)
    workers: int | None = _setting(None, "processes that load images; auto: 0 for small images", ge=0, running=True)
    eval_every: int = _setting(1, "epochs between validations; 0 = only at the end", ge=0)
    save_every: str = _setting("1ep", "a checkpoint every so often: 1ep, 500it", running=True)
    keep: int = _setting(3, "newest checkpoints that are kept", ge=1, running=True)
    log: tuple[str, ...] = _setting(
        ("csv",), "where metrics go: csv (always, with JSON lines), tensorboard (extra `log`)", running=True
    )
    log_every: int = _setting(20, "steps to a line of metrics", ge=1)
    max_bad_steps: int = _setting(5, "stop after this many non-finite losses in a row", ge=1)

    @model_validator(mode="before")
    @classmethod
    def _sample_layout(cls, values: Any) -> Any:
        """The format stands in the record, so that whoever opens the run's data again finds the same images."""
        if not isinstance(values, dict):
            return values
        given = values.get("data", "sample"), values.get("format", "auto"), values.get("task", "detect")
        return {**values, "format": format_for(*given)}

    @field_validator("res", "size", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        return tuple(value.lower().split("x")) if isinstance(value, str) else value

    @field_validator("res")
    @classmethod
    def _positive(cls, value: tuple[int, int]) -> tuple[int, int]:
        if min(value) < 32 or max(value) > 16384:
            raise ValueError("sides from 32 to 16384 pixels")
        return value

    @field_validator("batch", mode="before")
    @classmethod
    def _probed(cls, value: Any) -> Any:
        return 0 if value == "auto" else value

    @field_validator("log", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("log")
    @classmethod
    def _known_logs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted({*value} - {*LOGS}):
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(LOGS)}")
        return value

    @field_validator("scales", "crop_scales")
    @classmethod
    def _factors(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or min(value) <= 0 or max(value) > 4:
            raise ValueError("one or more factors above 0, at most 4")
        return value

    @field_validator("resized_crop_ratio")
    @classmethod
    def _ratios(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0.1 <= value[0] <= value[1] <= 10:
            raise ValueError("two ratios, 0.1 <= low <= high <= 10")
        return value

    @field_validator("crop_range", "resized_crop")
    @classmethod
    def _shares(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 < value[0] <= value[1] <= 1:
            raise ValueError("two factors, 0 < low <= high <= 1")
        return value

    @field_validator("save_every")
    @classmethod
    def _interval(cls, value: str) -> str:
        parse_interval(value)
        return value

    @model_validator(mode="after")
    def _a_gpu_each(self) -> TrainConfig:
        if self.gpus is not None and not len({*self.gpus}) == len(self.gpus) == self.devices:
            raise ValueError(f"gpus = {list(self.gpus)}: one of its own for each of {self.devices} devices")
        return self

    @property
    def world(self) -> int:
        """Processes of all machines."""
        return self.devices * self.nodes

    @property
    def passes(self) -> int:
        """Forward passes of a step, those of all processes."""
        return self.world * self.accum

    @property
    def backbone_overrides(self) -> dict[str, Any]:
        """The model settings that differ from the variant's."""
        given = {name: getattr(self, name) for name in _BACKBONE_FIELDS}
        given |= {"train_packing": self.packing, "drop_path": self.drop_path, "gate_bias_init": self.gate_bias_init}
        return {name: value for name, value in given.items() if value is not None}

    def to_toml(self) -> str:
        """The content of `config.toml`: every value with its meaning; what is None is left out."""
        table = tomlkit.table()
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value is not None:
                value = (
                    "x".join(map(str, value))
                    if name in ("res", "size")
                    else list(value)
                    if isinstance(value, tuple)
                    else value
                )
                table.add(name, tomlkit.item(value).comment(field.description or ""))
        document = tomlkit.document()
        document.add(tomlkit.comment("Written by spt train; `spt train --config config.toml` runs the job again."))
        document.add("train", table)
        return tomlkit.dumps(document)

    def changed_settings(self, other: TrainConfig) -> dict[str, tuple[Any, Any]]:
        """Fields in which the two differ and that decide the result: name -> (own, other's)."""
        return {
            name: (getattr(self, name), getattr(other, name))
            for name in type(self).model_fields
            if name not in RUNNING_FIELDS and getattr(self, name) != getattr(other, name)
        }


RUNNING_FIELDS = frozenset(
    name
    for name, field in TrainConfig.model_fields.items()
    if isinstance(field.json_schema_extra, dict) and field.json_schema_extra["running"]
) | {"preset", "max_steps"}
"""Fields that may change on resume: they say how long, where and how often, not what is computed."""


def make_config(values: Mapping[str, Any], *, where: str | None = None) -> TrainConfig:
    """A checked config. Raises UsageError for an unknown key (with a suggestion) or a value out of range."""
    for key in values:
        if key not in TrainConfig.model_fields:
            raise UsageError(f"unknown setting '{key}'", where=where, hint=did_you_mean(key, TrainConfig.model_fields))
    try:
        return TrainConfig(**values)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # of settings that do not fit together
            raise UsageError(first["msg"].removeprefix("Value error, "), where=where) from None
        key = str(first["loc"][0])
        message = f"{key} = {first.get('input')!r}: {first['msg'].removeprefix('Value error, ')}"
        raise UsageError(message, where=where, hint=TrainConfig.model_fields[key].description) from None


def read_config(path: Path) -> TrainConfig:
    """The settings in a run folder's `config.toml`. Raises UsageError when it cannot be read."""
    return make_config(read_toml(path), where=str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of the table `[train]` of a TOML file, dashes as underscores. Raises UsageError."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"cannot read: {error.strerror}", where=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"not TOML: {error}", where=str(path)) from error
    return {key.replace("-", "_"): value for key, value in content.get("train", {}).items()}


def preset_names() -> list[str]:
    """The presets there are."""
    return sorted(path.stem for path in _PRESETS.glob("*.toml"))


def load_preset(name: str) -> dict[str, Any]:
    """The values of a preset, its name included. Raises UsageError for a name that does not exist."""
    if name not in preset_names():
        raise UsageError(f"no preset '{name}'", hint=did_you_mean(name, preset_names()) or ", ".join(preset_names()))
    return {"preset": name, **read_toml(_PRESETS / f"{name}.toml")}


_SAMPLE_PRESETS = {"detect": "sample", "multilabel": "sample-multilabel", "classify": "sample-classify"}
_PRESETS_BY_TASK = {"detect": "detect-paper", "multilabel": "multilabel-voc", "classify": "classify-light"}


def preset_for(data: str, task: str = "detect") -> str:
    """The preset used when none is named: the sample has its own, real data gets the paper's of its task.

    Raises UsageError for a task that does not exist.
    """
    if task not in _PRESETS_BY_TASK:
        raise UsageError(f"no task '{task}'", hint=did_you_mean(task, _PRESETS_BY_TASK) or ", ".join(_PRESETS_BY_TASK))
    return (_SAMPLE_PRESETS if data == "sample" else _PRESETS_BY_TASK)[task]


def format_for(data: str, format: str, task: str) -> str:
    """The format in which a set is read: the built-in sample has a layout for images with one class each."""
    return "tiny-imagenet" if (data, format, task) == ("sample", "auto", "classify") else format


def parse_interval(text: str) -> tuple[int, str]:
    """`"1ep"` -> (1, "ep"), `"500it"` -> (500, "it"). Raises ValueError for anything else."""
    match = re.fullmatch(r"([1-9]\d*)(ep|it)", text)
    if match is None:
        raise ValueError("a number with ep (epochs) or it (steps), such as 1ep or 500it")
    return int(match[1]), match[2]
