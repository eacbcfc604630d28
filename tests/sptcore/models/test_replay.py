from __future__ import annotations

from contextlib import nullcontext
from unittest.mock import MagicMock
from weakref import ref

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sptcore.models.backbone import Features
from sptcore.models.replay import Replay
from sptcore.models.variants import build_backbone
from sptcore.ops.attend_selected import must_not_wait
from sptcore.ops.windows import window_order
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
    with pytest.raises(ValueError, match="how large"):
        Replay(build_backbone("vit-nano").eval(), batch(0), torch.tensor([[64, 96], [50, 70]]))
    with pytest.raises(ValueError, match="CUDA"):
        Replay(build_backbone("vit-nano").eval(), batch(0))


class Probe(nn.Module):
    """Reads a window order, and notes what surrounds its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.orders, self.caches, self.waits = [], [], []

    def forward(self, images: Tensor, sizes: Tensor | None) -> Features:
        self.orders.append(ref(window_order(9, 9, window_size=7, shift_size=3, device=images.device)))
        self.caches.append(torch.is_autocast_cache_enabled())
        self.waits.append(not must_not_wait(images))
        return Features({})


def test_a_graph_owns_all_that_it_reads(monkeypatch):
    """The warm-up's window orders serve the capture and live as long as the replay; no weight is cast into a cache."""
    for name in ("Stream", "current_stream", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: nullcontext())
    probe = Probe().eval()
    with FakeTensorMode() as without_data, torch.inference_mode():
        replay = Replay(probe, torch.empty(2, 3, 64, 96, device="cuda"))
    first, *others = (order() for order in probe.orders)
    assert first is not None
    assert others == [first, first]
    assert not any(probe.caches)
    assert not any(probe.waits)
    assert torch.is_autocast_cache_enabled()
    with without_data:
        replay(torch.empty(2, 3, 64, 96))  # outside of inference mode
    del first, others, replay
    assert probe.orders[0]() is None


class OnADevice(Tensor):
    """A tensor of the CPU that says it lies on a GPU."""

    is_cuda = True


class Noting(nn.Module):
    """Keeps the inputs of its last call, whose memory a graph would read again."""

    def forward(self, images: Tensor, sizes: Tensor) -> Features:
        self.images, self.sizes = images, sizes
        return Features({})


def test_a_replay_reads_what_it_is_called_with(monkeypatch):
    """Its images and sizes stand where the capture read them, and are nobody else's."""
    for name in ("Stream", "current_stream", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: nullcontext())
    first, sizes, model = batch(0).as_subclass(OnADevice), torch.tensor([[64, 96], [50, 70]]), Noting().eval()
    replay = Replay(model, first, sizes)
    assert torch.equal(model.images, first)
    replay(batch(1), sizes - 1)
    assert torch.equal(model.images, batch(1))
    assert torch.equal(model.sizes, sizes - 1)
    assert torch.equal(first, batch(0))


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
