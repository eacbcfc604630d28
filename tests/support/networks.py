"""Networks of the tests: torchvision's Swin as the other side of every comparison, ours with the same weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer, SwinTransformerBlock

from sptcore.models.attention import ATTENTIONS
from sptcore.models.block import Block
from sptcore.models.config import BackboneConfig
from sptcore.models.selectors import SELECTORS, TokenContext
from sptcore.ops.selection import Selection

DIM, HEADS, WINDOW = 16, 2, 7


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Repeatable random weights of a trained network's size, biases too: zero biases hide errors (and are slow)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias") or "table" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            elif "norm" in name:
                parameter.copy_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))
            else:
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
    return module


def swin_block(shift: int = 0, dtype: torch.dtype = torch.float32) -> SwinTransformerBlock:
    """torchvision's block with random weights, in evaluation."""
    block = SwinTransformerBlock(DIM, HEADS, [WINDOW, WINDOW], [shift, shift])
    return randomise(block).to(dtype).eval()  # type: ignore[return-value]


def our_block(
    selector: str | nn.Module | None = "all", shift: int = 0, like: nn.Module | None = None, **settings
) -> Block:
    """One block of ours; `like` a torchvision block, with its weights and dtype; `settings` of BackboneConfig."""
    config = BackboneConfig(window_size=WINDOW, **settings)
    chosen = SELECTORS[selector](DIM, config) if isinstance(selector, str) else selector
    attention = ATTENTIONS["window" if selector is None else "spa"](DIM, HEADS, shift, config)
    block = Block(
        DIM,
        selector=chosen,
        attention=attention,
        bypass="skip_block" if config.ffn == "selected" else config.bypass,
        mlp_ratio=config.mlp_ratio,
    )
    randomise(block, seed=1)
    if like is not None:
        block.to(next(like.parameters()).dtype)
        block.load_state_dict(block_weights(like.state_dict(), block.state_dict()))
    return block.eval()


def block_weights(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a torchvision block under our names; what it lacks keeps our values."""
    renamed = {key.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2."): value for key, value in theirs.items()}
    return {key: renamed.get(key, value) for key, value in ours.items()}


def tokens(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def context(x: Tensor, valid: Tensor | None = None, prior: Tensor | None = None, label: Tensor | None = None):
    """The context of a block on the grid of `x` (B, H, W, C), all of it valid by default."""
    return TokenContext(torch.ones(x.shape[:3], dtype=torch.bool) if valid is None else valid, prior, label)


def small_swin(**settings) -> SwinTransformer:
    """torchvision's Swin with four narrow stages and random weights, in evaluation."""
    defaults = {"embed_dim": 16, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "stochastic_depth_prob": 0.0}
    swin = SwinTransformer(patch_size=[4, 4], window_size=[7, 7], num_classes=10, **(defaults | settings))
    return randomise(swin).eval()  # type: ignore[return-value]


def small_config(**settings) -> BackboneConfig:
    """The config of the same size as `small_swin`; four blocks select unless told otherwise."""
    defaults = {
        "embed_dim": 16,
        "depths": (2, 2, 2, 2),
        "num_heads": (1, 2, 4, 8),
        "drop_path": 0.0,
        "num_spa_blocks": 4,
    }
    return BackboneConfig(**(defaults | settings))


class Fixed(nn.Module):
    """Selects a given mask (B, H, W) with given scores: what a block does after its gate, without the gate."""

    def __init__(self, mask: Tensor, logits: Tensor | None = None) -> None:
        super().__init__()
        self.mask = mask
        self.logits = logits

    def forward(self, x: Tensor, normed: Tensor, context: TokenContext) -> Selection:
        weight = self.mask.to(x.dtype)
        if self.logits is None:
            return Selection(torch.zeros_like(weight), weight, context.valid, gated=False)
        return Selection(self.logits, weight, context.valid)
