"""Inputs that take turns: how many there are, and that a timed pass really meets them one after the other."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from sptcore.profiling import job
from sptcore.profiling.job import ProfileRequest, profile
from sptcore.profiling.rotation import LEAST_SETS, MOST_SETS, Rotation, draw_inputs, sets_needed
from sptcore.profiling.subjects import Built, Case, Setting, inputs_of, subject
from sptcore.profiling.tables import to_dict
from sptcore.profiling.timing import Protocol

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MIB = 2**20
SETTING = Setting("backbone", 32, 64, batch=2)
ONE = subject("spt-nano", (0.25,))


@pytest.mark.parametrize(
    ("cache", "size", "sets"),
    [(50 * MIB, 12 * MIB, 5), (50 * MIB, 100 * MIB, 4), (0, 12 * MIB, 6), (50 * MIB, 1, MOST_SETS), (4 * MIB, 2, 32)],
)
def test_on_cuda_at_least_four_and_enough_to_outgrow_the_cache(
    cache: int, size: int, sets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=cache))
    assert sets_needed(CUDA, size) == sets >= LEAST_SETS
    assert sets_needed(CPU, size) == 1


def test_inputs_differ_and_come_round_again() -> None:
    inputs = [torch.tensor(number) for number in range(3)]
    rotation = Rotation(inputs)
    assert [int(rotation.next()) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    with pytest.raises(ValueError, match="nothing"):
        Rotation([])


def test_what_is_drawn_is_the_same_on_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = draw_inputs((1, 3, 4, 4), CPU, seed=5)
    monkeypatch.setattr("sptcore.profiling.rotation.sets_needed", lambda device, size: size // 48)
    four = draw_inputs((1, 3, 4, 4), CPU, seed=5)
    assert (len(alone), len(four)) == (1, 4)
    assert torch.equal(alone[0], four[0])
    assert len({float(one.sum()) for one in four}) == 4


@pytest.mark.parametrize("scope", ["backbone", "detector"])
@pytest.mark.parametrize("road", ["inference", "training", "compiled"])
def test_a_timed_pass_takes_its_inputs_in_turn(scope: str, road: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    setting = Setting(scope, 32, 64, batch=2, compiled=road == "compiled")
    inputs = [torch.randn(2, 3, 32, 64) for _ in range(4)]
    case = Case(Built(ONE, setting), ONE.selections[0], setting, inputs)
    met: list[int] = []

    def watch(module: object, given: tuple[Tensor, ...]) -> None:
        met.append(next(number for number, one in enumerate(inputs) if one is given[0]))

    case.built.backbone.register_forward_pre_hook(watch)
    call = case.training() if road == "training" else case.inference()
    for _ in range(6):
        call()
    assert met == [0, 1, 2, 3, 0, 1]
    again = case.inference()  # another rival starts at the first input too
    again()
    assert met[-1] == 0


def test_a_profile_says_how_many_inputs_there_were(monkeypatch: pytest.MonkeyPatch) -> None:
    request = ProfileRequest((ONE,), SETTING, ("backbone",), protocol=Protocol(warmup=0, rounds=1))
    assert len(inputs_of(SETTING)) == profile(request).input_sets == 1
    monkeypatch.setattr(job, "inputs_of", lambda setting: tuple(torch.randn(2, 3, 32, 64) for _ in range(4)))
    report = profile(request)
    assert report.input_sets == to_dict(report)["input_sets"] == 4
    assert not report.miscounted
