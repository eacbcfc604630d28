from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sptcore.profiling.job import (
    BREAKDOWNS,
    CPU_PROTOCOL,
    CUDA_PROTOCOL,
    ProfileReport,
    ProfileRequest,
    profile,
    protocol_for,
)
from sptcore.profiling.macs import backbone_macs, detector_macs, total
from sptcore.profiling.subjects import Built, Case, Setting, Subject, subject
from sptcore.profiling.timing import Protocol
from sptcore.progress import Silent

SETTING = Setting("backbone", 72, 100, batch=2)
RIVALS = (subject("swin-nano"), subject("spt-nano", (0.25, 1.0), categories=5))
ONCE = Protocol(warmup=0, rounds=1)


@pytest.fixture(scope="module")
def report() -> ProfileReport:
    return profile(ProfileRequest(RIVALS, SETTING, train=True, protocol=ONCE))


def test_a_row_for_every_selection_in_every_scope(report: ProfileReport) -> None:
    names = ["swin-nano dense", "spt-nano 0.25", "spt-nano 1"]
    assert [row.name for row in report.rows] == names * 2
    assert [row.select_ratio for row in report.of_scope("backbone")] == [None, 0.25, 1.0]


def test_counted_is_analytic_and_both_are_those_of_the_functions(report: ProfileReport) -> None:
    assert report.miscounted == []
    for row in report.rows:
        config = next(one.config for one in RIVALS if one.name == row.model)
        ratio = 1.0 if row.select_ratio is None else row.select_ratio
        if row.scope == "backbone":
            expected = total(backbone_macs(config, 72, 100, ratio, batch=2))
        else:
            shape = next(one.shape for one in RIVALS if one.name == row.model)
            expected = total(detector_macs(config, 72, 100, ratio, batch=2, shape=shape))
        assert (row.macs_actual, row.macs_eq9) == expected


def test_the_clock_runs_on_the_first_scope(report: ProfileReport) -> None:
    for row in report.of_scope("backbone"):
        assert row.latency is not None
        assert row.train is not None
        assert row.latency.rounds == 1
        assert row.train_peak_bytes is not None
        assert row.peak_bytes is not None
        assert row.train_peak_bytes > row.peak_bytes > 0
    assert all(row.latency is None and row.train is None for row in report.of_scope("detector"))


def test_parameters_are_those_of_the_scope(report: ProfileReport) -> None:
    swin, spt, _ = report.of_scope("backbone")
    gates = (64 + 1) + 2 * (128 + 1) + 2 * (256 + 1)
    assert spt.params - swin.params == gates
    assert all(row.params > 1.1 * swin.params for row in report.of_scope("detector"))


def test_a_miscount_is_seen(report: ProfileReport) -> None:
    row = replace(report.rows[0], macs_counted=report.rows[0].macs_counted + 1)
    assert replace(report, rows=(row,)).miscounted == [row.name]


@pytest.mark.parametrize("by", BREAKDOWNS)
def test_breakdowns_add_up(by: str) -> None:
    found = profile(ProfileRequest(RIVALS[1:], SETTING, latency=False, by=by))
    for row in found.rows:
        assert sum(actual for actual, _ in row.breakdown.values()) == row.macs_actual
        assert row.latency is None


def test_a_detector_is_timed_with_a_stated_number_of_regions() -> None:
    found = profile(ProfileRequest(RIVALS[1:], SETTING, scopes=("detector",), train=True, protocol=ONCE))
    assert all(row.latency is not None and row.train is not None for row in found.rows)


def test_the_detector_pass_runs_every_layer_on_all_its_regions() -> None:
    """What is timed is what is counted: 100 boxes and 100 masks an image with the small heads."""
    from sptcore.profiling.counted import count_macs

    setting = Setting("detector", 64, 64, batch=2)
    one = RIVALS[0]
    case = Case(Built(one, setting), one.selections[0], setting)
    with torch.enable_grad():
        state = {name: value.detach() for name, value in case.built.model.named_parameters()}
        for parameter in case.built.model.parameters():
            parameter.requires_grad_(False)
        found = count_macs(case.forward)
    assert len(state) > 100
    assert found.macs == total(case.costs())[0]


def test_bfloat16_runs() -> None:
    setting = replace(SETTING, amp="bf16")
    found = profile(ProfileRequest(RIVALS, setting, scopes=("backbone",), train=True, protocol=ONCE))
    assert all(row.latency is not None for row in found.rows)


def test_weights_given_are_the_weights_profiled() -> None:
    built = Built(RIVALS[1], SETTING)
    with torch.no_grad():
        built.backbone.patch_embed.proj.weight.fill_(0.5)
    state = built.backbone.state_dict()
    again = Built(Subject("mine", RIVALS[1].config, RIVALS[1].selections, state=state), SETTING)
    assert all(torch.equal(value, state[name]) for name, value in again.backbone.state_dict().items())


def test_a_case_is_the_same_on_every_run() -> None:
    first, second = (Case(Built(RIVALS[1], SETTING), RIVALS[1].selections[0], SETTING) for _ in range(2))
    assert torch.equal(first.images, second.images)
    assert first.masks is not None
    assert second.masks is not None
    assert all(torch.equal(one, other) for one, other in zip(first.masks, second.masks, strict=True))
    assert not torch.equal(first.masks[0], first.masks[1])
    assert all(torch.equal(a, b) for a, b in zip(first.forward(), second.forward(), strict=True))


def test_what_is_compiled_is_compiled_before_the_clock_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the pace of the warm-up is the compiler's, and a budget leaves the fewest rounds."""
    stages: list[str] = []

    class Watching(Silent):
        def start(self, title: str, total: int | None, *, done: int = 0) -> None:
            stages.append(title)

    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    one = subject("spt-nano", (0.25,))
    for compiled in (True, False):
        setting = Setting("backbone", 32, 32, compiled=compiled)
        profile(ProfileRequest((one,), setting, ("backbone",), protocol=ONCE), Watching())
        assert ("compiling" in stages) == compiled
        if compiled:
            assert stages.index("compiling") < stages.index("timing: warm-up")
        stages.clear()


def test_a_breakdown_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no breakdown 'parts'"):
        ProfileRequest((), SETTING, by="parts")


def test_how_often_is_the_device_s_own_where_nobody_says() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda:1")
    assert (protocol_for(cpu), protocol_for(cuda)) == (CPU_PROTOCOL, CUDA_PROTOCOL)
    assert protocol_for(cpu, warmup=3) == replace(CPU_PROTOCOL, warmup=3)
    assert protocol_for(cuda, warmup=0) == replace(CUDA_PROTOCOL, warmup=0)
    assert protocol_for(cpu, rounds=20) == Protocol(warmup=1, rounds=20)
    assert protocol_for(cpu, warmup=0, rounds=2) == Protocol(warmup=0, rounds=2)
    assert protocol_for(cpu, warmup=0) == Protocol(warmup=0, rounds=7)  # nothing tells the pace
