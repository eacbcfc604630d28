"""What a model costs, by counting the operations it runs: torch's FlopCounterMode, halved, since it counts 2 a MAC."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from sptcore.errors import EnvironmentFault
from sptcore.models.variants import AnyBackbone
from sptcore.profiling.forced import forced_selection
from sptcore.profiling.macs import DetectorShape, stage_grids


@dataclass(frozen=True)
class Counted:
    """MACs of one forward pass: in all, by module (`"stages.2.blocks.0"`, children included), by operation."""

    macs: int
    by_module: Mapping[str, int]
    by_op: Mapping[str, int]


def count_macs(call: Callable[[], object]) -> Counted:
    """The MACs of what `call` runs in eager mode. Raises EnvironmentFault when this version of torch counts wrong."""
    check_counter()
    return _count(call)


def _count(call: Callable[[], object]) -> Counted:
    with FlopCounterMode(display=False, custom_mapping=_missing_formulas()) as counter:
        call()
    flops: dict[str, Mapping[Any, int]] = dict(counter.get_flop_counts())
    operations = {str(operation): count // 2 for operation, count in flops.pop("Global", {}).items()}
    modules = {name.partition(".")[2]: sum(counts.values()) // 2 for name, counts in flops.items() if "." in name}
    return Counted(counter.get_total_flops() // 2, modules, operations)


def _missing_formulas() -> dict[Any, Callable[..., int]]:
    """Formulas for the CPU's fused attention where this torch has none and would count 0 (2.13 and 2.14)."""
    aten = torch.ops.aten

    def forward(query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **named: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(grad: Any, query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **named: Any) -> int:
        return sdpa_backward_flop_count(grad, query, key, value)

    formulas = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    return {operation: formula for operation, formula in formulas.items() if operation not in flop_registry}


@cache
def check_counter() -> None:
    """Count a linear layer, a convolution, a batched product and masked attention of known cost on the CPU.

    Raises EnvironmentFault naming the one that this version of torch counts wrong.
    """
    rows, image, heads = torch.ones(5, 8), torch.ones(1, 3, 8, 8), torch.ones(2, 4, 7, 16)
    known: dict[str, tuple[int, Callable[[], object]]] = {
        "linear": (5 * 8 * 6, lambda: nn.functional.linear(rows, torch.ones(6, 8), torch.ones(6))),
        "convolution": (2 * 2 * 5 * 48, lambda: nn.functional.conv2d(image, torch.ones(5, 3, 4, 4), stride=4)),
        "batched product": (8 * 7 * 7 * 16, lambda: torch.matmul(heads, heads.transpose(-1, -2))),
        "attention": (
            2 * 8 * 7 * 7 * 16,
            lambda: nn.functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=torch.zeros(2, 1, 7, 7)),
        ),
    }
    for name, (macs, call) in known.items():
        counted = _count(call).macs
        if counted != macs:
            raise EnvironmentFault(
                f"torch {torch.__version__} counts {counted} MACs where a test {name} has {macs}",
                hint="use the analytic figures: spt profile prints them beside the counted ones",
            )


def count_backbone(backbone: AnyBackbone, images: Tensor, masks: Sequence[Tensor] | None = None) -> Counted:
    """The MACs of `backbone` on `images` (B, 3, H, W), selecting `masks` where given (see `forced_selection`).

    Whole grids are counted. An evaluation on a CPU works through windows in pieces, and each piece at the border adds a
    pad row: less than a thousandth. A backbone without selecting blocks is counted on the meta device, where nothing is
    computed.
    """
    if not backbone.config.num_spa_blocks:
        return _count_with(backbone, "meta", torch.empty(images.shape, device="meta"))
    with forced_selection(backbone, masks) if masks is not None else nullcontext():
        return _count_with(backbone, images.device, images)


def _count_with(module: nn.Module, device: torch.device | str, *inputs: Any) -> Counted:
    """The MACs of `module` with detached weights on `device`; its own stay where they are.

    Gradients are enabled, though no tensor asks for one, since without them the backbone works in pieces.
    """
    state = {name: one.detach().to(device) for name, one in (*module.named_parameters(), *module.named_buffers())}
    with torch.enable_grad():
        return count_macs(lambda: torch.func.functional_call(module, state, inputs))


def count_heads(detector: nn.Module, shape: DetectorShape, images: Tensor) -> dict[str, Counted]:
    """The MACs of everything but the backbone of a detector of `sptcore.tasks.detector`, by part.

    Each part runs on the meta device with as many regions as its heads let through (1000 and 100 with the standard
    ones), since what untrained weights propose varies.
    """
    parts: Any = detector
    heads, channels = shape.heads, parts.backbone.body.config.channels
    batch, height, width = len(images), -(-images.shape[-2] // 32) * 32, -(-images.shape[-1] // 32) * 32
    grids = stage_grids(height, width)
    maps = OrderedDict(
        (level, torch.empty(batch, channels[int(level)], *grids[int(level)], device="meta"))
        for level in parts.backbone.entering
    )
    sizes = [grids[int(level)] for level in heads.levels]
    pyramid = parts.backbone.fpn
    with torch.device("meta"):
        levels = [torch.empty(batch, heads.fpn_channels, *grid) for grid in _pyramid_grids(sizes, heads.pool_level)]
        pooled = torch.empty(batch * heads.post_nms[1], heads.fpn_channels, heads.box_size, heads.box_size)
        masked = torch.empty(batch * heads.detections, heads.fpn_channels, heads.mask_size, heads.mask_size)
    roi = parts.roi_heads
    counted = {
        "fpn": _count_with(pyramid, "meta", maps),
        "rpn": _count_with(parts.rpn.head, "meta", levels),
        "box_head": _count_with(nn.Sequential(roi.box_head, roi.box_predictor), "meta", pooled),
    }
    if shape.masks:
        counted["mask_head"] = _count_with(nn.Sequential(roi.mask_head, roi.mask_predictor), "meta", masked)
    return counted


def _pyramid_grids(grids: list[tuple[int, int]], pool_level: bool) -> list[tuple[int, int]]:
    height, width = grids[-1]
    return [*grids, (-(-height // 2), -(-width // 2))] if pool_level else grids
