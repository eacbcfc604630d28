"""Weights as safetensors: tensors, and a header that says which model they belong to.

The header's one key `spt` is JSON: schema, tool version, the model (task, backbone, heads, categories, resolution), and
the SHA-256 of the tensors, since the format itself would load a flipped bit without a word.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sptcore
from sptcore.errors import DataError, IntegrityError
from sptcore.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

_SCHEMA = "spt.weights/1"


@dataclass(frozen=True)
class WeightsInfo:
    """The header of a weights file. `model` is a ModelSpec as a plain dict, `notes` what else was worth saying."""

    path: Path
    model: dict[str, Any]
    tool_version: str
    sha256: str
    notes: dict[str, Any] = field(default_factory=dict)


def save_weights(
    path: Path,
    tensors: Mapping[str, Tensor],
    model: dict[str, Any],
    *,
    notes: dict[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Publish a state dict with its model description; `half` stores floating tensors as float16.

    Raises EnvironmentFault (disk, permission) with the earlier file untouched.
    """
    import torch
    from safetensors.torch import save

    def stored(tensor: Tensor) -> Tensor:
        tensor = tensor.detach().to("cpu")
        if half and tensor.is_floating_point():
            tensor = tensor.to(torch.float16)
        return tensor.clone(memory_format=torch.contiguous_format)

    kept = {name: stored(tensor) for name, tensor in sorted(tensors.items())}
    header = {
        "schema": _SCHEMA,
        "tool_version": sptcore.__version__,
        "model": model,
        "notes": notes or {},
        "sha256": _digest(kept),
    }
    write_atomically(path, save(kept, metadata={"spt": json.dumps(header, sort_keys=True)}))


def weights_info(path: Path) -> WeightsInfo:
    """The header alone, without the tensors. Raises DataError (missing) or IntegrityError (not our weights)."""
    from safetensors import SafetensorError, safe_open

    path = _existing(path)
    try:
        with safe_open(path, framework="numpy") as stream:
            metadata = stream.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise IntegrityError(f"not a safetensors file: {error}", where=str(path)) from error
    return _parse_header(path, metadata)


def load_weights(path: Path) -> tuple[dict[str, Tensor], WeightsInfo]:
    """The tensors (on the CPU, as stored) and the header.

    Raises DataError when the file is missing, IntegrityError when it is damaged or has no header of ours.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    info = weights_info(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise IntegrityError(f"not a safetensors file: {error}", where=str(path)) from error
    if _digest(tensors) != info.sha256:
        raise IntegrityError("the weights are damaged: their SHA-256 is another", where=str(path))
    return tensors, info


def _existing(path: Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise DataError("no such weights file", where=str(path))
    return path


def _parse_header(path: Path, metadata: Mapping[str, str]) -> WeightsInfo:
    hint = "weights of other tools are read by: spt train --init FILE"
    try:
        header = json.loads(metadata["spt"])
        schema, model = header["schema"], header["model"]
        info = WeightsInfo(path, model, str(header["tool_version"]), str(header["sha256"]), header.get("notes", {}))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise IntegrityError("weights without a header of spt", where=str(path), hint=hint) from error
    if schema != _SCHEMA or not isinstance(model, dict):
        raise IntegrityError(f"weights of schema {schema!r}, this version reads {_SCHEMA!r}", where=str(path))
    return info


def _digest(tensors: Mapping[str, Tensor]) -> str:
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    return digest.hexdigest()
