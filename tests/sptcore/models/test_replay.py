from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sptcore.models.replay import Replay
from sptcore.models.variants import build_backbone
from tests.support.networks import randomise
from tests.support.numerics import assert_same


def batch(seed: int) -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(seed)) * (1 + seed)


def test_what_cannot_be_captured_is_refused():
    backbone = build_backbone("spt-nano")
    with pytest.raises(ValueError, match="eval"):
        Replay(backbone, batch(0))
    with pytest.raises(ValueError, match="CUDA"):
        Replay(backbone.eval(), batch(0))
    with pytest.raises(ValueError, match="windows"):
        Replay(build_backbone("spt-nano", attention="window_gather").eval(), batch(0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("bypass", ["identity", "proj", "skip_block"])
@torch.no_grad()
def test_on_a_gpu_other_selections_are_replayed(bypass):
    """Captured on one batch, called with others and other sizes: what the ordinary road gives."""
    settings = {"select_threshold": 0.5, "score_propagation": False, "bypass": bypass}
    backbone = randomise(build_backbone("spt-nano", **settings)).eval().cuda()
    sizes = [torch.tensor([[64, 96], [50 + seed, 70]]) for seed in range(3)]
    replay = Replay(backbone, batch(0).cuda(), sizes[0])
    ratios = set()
    for seed in (0, 1, 2):
        expected = backbone(batch(seed).cuda(), sizes[seed])
        found = replay(batch(seed).cuda(), sizes[seed])
        for key, value in expected.maps.items():
            assert_same(found.maps[key], value, tolerance=1e-3)
        ratios.add(float(expected.selections[0].selection.ratio))
    assert len(ratios) > 1
    with pytest.raises(ValueError, match="captured for"):
        replay(batch(0)[:1].cuda(), sizes[0])
    with pytest.raises(ValueError, match="image_sizes"):
        replay(batch(0).cuda())
