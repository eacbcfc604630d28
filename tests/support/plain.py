"""Small plain ViTs of the tests, with random weights of a trained network's size."""

from __future__ import annotations

from dataclasses import replace

import torch

from sptcore.models.vit.config import ViTConfig
from sptcore.models.vit.model import ViT
from tests.support.networks import randomise

SMALL = ViTConfig(dim=32, depth=4, heads=2, drop_path=0.0, position_grid=(4, 4))
KINDS = {
    "none": SMALL,
    "ground_truth": replace(SMALL, selector="ground_truth", select_blocks=(0, 1, 2, 3)),
    "predictor": replace(SMALL, selector="predictor", select_blocks=(1, 2)),
    "class_attention": replace(SMALL, selector="class_attention", select_blocks=(1, 2)),
}


def small_vit(kind: str = "none", dtype: torch.dtype = torch.float32, **settings) -> ViT:
    """A ViT of four blocks, in evaluation; the same seed gives the same weights to all that share their names."""
    model = ViT(replace(KINDS[kind], **settings))
    dense = randomise(ViT(SMALL))
    randomise(model, seed=1)
    model.load_state_dict({**model.state_dict(), **dense.state_dict()})
    return model.to(dtype).eval()
