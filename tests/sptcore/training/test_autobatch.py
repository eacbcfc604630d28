"""The largest batch that fits: the search, the largest frame, and what a machine's memory makes of it."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sptcore.errors import ResourceError
from sptcore.progress import Silent
from sptcore.training import autobatch
from sptcore.training.autobatch import fitting_batch, free_memory, largest_frame, most_that_fit
from sptcore.training.config import read_config
from sptcore.training.distributed import Group
from sptcore.training.loop import make_trainer
from sptcore.training.prepare import Prepared, prepare
from tests.support.training import mini_data, tiny_config, tiny_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def prepared(data: Path) -> Prepared:
    return prepare(tiny_config(data))


class Listener(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


@pytest.mark.parametrize("cap", [1, 2, 3, 7, 8, 100])
@pytest.mark.parametrize("limit", [0, 1, 2, 3, 5, 8, 63, 64, 65, 200])
def test_the_search_finds_the_largest_that_fits(limit: int, cap: int) -> None:
    tried: list[int] = []

    def fits(number: int) -> bool:
        tried.append(number)
        return number <= limit

    assert most_that_fit(fits, cap) == min(limit, cap)
    assert max(tried) <= cap
    assert len(tried) == len(set(tried)) <= 14


def test_the_largest_frame_holds_every_batch_of_the_recipe(data: Path) -> None:
    config = tiny_config(data, res="96x64", crop_prob=0.0)

    def frame(*sizes: tuple[int, int], **changes: Any) -> tuple[int, int]:
        images = SimpleNamespace(records=[SimpleNamespace(width=width, height=height) for width, height in sizes])
        return largest_frame(config.model_copy(update=changes), images)  # type: ignore[arg-type]

    assert frame((40, 30), (30, 30)) == (96, 64)
    assert frame((30, 40)) == (64, 96)
    assert frame((40, 30), (30, 40)) == (96, 96)
    assert frame((40, 30), crop_prob=0.5) == (96, 96)
    assert frame((40, 30), scales=(0.5, 1.5)) == (144, 96)
    assert frame((40, 30), scales=(0.5,)) == (96, 32)


def test_more_memory_more_images(data: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks are forced: 100 MB once and 50 an image."""
    taken: list[int] = []
    monkeypatch.setattr(autobatch._Trial, "take", lambda self, number: taken.append(number))

    def peak(work) -> float:
        work()
        return (100 + 50 * taken[-1]) * 2.0**20

    monkeypatch.setattr(autobatch, "_peak", peak)
    config, listener = tiny_config(data), Listener()
    many = prepare(config)
    many.train.records = [*many.train.records] * 40  # type: ignore[assignment]
    found = []
    for megabytes in (1000, 2000, 100000):
        monkeypatch.setattr(autobatch, "free_memory", lambda megabytes=megabytes: megabytes * 2.0**20)
        found.append(fitting_batch(config, many, CPU, progress=listener))
    assert found == [16, 34, 64]
    assert "batch 16 (auto): 50 MB an image, 900 MB may be used" in listener.lines
    assert fitting_batch(config, prepared, CPU) == 3  # there are no more
    monkeypatch.setattr(autobatch, "free_memory", lambda: 120 * 2.0**20)
    with pytest.raises(ResourceError, match="one image takes 150 MB"):
        fitting_batch(config, prepared, CPU)


def test_all_processes_take_what_the_poorest_can(
    data: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autobatch, "_on_cpu", lambda trial, cap, processes: (7, ""))
    monkeypatch.setattr(Group, "gathered", lambda self, value: [value, 5])
    assert fitting_batch(tiny_config(data), prepared, CPU, group=Group(0, 2)) == 5


def test_the_number_stands_in_the_settings_of_the_run(data: Path, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", data, batch="auto", max_steps=1).run
    assert read_config(run.home / "config.toml").batch == 3
    assert free_memory() > 2**20


def collect_and_work() -> None:
    """64 MB, after whatever garbage there is was collected."""
    gc.collect()
    torch.ones(16 * 2**20).sum().item()


def test_the_measured_peak_is_that_of_the_work() -> None:
    held = torch.ones(2**20)
    small = autobatch._peak(lambda: None)
    knot: list[object] = [torch.ones(64 * 2**20)]
    knot.append(knot)  # 256 MB that only the collector finds
    del knot
    large = autobatch._peak(collect_and_work)
    assert small < 8 * 2**20
    assert large > 60 * 2**20
    assert held.sum() == 2**20


def test_settings_that_are_to_be_probed_are_settled_by_the_trainer(data: Path) -> None:
    assert tiny_config(data, batch="auto").batch == 0
    assert make_trainer(tiny_config(data, batch="auto")).config.batch == 3


def test_the_trial_holds_what_the_run_will_hold(
    data: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autobatch, "load_teacher", lambda config, model, spec, device: "a teacher")
    trial = autobatch._Trial.begin(tiny_config(data, ema=0.9), prepared, CPU)
    assert trial.state.average is not None
    assert trial.step.teacher == "a teacher"
    assert autobatch._Trial.begin(tiny_config(data, ema=0), prepared, CPU).state.average is None
