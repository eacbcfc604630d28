"""What a plan would take: steps, time and disk, extrapolated by MACs; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from sptcore.errors import DataError
from sptcore.models.variants import VARIANTS, backbone_config, build_backbone
from sptcore.plans.engine import Request
from sptcore.plans.folder import Folder
from sptcore.plans.outcome import device_name, whole_macs
from sptcore.plans.schema import RowPlan, SetPlan
from sptcore.plans.sets import FoundSet, count_images, find_sets, where_to_get
from sptcore.profiling.macs import backbone_macs, total
from sptcore.progress import SILENT, Progress
from sptcore.runs.device import pick_device
from sptcore.tasks import TASKS
from sptcore.tasks.base import ModelSpec
from sptcore.training.config import TrainConfig

CLASSES = {"coco": 80, "bdd": 10, "bdd-ins_seg": 8, "voc": 20, "tiny-imagenet": 200}
WITH_MASKS = {"coco"}
FORWARDS = 3  # forward passes that a training step costs: backward takes two
TRIAL_SIDE = 224
CHECKPOINTS, WEIGHTS, STATE_BYTES, WEIGHT_BYTES = 2, 2, 12, 4  # kept of a run; a parameter and its two moments


@dataclass(frozen=True)
class RowEstimate:
    """What a row takes. `images`: training images, an upper bound where `at_most`; `gmacs` of one image forward, all
    tokens selected; `steps`, `seconds` and `disk_mb` of all runs that are not `finished`.
    """

    row: str
    model: str
    data: str
    seeds: int
    finished: int
    images: int
    at_most: bool
    gmacs: float
    params_m: float
    steps: int
    seconds: float
    disk_mb: float


@dataclass(frozen=True)
class Estimate:
    """The rows' estimates, how they were come by, and the sets that are missing: title -> what to do."""

    rows: tuple[RowEstimate, ...]
    basis: str
    missing: dict[str, str]

    @property
    def seconds(self) -> float:
        """All rows together."""
        return sum(row.seconds for row in self.rows)

    @property
    def disk_mb(self) -> float:
        """All rows together."""
        return sum(row.disk_mb for row in self.rows)


def estimate(request: Request, *, progress: Progress = SILENT) -> Estimate:
    """Time two steps of a small backbone on the device and extrapolate to every row that is not finished."""
    rows, plan = request.chosen_rows, request.plan
    wanted = {name: plan.data[name] for name in dict.fromkeys(row.data for row in rows)}
    found, missing = find_sets(wanted, data_root=request.data_root, scale=request.scale, progress=progress)
    device = pick_device(request.device)
    size = plan.variant(rows[0], request.scale).rpartition("-")[2]
    speed, trial = _speed(f"swin-{size}" if f"swin-{size}" in VARIANTS else "swin-t", device)
    images = {name: _images(request, found.get(name), wanted[name]) for name in wanted}
    kinds = {name: one.source.kind for name, one in found.items()}
    estimates = tuple(_row(request, row, images[row.data], kinds.get(row.data), speed) for row in rows)
    basis = (
        f"extrapolated by MACs: a training image is taken as {FORWARDS} forward passes with every token selected, at "
        f"{speed / 1e9:.1f} GMACs a second, seen in {trial} on {device_name(device)}. Not counted: loading images, "
        "validation, cutting the sets, a device that is used better by larger batches. Disk: checkpoints and weights."
    )
    return Estimate(estimates, basis, {wanted[name].title: _cure(error) for name, error in missing.items()})


def _cure(error: DataError) -> str:
    return f"{error.message}; {error.where}; {where_to_get(error)}"


def _images(request: Request, found: FoundSet | None, plan: SetPlan) -> tuple[int, bool]:
    """Training images and whether that is only an upper bound."""
    limit = request.plan.scale(request.scale).limit
    if found is not None:
        return count_images(found, limit=limit), False
    return min(plan.official.get("train", 0), limit or plan.official.get("train", 0)), True


def _row(request: Request, row: RowPlan, images: tuple[int, bool], kind: str | None, speed: float) -> RowEstimate:
    config = request.plan.config(row, request.scale)
    spec = stand_in_spec(config, request.plan.data[row.data], kind)
    params = count_params(spec)
    macs = whole_macs(spec, (max(config.res), min(config.res)), 1.0)[1]
    folder = Folder(request.folder)
    seeds = request.chosen_seeds
    finished = sum((folder.run_home(row.key, seed) / "result.json").is_file() for seed in seeds)
    left = len(seeds) - finished
    per_epoch = -(-images[0] // (config.batch * config.accum))
    steps = min(config.epochs * per_epoch, config.max_steps or config.epochs * per_epoch)
    seconds = steps * min(config.batch * config.accum, images[0]) * FORWARDS * macs / speed
    averaged = WEIGHT_BYTES if config.ema else 0
    per_param = CHECKPOINTS * (STATE_BYTES + averaged) + WEIGHTS * WEIGHT_BYTES + averaged
    return RowEstimate(
        row.key,
        config.model,
        row.data,
        len(seeds),
        finished,
        *images,
        round(macs / 1e9, 3),
        round(params / 1e6, 3),
        left * steps,
        round(left * seconds, 1),
        round(left * params * per_param / 2**20, 1),
    )


def stand_in_spec(config: TrainConfig, plan: SetPlan, kind: str | None = None) -> ModelSpec:
    """The model of a row as it would be on the official data, which need not be here; `kind`: of their labels."""
    outlined = kind == "ins_seg"
    classes = CLASSES["bdd-ins_seg" if outlined else plan.source]
    return ModelSpec(
        task=config.task,
        variant=config.model,
        backbone=backbone_config(config.model, **config.backbone_overrides),
        heads=TASKS[config.task].heads_config(config.heads, config.model),
        categories=tuple((number, str(number)) for number in range(1, classes + 1)),
        masks=outlined or plan.source in WITH_MASKS,
        resolution=(max(config.res), min(config.res)),
    )


def count_params(spec: ModelSpec) -> int:
    """Parameters of a model, without memory for their values."""
    with torch.device("meta"):
        model = TASKS[spec.task].build_model(spec)
    return sum(parameter.numel() for parameter in model.parameters())


def _speed(model: str, device: torch.device) -> tuple[float, str]:
    """MACs a second of a training step (FORWARDS forward passes) of a dense backbone, and what was timed."""
    config = backbone_config(model)
    backbone = build_backbone(config).to(device).train()
    batch = 1 if device.type == "cpu" else 16
    pixels = torch.randn(batch, 3, TRIAL_SIDE, TRIAL_SIDE, device=device)
    seconds = min(_timed(backbone, pixels) for _ in range(2))
    macs = total(backbone_macs(config, TRIAL_SIDE, TRIAL_SIDE))[0] * batch * FORWARDS
    return macs / seconds, f"the faster of two steps of {model} at {TRIAL_SIDE}x{TRIAL_SIDE}, batch {batch}"


def _timed(backbone: torch.nn.Module, pixels: torch.Tensor) -> float:
    started = time.perf_counter()
    loss = torch.stack(list(_means(backbone, pixels))).sum()
    loss.backward()
    if pixels.is_cuda:
        torch.cuda.synchronize(pixels.device)
    return time.perf_counter() - started


def _means(backbone: torch.nn.Module, pixels: torch.Tensor) -> Iterator[torch.Tensor]:
    return (level.float().square().mean() for level in backbone(pixels).maps.values())
