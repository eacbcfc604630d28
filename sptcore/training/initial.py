"""The weights a run starts from: a file of ours, a Swin's or a ViT's, or torchvision's ImageNet weights."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sptcore.errors import DataError, EnvironmentFault, IntegrityError, UsageError
from sptcore.models.classifier import Classifier
from sptcore.models.variants import find_backbone
from sptcore.models.weights import load_foreign
from sptcore.runs import load_weights
from sptcore.tasks.base import ModelSpec

IMAGENET = "imagenet"
_HEADS = ("head", "heads.head", "head.fc")  # Swin and ours, torchvision's ViT, timm's Swin
_OF_CLASSES = re.compile(r"_predictor\.|^head\.")


def starts_from_swin(init: str) -> bool:
    """Whether the starting weights are a Swin's, which knows no gates."""
    path = Path(init)
    ours = path.suffix == ".safetensors" and path.is_file() and _is_ours(path)
    return init == IMAGENET or (init != "none" and path.is_file() and not ours)


def load_initial(model: nn.Module, spec: ModelSpec, init: str) -> str:
    """Overlay the weights `init` names; returns a line on what was loaded.

    A file of ours (heads whose shape follows the classes stay fresh when the classes differ, all heads when it learned
    another task), a file with the state
    dict of a Swin or a ViT for the backbone, or "imagenet": torchvision's of the same size, fetched on first use into
    torch's cache. A classifier takes the file's head too where the number of classes is the same. Raises DataError,
    IntegrityError or EnvironmentFault for weights that are missing, damaged, of another architecture or out of reach.
    """
    path = Path(init)
    if init != IMAGENET and path.suffix == ".safetensors" and _is_ours(path):
        return _load_ours(model, spec, path)
    state = _imagenet_state(spec) if init == IMAGENET else _foreign_state(path)
    report = load_foreign(find_backbone(model), state)
    return (
        f"backbone from {init}: {len(report.missing)} parameters stay fresh (gates, norms), {len(report.unused)} unused"
        f"{_load_head(model, state)}"
    )


@torch.no_grad()
def _load_head(model: nn.Module, state: dict[str, Tensor]) -> str:
    """Fill a classifier's head from another tool's where the classes are as many; what to say of it."""
    if not isinstance(model, Classifier):
        return ""
    weight, bias = (
        next((state[key] for head in _HEADS if (key := f"{head}.{name}") in state), None) for name in ("weight", "bias")
    )
    if weight is None or bias is None:
        return "; the head stays fresh, the file has none"
    if weight.shape != model.head.weight.shape:
        return f"; the head stays fresh: {len(weight)} classes there, {model.head.out_features} here"
    model.head.weight.copy_(weight)
    model.head.bias.copy_(bias)
    return f"; the head of {len(weight)} classes with it"


def _is_ours(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stream:
            return "spt" in (stream.metadata() or {})
    except (SafetensorError, OSError):
        return True  # load_weights says what is wrong with it


def _load_ours(model: nn.Module, spec: ModelSpec, path: Path) -> str:
    tensors, info = load_weights(path)
    if info.model.get("task") != spec.task:
        return _load_body(find_backbone(model), tensors, f"a model for {info.model.get('task')} in {path}")
    ours = model.state_dict()
    same_classes = info.model.get("categories") == [list(pair) for pair in spec.categories]
    fresh = [name for name in ours if not same_classes and _OF_CLASSES.search(name)]
    kept = [name for name in ours if name not in fresh]
    wrong = [name for name in kept if name not in tensors or tensors[name].shape != ours[name].shape]
    if wrong:
        raise IntegrityError(
            f"weights of {info.model.get('variant')} do not fit {spec.variant}: {wrong[0]} and {len(wrong) - 1} more",
            where=str(path),
            hint="train the same --model with the same --heads",
        )
    model.load_state_dict({**ours, **{name: tensors[name] for name in kept}})
    return f"weights from {path}" + (", class heads fresh (other classes)" if fresh else "")


def _load_body(body: nn.Module, tensors: dict[str, Tensor], source: str) -> str:
    """Fill a backbone from a model of ours that learned another task; norms of maps it did not use stay fresh."""
    first = next((name for name in tensors if "patch_embed." in name), "")
    prefix = first.partition("patch_embed.")[0]
    theirs = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    ours = body.state_dict()
    taken = {name: theirs[name] for name in ours if name in theirs and theirs[name].shape == ours[name].shape}
    wrong = [name for name in ours if name not in taken and not name.startswith("norms.")]
    if wrong:
        message = f"the backbone of {source} is another: {wrong[0]} and {len(wrong) - 1} more do not fit"
        raise IntegrityError(message, hint="train the same --model")
    body.load_state_dict({**ours, **taken})
    return f"backbone of {source}; {len(ours) - len(taken)} norms and the heads stay fresh"


def _foreign_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a .pth or .safetensors file of another tool; never executes what is in it."""
    if not path.is_file():
        raise DataError("no such weights file", where=str(path), hint="--init none starts from drawn weights")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise IntegrityError("not a file of plain weights", where=str(path)) from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise IntegrityError("not a state dict", where=str(path))
    return content


def _imagenet_state(spec: ModelSpec) -> dict[str, Tensor]:
    """Torchvision's Swin or ViT of the variant's size, trained on ImageNet-1K; its digest is checked when fetched."""
    from torchvision.models import get_model_weights

    size = spec.variant.rpartition("-")[2]
    names = {"b": "vit_b_16"} if spec.backbone.is_plain else {}
    if spec.backbone.takes_swin:
        names = {size: f"swin_{size}" for size in ("t", "s", "b")}
    if size not in names:
        hint = "for spt-t, spt-s, spt-b, their Swins, and vit-b"
        raise UsageError(f"there are no ImageNet weights for {spec.variant}", hint=hint)
    weights: Any = get_model_weights(names[size])
    try:
        return weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        url = weights.IMAGENET1K_V1.url
        hint = "fetch the file yourself and name it: --init FILE"
        raise EnvironmentFault(f"the weights cannot be fetched: {error}", where=url, hint=hint) from error
