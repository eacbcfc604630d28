"""The self-test on a GPU: what spt runs there, against the same in float64 on the CPU."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from sptcore.models.attention.spa import SelectPackAttention
from sptcore.models.block import Block
from sptcore.models.config import BackboneConfig
from sptcore.models.selectors import GateSelector, TokenContext
from sptcore.ops.attend_selected import without_waiting
from sptcore.ops.backend import kernel_obstacle
from sptcore.ops.packed_attention import packed_attention
from sptcore.ops.packing import plan_packing
from sptcore.profiling.forced import ForcedSelector

DIM, HEADS, GRID = 32, 2, (2, 28, 28)


def run_on_gpu(device: torch.device) -> dict[str, object]:
    """Our kernels and a matrix product on `device`; facts with `works` and a `message`.

    Packed attention with its gradients, and selecting blocks with each bypass in an evaluation that never waits.
    """
    generator = torch.Generator().manual_seed(0)
    attention = _attention_error(device, generator)
    blocks = max(_block_error(device, bypass) for bypass in ("identity", "proj", "skip_block"))
    left, right = (torch.randn(256, 256, generator=generator, dtype=torch.float64) for _ in range(2))
    product = left.to(device, torch.bfloat16) @ right.to(device, torch.bfloat16)
    matrix = _difference(product, left @ right)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    message = (
        f"{name}: packed attention differs by {attention:.1e}, selecting blocks by {blocks:.1e} (float32), "
        f"a product by {matrix:.1e} (bfloat16)"
    )
    works = attention < 1e-2 and blocks < 1e-2 and matrix < 5e-2
    return {"works": works, "message": message, "attention": attention, "blocks": blocks, "matrix": matrix}


def _attention_error(device: torch.device, generator: torch.Generator) -> float:
    mask = torch.rand(GRID, generator=generator) < 0.3
    tokens = int(mask.sum())
    inputs = [torch.randn(tokens, HEADS, 16, generator=generator, dtype=torch.float64) for _ in range(3)]
    expected = _attend(inputs, mask)
    found = _attend([value.to(device, torch.float32) for value in inputs], mask.to(device))
    return max(_difference(b, a) for a, b in zip(expected, found, strict=True))


def _attend(inputs: list[Tensor], mask: Tensor) -> list[Tensor]:
    """Output of packed attention and the gradients of query, key and value."""
    leaves = query, key, value = [tensor.clone().requires_grad_() for tensor in inputs]
    packing = plan_packing(mask, 7, 3, mode="stream")
    output = packed_attention(query, key, value, packing)
    output.square().sum().backward()
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@torch.no_grad()
def _block_error(device: torch.device, bypass: str) -> float:
    """The gate's logits and the tokens of a block of random weights in an evaluation that never waits for the device.

    Where the kernels cannot run, the ordinary road is compared.
    """
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(GRID, generator=generator) < 0.3
    config = BackboneConfig(bypass=bypass)
    selector = ForcedSelector(GateSelector(DIM, config), mask)
    attention = SelectPackAttention(DIM, HEADS, 3, config)
    block = Block(DIM, selector=selector, attention=attention, bypass=bypass).double().eval()
    for weight in block.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5)
    x = torch.randn(*GRID, DIM, generator=generator, dtype=torch.float64)
    expected = block(x, TokenContext(torch.ones_like(mask)))
    selector.mask = mask.to(device)
    block = block.to(device, torch.float32)
    obstacle = kernel_obstacle(device.type, device.index)
    with without_waiting() if obstacle is None else nullcontext():
        found = block(x.to(device, torch.float32), TokenContext(torch.ones_like(selector.mask)))
    return max(
        _difference(found.tokens, expected.tokens),
        _difference(found.selection.logits, expected.selection.logits),
    )


def _difference(found: Tensor, exact: Tensor) -> float:
    """The largest difference, relative to the largest magnitude."""
    return float((found.cpu().double() - exact).abs().max() / exact.abs().max())
