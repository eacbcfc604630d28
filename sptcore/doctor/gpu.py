"""The self-test on a GPU: what spt runs there, against the same in float64 on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from sptcore.ops.packed_attention import packed_attention
from sptcore.ops.packing import plan_packing


def run_on_gpu(device: torch.device) -> dict[str, object]:
    """Packed attention with its gradients and a matrix product on `device`; facts with `works` and a `message`."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(2, 28, 28, generator=generator) < 0.3
    tokens = int(mask.sum())
    inputs = [torch.randn(tokens, 2, 16, generator=generator, dtype=torch.float64) for _ in range(3)]
    expected = _attend(inputs, mask)
    found = _attend([value.to(device, torch.float32) for value in inputs], mask.to(device))
    pairs = zip(expected, found, strict=True)
    attention = max(float((a - b.cpu().double()).abs().max() / a.abs().max()) for a, b in pairs)
    left, right = (torch.randn(256, 256, generator=generator, dtype=torch.float64) for _ in range(2))
    product = (left.to(device, torch.bfloat16) @ right.to(device, torch.bfloat16)).cpu().double()
    exact = left @ right
    matrix = float((product - exact).abs().max() / exact.abs().max())
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    message = f"{name}: packed attention differs by {attention:.1e} (float32), a product by {matrix:.1e} (bfloat16)"
    return {"works": attention < 1e-2 and matrix < 5e-2, "message": message, "attention": attention, "matrix": matrix}


def _attend(inputs: list[Tensor], mask: Tensor) -> list[Tensor]:
    """Output of packed attention and the gradients of query, key and value."""
    leaves = query, key, value = [tensor.clone().requires_grad_() for tensor in inputs]
    packing = plan_packing(mask, 7, 3, mode="stream")
    output = packed_attention(query, key, value, packing)
    output.square().sum().backward()
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]
