"""Blocks computed again in the backward pass: the same step bit for bit, in less memory."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import CheckpointError, checkpoint

from sptcore.models.block import Block
from sptcore.models.recompute import recompute_blocks
from sptcore.models.variants import build_backbone
from sptcore.profiling.timing import peak_memory
from tests.support.networks import randomise
from tests.support.training import difference, final_state, mini_data, tiny_run

IMAGES = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))


def network(name: str, *, again: bool, **settings) -> nn.Module:
    model = randomise(build_backbone(name, drop_path=0.4, **settings)).train()
    assert recompute_blocks(model, again) > 0
    return model


def step(model: nn.Module, images: Tensor = IMAGES) -> dict[str, Tensor]:
    """Maps, gradients and the random state after one step; the loss reads the scores too."""
    torch.manual_seed(3)
    model.zero_grad()
    features = model(images)
    loss = sum(one.square().mean() for one in features.maps.values())
    for placed in features.selections:
        loss = loss + torch.sigmoid(placed.selection.logits).mean() + placed.selection.weight.mean()
    loss.backward()
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return {**features.maps, **gradients, "random": torch.get_rng_state()}


@pytest.mark.parametrize(
    ("name", "settings"),
    [("swin-nano", {}), ("spt-nano", {"select_threshold": 0.5}), ("spt-nano", {"ffn": "selected"}), ("vit-nano", {})],
)
def test_a_step_is_the_same_bit_for_bit(name, settings):
    """Though selection and dropped paths are drawn at random."""
    kept, again = (step(network(name, again=again, **settings)) for again in (False, True))
    assert len(kept) > 50
    assert difference(kept, again) is None


def test_other_random_numbers_would_be_another_step(monkeypatch):
    """The control: recomputed with fresh noise, other tokens are selected, and either torch or the gradients tell."""
    settings = {"select_threshold": 0.5}
    expected = step(network("spt-nano", again=False, **settings))
    careless = functools.partial(checkpoint, preserve_rng_state=False, determinism_check="none")
    monkeypatch.setattr("sptcore.models.recompute.checkpoint", careless)
    try:
        found = step(network("spt-nano", again=True, **settings))
    except (CheckpointError, RuntimeError):
        return
    assert difference(expected, found) is not None


def test_blocks_run_twice_in_a_training_step_only(monkeypatch):
    calls = []
    inner = Block.compute
    monkeypatch.setattr(Block, "compute", lambda self, *given: (calls.append(1), inner(self, *given))[1])
    model = network("spt-nano", again=True)
    step(model)
    assert len(calls) == 16
    for run in (lambda: model.eval()(IMAGES), lambda: torch.no_grad()(model.train())(IMAGES)):
        calls.clear()
        run()
        assert len(calls) == 8
    recompute_blocks(model, False)
    calls.clear()
    step(model)
    assert len(calls) == 8


def test_it_takes_less_memory():
    images = torch.randn(2, 3, 256, 256)
    kept, again = (
        peak_memory(functools.partial(step, network("spt-nano", again=again), images)) for again in (False, True)
    )
    assert again < 0.7 * kept


def test_a_block_that_hands_something_on_is_computed_again_too():
    """DynamicSwin's streams go from block to block, decisions stand for several: the same step all the same."""
    settings = {"depths": (1, 1, 5, 1), "predictor_blocks": (1, 3), "keep_ratios": (0.7, 0.4), "num_spa_blocks": 2}
    kept, again = (step(network("dynamicswin-nano", again=again, **settings)) for again in (False, True))
    assert difference(kept, again) is None
    model = build_backbone("dynamicswin-nano").train()
    assert recompute_blocks(model) == sum(isinstance(one, Block) for one in model.modules()) == 8


def test_gradients_averaged_over_processes(tmp_path: Path):
    """DistributedDataParallel around it; one process is enough for its hooks to run."""
    expected = step(network("spt-nano", again=False))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(network("spt-nano", again=True))
        found = {name.removeprefix("module."): one for name, one in step(wrapped).items()}
    finally:
        dist.destroy_process_group()
    assert difference(expected, found) is None


def test_a_run_ends_in_the_same_weights(tmp_path: Path):
    data = mini_data(tmp_path / "data")
    kept, again = (
        final_state(tiny_run(tmp_path / str(on), data, epochs=1, checkpoint_activations=on).run) for on in (False, True)
    )
    assert difference(kept, again) is None
