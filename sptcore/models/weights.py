"""Pretrained weights of Swin and ViT for our backbones: state dicts of torchvision, official Swin, timm and DeiT."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sptcore.errors import IntegrityError
from sptcore.models.bodies import find_backbone
from sptcore.models.vit.model import ViT

_BUFFERS = ("relative_position_index", "attn_mask")
_NEW = re.compile(r"(^|\.)(gate|selector|fast|predictors|norms\.\d|head)\.")
_TORCHVISION_VIT = {
    "class_token": "cls_token",
    "conv_proj.": "patch_embed.proj.",
    "encoder.pos_embedding": "pos_embed",
    "encoder.ln.": "norm.",
    ".ln_1.": ".norm1.",
    ".ln_2.": ".norm2.",
    ".self_attention.in_proj_": ".attn.qkv.",
    ".self_attention.out_proj.": ".attn.proj.",
    ".mlp.0.": ".mlp.fc1.",
    ".mlp.3.": ".mlp.fc2.",
    ".mlp.linear_1.": ".mlp.fc1.",
    ".mlp.linear_2.": ".mlp.fc2.",
    "heads.head.": "head.",
}


@dataclass(frozen=True)
class LoadReport:
    """Which of our parameters kept their fresh values (`missing`), and which entries of the file found no use."""

    missing: tuple[str, ...]
    unused: tuple[str, ...]


def load_torchvision_swin(model: nn.Module, state_dict: Mapping[str, Tensor]) -> LoadReport:
    """Load torchvision's swin_t, swin_s or swin_b into a backbone, or into a Classifier with its head.

    The final norm becomes that of stage 4. Gates and the norms of the other stages are left as they are and reported.
    Raises IntegrityError when the weights are of another size or architecture; nothing is changed then.
    """
    return _load(model, state_dict, _from_torchvision, "Swin")


def load_official_swin(model: nn.Module, state_dict: Mapping[str, Tensor]) -> LoadReport:
    """As `load_torchvision_swin`, for the key names of microsoft/Swin-Transformer (and the stage norms of Swin-det)."""
    return _load(model, state_dict, _from_official, "Swin")


def load_timm_swin(model: nn.Module, state_dict: Mapping[str, Tensor]) -> LoadReport:
    """As `load_torchvision_swin`, for the key names of timm since 0.9, whose merging stands first in its stage.

    Older timm has the names of `load_official_swin`.
    """
    return _load(model, state_dict, _from_timm_swin, "Swin")


def load_torchvision_vit(model: nn.Module, state_dict: Mapping[str, Tensor]) -> LoadReport:
    """Load torchvision's vit_b_16 into a ViT, or into a Classifier with its head; predictors are left as they are.

    Raises IntegrityError when the weights are of another size or architecture; nothing is changed then.
    """
    return _load(model, state_dict, _from_torchvision_vit, "ViT")


def load_timm_vit(model: nn.Module, state_dict: Mapping[str, Tensor]) -> LoadReport:
    """As `load_torchvision_vit`, for the key names of timm and DeiT, which are ours."""
    return _load(model, state_dict, str, "ViT")


def load_foreign(model: nn.Module, state_dict: Mapping[str, Tensor]) -> LoadReport:
    """Load a Swin's or a ViT's weights, as the model's backbone is one or the other, under whose names they may be."""
    if isinstance(find_backbone(model), ViT):
        torchvision = any(key.startswith("encoder.") for key in state_dict)
        return (load_torchvision_vit if torchvision else load_timm_vit)(model, state_dict)
    if any(key.startswith("features.") for key in state_dict):
        return load_torchvision_swin(model, state_dict)
    merging = {key.split(".")[1] for key in state_dict if re.match(r"layers\.\d+\.downsample\.", key)}
    return (load_timm_swin if merging and "0" not in merging else load_official_swin)(model, state_dict)


def _from_torchvision_vit(key: str) -> str:
    key = re.sub(r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1.", key)
    for theirs, ours in _TORCHVISION_VIT.items():
        key = key.replace(theirs, ours)
    return key


def _from_torchvision(key: str) -> str:
    key = key.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
    match = re.fullmatch(r"features\.(\d+)\.(.+)", key)
    if match is None:
        return _from_official(key)
    level, rest = int(match[1]), match[2]
    if level == 0:
        return "patch_embed." + {"0": "proj", "2": "norm"}.get(rest[0], "absent") + rest[1:]
    return f"stages.{(level - 1) // 2}.blocks.{rest}" if level % 2 else f"stages.{level // 2}.downsample.{rest}"


def _from_official(key: str) -> str:
    key = re.sub(r"^layers\.(\d+)\.blocks\.", r"stages.\1.blocks.", key)
    key = re.sub(r"^layers\.(\d+)\.downsample\.", lambda match: f"stages.{int(match[1]) + 1}.downsample.", key)
    return re.sub(r"^norm(\d?)\.", lambda match: f"norms.{match[1] or 3}.", key)


def _from_timm_swin(key: str) -> str:
    key = re.sub(r"^layers\.(\d+)\.downsample\.", r"stages.\1.downsample.", key)
    return _from_official(key).replace("head.fc.", "head.", 1)


def _load(model: nn.Module, state_dict: Mapping[str, Tensor], rename: Callable[[str], str], kind: str) -> LoadReport:
    prefix = "" if find_backbone(model) is model else "backbone."
    ours = dict(model.state_dict())
    matched: dict[str, Tensor] = {}
    unused: list[str] = []
    for key, tensor in state_dict.items():
        if key.endswith(_BUFFERS):
            continue
        name = rename(key)
        name = name if name.startswith("head.") else prefix + name
        if name in ours:
            matched[name] = _checked(key, tensor, ours[name])
        else:
            unused.append(key)
    missing = [name for name in ours if name not in matched]
    _refuse_strangers(missing, unused, kind)
    with torch.no_grad():
        for name, tensor in matched.items():
            ours[name].copy_(tensor)
    return LoadReport(tuple(missing), tuple(unused))


def _checked(key: str, tensor: Tensor, ours: Tensor) -> Tensor:
    if tensor.shape != ours.shape:
        raise IntegrityError(
            f"{key} is {tuple(tensor.shape)} in the weights and {tuple(ours.shape)} in this backbone",
            hint="choose the backbone of the same size, window and number of classes",
        )
    return tensor


def _refuse_strangers(missing: list[str], unused: list[str], kind: str) -> None:
    """What selects, a fast path, stage norms and a head may stay fresh; a head, norms and bias tables may go unused."""
    lost = [name for name in missing if not _NEW.search(name)]
    strangers = [key for key in unused if not re.search(r"^(head|norm\d?)\.|relative_position_bias_table$", key)]
    if lost or strangers:
        raise IntegrityError(
            f"these are not the weights of a {kind} of this size: {len(lost)} parameters would stay fresh"
            f" ({', '.join(lost[:3])}), {len(strangers)} entries have no place ({', '.join(strangers[:3])})"
        )
