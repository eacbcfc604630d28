"""The models spt knows: parameters, cost at a resolution, where each comes from, and weights that fit it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sptcore.errors import SptError, UsageError, did_you_mean
from sptcore.models.config import STRIDES
from sptcore.models.variants import VARIANTS, AnyBackboneConfig, backbone_config, build_backbone
from sptcore.models.vit.config import STAGE
from sptcore.profiling.macs import StageCost, backbone_macs, stage_grids
from sptcore.runs import runs_root, weights_info

ORIGINS = {
    "spt": "Select and Pack Transformer, arXiv 2410.23608",
    "swin": "Swin Transformer, arXiv 2103.14030",
    "dynamicswin": "Swin with two feed-forward networks, arXiv 2207.01580",
    "dat": "Deformable Attention Transformer, arXiv 2201.00520",
    "topk-windows": "half of the windows, by norm, after SparseViT, arXiv 2303.17605",
    "topk-tokens": "ours: SPT with half of the tokens, by gate",
    "swin-gt": "Swin among the object tokens of a window, by labels: an upper bound",
    "spt-gt": "SPT on the object tokens, by labels: an upper bound",
    "vit": "Vision Transformer, arXiv 2010.11929",
    "vit-gt": "ViT on the object tokens, by labels: an upper bound",
    "dynamicvit": "ViT with predicted pruning, arXiv 2106.02034",
    "evit": "ViT pruned by class attention, arXiv 2202.07800",
    "spt-nano": "ours, for the built-in sample",
    "swin-nano": "ours, for the built-in sample",
}
# Weights of torchvision (get_model_weights): file, megabytes, top-1 on ImageNet-1K
PRETRAINED = {
    "t": ("Swin_T_Weights.IMAGENET1K_V1", "swin_t-704ceda3.pth", 108, 81.474),
    "s": ("Swin_S_Weights.IMAGENET1K_V1", "swin_s-5e29d889.pth", 190, 83.196),
    "b": ("Swin_B_Weights.IMAGENET1K_V1", "swin_b-68c6b09e.pth", 335, 83.582),
}
PRETRAINED_VIT = {"b": ("ViT_B_16_Weights.IMAGENET1K_V1", "vit_b_16-c867db91.pth", 330, 81.072)}


@dataclass(frozen=True)
class ModelRow:
    """One backbone: `params` in all, `macs` at the given ratios of selected tokens (what runs), at one resolution."""

    name: str
    family: str
    params: int
    spa_blocks: int
    blocks: int
    macs: dict[float, int]
    origin: str


@dataclass(frozen=True)
class StageRow:
    """One stage of a backbone: its grid of tokens (columns, rows), its blocks, its cost at the given ratios."""

    stage: int
    stride: int
    grid: tuple[int, int]
    channels: int
    heads: int
    blocks: int
    spa_blocks: int
    params: int
    macs: dict[float, int]


@dataclass(frozen=True)
class WeightsRow:
    """Weights that fit a model: `kind` pretrained (on ImageNet-1K, of torchvision) or run; `path` None: not on disk."""

    model: str
    kind: str
    name: str
    megabytes: float
    path: Path | None
    note: str


def family_of(name: str) -> str:
    """What stands before the last dash: `spt-t` is of family `spt`, `topk-windows-t` of family `topk-windows`."""
    return name.rpartition("-")[0]


def models_of(family: str | None = None) -> list[str]:
    """The names in VARIANTS, of one family or all. Raises UsageError for a family that does not exist."""
    families = {family_of(name) for name in VARIANTS}
    if family is not None and family not in families:
        known = ", ".join(sorted(families))
        raise UsageError(f"no family {family!r}; there are {known}", hint=did_you_mean(family, families))
    return [name for name in VARIANTS if family in (None, family_of(name))]


def list_models(
    names: Sequence[str], *, width: int, height: int, ratios: Sequence[float] = (1.0, 0.25)
) -> list[ModelRow]:
    """One row a model, for images of `width` x `height` pixels."""
    rows = []
    for name in names:
        config = backbone_config(name)
        costs = _costs(config, width, height, ratios)
        macs = {ratio: sum(stage.macs for stage in stages) for ratio, stages in costs.items()}
        origin = ORIGINS.get(name) or ORIGINS[family_of(name)]
        params = sum(count_params(config))
        rows.append(ModelRow(name, family_of(name), params, config.num_spa_blocks, sum(config.depths), macs, origin))
    return rows


def list_stages(name: str, *, width: int, height: int, ratios: Sequence[float] = (1.0, 0.25)) -> list[StageRow]:
    """One row a stage of model `name`; the stem counts to stage 1, norms and the gate to the stage before."""
    config = backbone_config(name)
    costs = _costs(config, width, height, ratios)
    params = count_params(config)
    rows = []
    for index, (rows_high, columns) in enumerate(stage_grids(height, width)):
        if not config.depths[index]:  # of a ViT only one has blocks
            continue
        macs = {ratio: sum(one.macs for one in stages if one.stage == index + 1) for ratio, stages in costs.items()}
        rows.append(
            StageRow(
                stage=index + 1,
                stride=STRIDES[index],
                grid=(columns, rows_high),
                channels=config.channels[index],
                heads=config.num_heads[index],
                blocks=config.depths[index],
                spa_blocks=config.spa_blocks[index],
                params=params[index],
                macs=macs,
            )
        )
    return rows


def _costs(config: AnyBackboneConfig, width: int, height: int, ratios: Sequence[float]) -> dict[float, list[StageCost]]:
    """The stages at each ratio; a model whose own settings fix what it selects costs the same at all."""
    return {ratio: backbone_macs(config, height, width, config.fixed_ratios or ratio) for ratio in ratios}


def count_params(config: AnyBackboneConfig) -> list[int]:
    """Parameters by stage, counted on a model without memory (the meta device)."""
    with torch.device("meta"):
        backbone = build_backbone(config)
    counts = [0, 0, 0, 0]
    for name, parameter in backbone.named_parameters():
        counts[_stage_of(name, config)] += parameter.numel()
    return counts


def _stage_of(name: str, config: AnyBackboneConfig) -> int:
    if config.is_plain:
        return STAGE - 1
    room, _, rest = name.partition(".")
    if room in ("stages", "norms"):
        return int(rest.partition(".")[0])
    return (config.entry_stage or 1) - 1 if room == "gate" else 0


def list_weights(names: Sequence[str]) -> list[WeightsRow]:
    """Weights for these models: torchvision's Swin or ViT of their size, then those of your own runs, newest first."""
    rows = []
    for name in names:
        if pretrained := _pretrained(name):
            title, file, megabytes, top1 = pretrained
            path = torch_cache() / file
            note = f"ImageNet-1K top-1 {top1:.1f}; spt train --init FILE"
            rows.append(WeightsRow(name, "pretrained", title, megabytes, path if path.is_file() else None, note))
    return rows + [row for row in run_weights() if row.model in names]


def _pretrained(name: str) -> tuple[str, str, int, float] | None:
    """The entry of torchvision's weights that a model can start from, None where there are none."""
    config, size = backbone_config(name), name.rpartition("-")[2]
    if config.is_plain:
        return PRETRAINED_VIT.get(size)
    return PRETRAINED.get(size) if config.takes_swin else None


def torch_cache() -> Path:
    """Where torchvision keeps the weights it has downloaded; spt never downloads any."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "torch"
    return Path(home, "hub", "checkpoints")


def run_weights() -> list[WeightsRow]:
    """The best (else the averaged, else the last) weights of every training run, newest run first."""
    rows = []
    for folder in sorted((runs_root() / "train").glob("*/weights"), reverse=True):
        if folder.parent.is_symlink():  # `latest` is one of the others
            continue
        path = next(
            (path for kind in ("best", "ema", "last") if (path := folder / f"{kind}.safetensors").is_file()), None
        )
        if path is None:
            continue
        try:
            info = weights_info(path)
        except SptError as error:
            rows.append(WeightsRow("?", "run", folder.parent.name, _megabytes(path), path, str(error.message)))
            continue
        variant = str(info.model.get("variant", "?"))
        rows.append(
            WeightsRow(variant, "run", folder.parent.name, _megabytes(path), path, str(info.model.get("task", "")))
        )
    return rows


def _megabytes(path: Path) -> float:
    return round(path.stat().st_size / 1e6, 1)
