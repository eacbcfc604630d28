from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
import torch

from sptcore.profiling import timing
from sptcore.profiling.timing import Protocol, Timing, environment, measure, peak_memory, stall_seconds


def test_rivals_take_turns_and_warm_up_is_not_counted() -> None:
    order: list[str] = []
    result = measure({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, Protocol(warmup=2, rounds=3))
    assert order == ["a", "b"] * 5
    assert {name: one.rounds for name, one in result.items()} == {"a": 3, "b": 3}


@pytest.mark.parametrize(("pace", "planned"), [(100.0, 3), (10.0, 5), (0.1, 50), (0.0, 50)])
def test_a_budget_plans_rounds_by_the_pace_of_the_warm_up(pace: float, planned: int) -> None:
    assert Protocol(warmup=1, rounds=50, budget=60.0, least=3).planned(pace) == planned


def test_a_slow_rival_is_still_run_the_least_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100000, 10))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    result = measure({"slow": lambda: None}, Protocol(warmup=1, rounds=50, budget=5.0, least=3))
    assert result["slow"].rounds == 3
    with pytest.raises(ValueError, match="warm-up"):
        measure({"slow": lambda: None}, Protocol(warmup=0, budget=5.0))


def test_figures_of_known_rounds() -> None:
    one = Timing("x", wall=(3.0, 1.0, 2.0, 10.0, 4.0), cpu=(1.0,) * 5, stall=(0.0, 0.2, 0.04, 0.06, None))
    assert (one.median, one.cpu_median, one.stalled_rounds) == (3.0, 1.0, 2)
    assert one.p95 == pytest.approx(8.8)
    assert json.loads(json.dumps(one.to_dict()))["max_s"] == 10.0


def test_pressure_is_read_where_linux_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpu"
    file.write_text("some avg10=0.02 avg60=0.61 avg300=0.43 total=4110115\nfull avg10=0.00 total=0\n")
    monkeypatch.setattr(timing, "PRESSURE_FILE", file)
    assert stall_seconds() == pytest.approx(4.110115)
    monkeypatch.setattr(timing, "PRESSURE_FILE", tmp_path / "none")
    assert stall_seconds() is None


def test_peak_memory_is_the_worst_moment() -> None:
    """40 MB alone, then 40 + 40 MB together, then 40 MB: 80 MB at the worst, whatever was allocated before."""
    kept = torch.ones(5_000_000)

    def work() -> None:
        first = torch.zeros(10_000_000)
        second = first.add(1)
        del first
        second.add_(kept.sum())

    assert 80_000_000 <= peak_memory(work) < 80_100_000


def test_rubbish_that_is_collected_meanwhile_does_not_hide_the_peak() -> None:
    class Circle:
        def __init__(self) -> None:
            self.itself, self.weight = self, torch.zeros(10_000_000)

    def work() -> torch.Tensor:
        gc.collect()
        return torch.zeros(5_000_000)

    gc.disable()
    try:
        Circle()
        assert peak_memory(work) >= 20_000_000
    finally:
        gc.enable()


def test_on_cuda_the_events_stand_on_the_stream_of_the_named_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a stream an event is recorded on the current device, which need not be the one that is timed."""
    done: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            done.append(f"record on {stream}")

        def elapsed_time(self, other: Event) -> float:
            return 1500.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: done.append(f"wait for {device}"))
    found = measure({"a": lambda: done.append("call")}, Protocol(warmup=0, rounds=1), device="cuda:1")
    assert found["a"].wall == (1.5,)
    record, wait = "record on stream of cuda:1", "wait for cuda:1"
    assert done == [wait, record, "call", record, wait]


def test_the_environment_names_what_a_figure_depends_on() -> None:
    found = environment()
    assert {"device", "threads", "torch", "torchvision", "triton", "allocator", "flush_denormal"} <= set(found)
    assert json.loads(json.dumps(found)) == found


def test_allocator_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "MALLOC_MMAP_THRESHOLD_",
        "MALLOC_TRIM_THRESHOLD_",
        "MALLOC_ARENA_MAX",
        "GLIBC_TUNABLES",
        "LD_PRELOAD",
    ):
        monkeypatch.delenv(name, raising=False)
    assert timing.allocator() == "default"
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000000")
    assert timing.allocator() == "MALLOC_MMAP_THRESHOLD_=1000000000"
