"""One step is the plain one, bit for bit, and asks the device once; what a batch needs is read before it goes there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sptcore.models.backbone import Features
from sptcore.tasks.base import Batch, BlockCounts, CountRows, Outcome, Task
from sptcore.training import step as step_module
from sptcore.training.config import TrainConfig
from sptcore.training.distributed import ALONE, Group
from sptcore.training.mixing import mixed
from sptcore.training.optim import build_optimizer, set_lr
from sptcore.training.sampler import step_seed
from sptcore.training.state import TrainState
from sptcore.training.step import Stepper, start_state
from tests.support.training import tiny_config

CPU = torch.device("cpu")
READS = {"tolist", "item", "__float__", "__int__", "__bool__", "__index__", "cpu", "numpy"}


class Reads(TorchFunctionMode):
    """Notes what makes the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in READS and isinstance(args[0], Tensor):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


class Toy:
    """A task of two losses on a linear layer; its noise is of torch's generator, as that of gates."""

    def outcome(self, model: nn.Module, batch: Batch, *, select_loss_weight: float) -> Outcome:
        seen = batch.images.float().flatten(1) / 255
        found = model(seen + 0.1 * torch.rand_like(seen))
        return Outcome({"loss_a": found.square().mean(), "loss_b": 0.5 * found.abs().mean()}, Features({}, ()))


def batches(count: int, *, seed: int = 0) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 2, 3, 4, 4), dtype=torch.uint8, generator=generator)
    sizes = torch.full((2, 2), 4)
    return [Batch(one, sizes, sizes, [1, 2]) for one in images]


def stepper(config: TrainConfig) -> tuple[Stepper, TrainState]:
    torch.manual_seed(3)
    model = nn.Linear(48, 4)
    task: Any = Toy()
    checked: Task = task
    return Stepper(config, checked, model, CPU, ALONE), start_state(model, config, CPU)


def plain_step(config: TrainConfig, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> dict[str, float]:
    """The same in the fewest words: read each loss before its backward pass, clip, update."""
    values: dict[str, float] = {}
    for number, batch in enumerate(batches(3, seed=step)):
        torch.manual_seed(step_seed(config.seed, step * 3 + number))
        losses = Toy().outcome(model, batch, select_loss_weight=0.0).losses
        parts = {name: float(loss.detach()) for name, loss in losses.items()}
        for name, value in {"loss": sum(parts.values()), **parts}.items():
            values[name] = values.get(name, 0.0) + value * (1 / 3)
        (torch.stack(list(losses.values())).sum() / 3).backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip or float("inf"))
    optimizer.step()
    optimizer.zero_grad()
    return values | {"grad_norm": float(norm)}


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_steps_are_the_plain_ones_bit_for_bit(clip: float) -> None:
    config = tiny_config(Path("nowhere"), clip=clip, ema=0.0)
    take, state = stepper(config)
    _, other = stepper(config)
    optimizer = build_optimizer(other.model, config)
    for step in range(4):
        for one in (state.optimizer, optimizer):
            set_lr(one, 0.01)
        result = take(state, batches(3, seed=step))
        state.step += 1
        assert result.values == plain_step(config, other.model, optimizer, step)
    assert result.values["grad_norm"] > 0.05
    assert all(torch.equal(*pair) for pair in zip(state.model.parameters(), other.model.parameters(), strict=True))


@pytest.mark.parametrize(("ema", "passes"), [(0.0, 1), (0.9, 1), (0.9, 3)])
def test_a_step_reads_from_the_device_once(ema: float, passes: int) -> None:
    take, state = stepper(tiny_config(Path("nowhere"), ema=ema))
    take(state, batches(passes))  # the optimizer has its moments
    with Reads() as reads:
        result = take(state, batches(passes))
    assert result.is_finite
    assert [name for name in reads.seen if name != "__int__"] == ["tolist"]
    assert reads.seen.count("__int__") == (1 if ema else 0)  # the averaged weights' count of updates, on the CPU


def test_what_counts_reads_sees_them() -> None:
    values = torch.ones(2)
    with Reads() as reads:
        _ = float(values[0]), values.tolist(), values[0].item(), bool(values[0] > 0)
    assert reads.seen == ["__float__", "tolist", "item", "__bool__"]


def test_tokens_of_all_passes_and_processes_are_counted_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [torch.tensor([[10, 4, 5, 3, 2, 12]]) * factor for factor in (1, 10, 100)]
    here = iter(rows)
    monkeypatch.setattr(step_module, "count_rows", lambda features, labels: CountRows(next(here), ((3, 0, 16),)))
    monkeypatch.setattr(Group, "summed", lambda self, values: 2 * values)  # another process that found the same
    take, state = stepper(tiny_config(Path("nowhere")))
    assert take(state, batches(3)).counts == [BlockCounts(3, 0, 16, *(222 * count for count in (10, 4, 5, 3, 2, 12)))]


def test_a_pass_that_is_not_finite_leaves_no_trace_wherever_it_stands() -> None:
    for bad in range(3):
        take, state = stepper(tiny_config(Path("nowhere")))
        before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
        seen = 0

        def poison(model: nn.Module, inputs: Any, output: Tensor, bad: int = bad) -> Tensor:
            nonlocal seen
            seen += 1
            return output * float("inf") if seen == bad + 1 else output

        state.model.register_forward_hook(poison)
        result = take(state, batches(3))
        assert not result.is_finite
        assert "grad_norm" not in result.values
        assert all(torch.equal(tensor, before[name]) for name, tensor in state.model.state_dict().items())
        assert all(parameter.grad is None for parameter in state.model.parameters())
        assert take(state, batches(3)).is_finite


def test_mixing_reads_nothing_on_the_device() -> None:
    """On tensors without data reading raises, which the negative control shows."""
    (batch,) = batches(1)
    targets = [{"classes": torch.eye(2)[row], "extent": torch.tensor([4, 4])} for row in range(2)]
    batch = Batch(batch.images, batch.image_sizes, batch.original_sizes, [1, 2], targets)
    config = tiny_config(Path("nowhere"), task="classify", cutmix=1.0)
    assert mixed(batch, config, 0, torch.device("meta")).images.is_meta
    with pytest.raises((RuntimeError, NotImplementedError)):
        mixed(batch.to(torch.device("meta")), config, 0)


def test_all_of_a_batch_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not pinned is copied only when the device has done everything before it."""
    pinned: list[Tensor] = []

    def pin(self: Tensor) -> Tensor:
        pinned.append(self)
        return self

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    (batch,) = batches(1)
    masks, grid = torch.zeros(1, 4, 4, dtype=torch.uint8), torch.zeros(2, 1, 1, dtype=torch.bool)
    whole = Batch(batch.images, batch.image_sizes, batch.original_sizes, [1, 2], [{"masks": masks}], {16: grid})
    assert torch.equal(whole.pin_memory().targets[0]["masks"], masks)
    assert [id(one) for one in pinned] == [id(one) for one in (batch.images, masks, grid)]
