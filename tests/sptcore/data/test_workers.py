from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from types import ModuleType, SimpleNamespace

import pytest

from sptcore.data.workers import map_in_order, named_executor, usable_processors
from sptcore.errors import DataError, EnvironmentFault, ResourceError, UsageError


def double(item: int) -> int:
    return 2 * item


def faulty(item: int) -> int:
    if item == 3:
        raise DataError("three is wrong", where="item 3")
    return item


def deadly(item: int) -> int:
    if item == 3:
        os._exit(9)
    return item


@pytest.mark.parametrize("jobs", [1, 3])
def test_results_come_in_order(jobs: int) -> None:
    assert list(map_in_order(double, range(20), jobs=jobs)) == [2 * k for k in range(20)]


def test_any_executor_serves() -> None:
    with ThreadPoolExecutor(2) as executor:
        assert list(map_in_order(double, range(20), executor=executor)) == [2 * k for k in range(20)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_of_ours_crosses_whole(jobs: int) -> None:
    done = []
    with pytest.raises(DataError) as caught:
        done.extend(map_in_order(faulty, range(6), jobs=jobs))
    assert (caught.value.message, caught.value.where) == ("three is wrong", "item 3")
    assert not multiprocessing.active_children()


def test_a_death_names_what_was_under_work() -> None:
    with pytest.raises(ResourceError, match=r"died; under work were .*item [3-6]"):
        list(map_in_order(deadly, range(6), jobs=2, describe=lambda item: f"item {item}"))


def test_only_a_few_items_are_taken_ahead() -> None:
    taken = []

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    results = map_in_order(double, items(), jobs=2)
    assert next(results) == 0
    assert len(taken) <= 5
    results.close()
    assert not multiprocessing.active_children()


def test_names_of_executors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert named_executor("local") is None
    for name in ("ray", "dask://host", "dask"):
        with pytest.raises(UsageError, match=name):
            named_executor(name)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(EnvironmentFault, match="Dask is not installed") as caught:
        named_executor("dask://localhost:8786")
    assert "spt[cluster]" in (caught.value.hint or "")


def test_the_executor_of_a_dask_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def client(address: str, timeout: float) -> SimpleNamespace:
        asked.append(address)
        if "none" in address:
            raise OSError("Timed out")
        return SimpleNamespace(get_executor=lambda: "executor")

    module = ModuleType("distributed")
    module.Client = client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "distributed", module)
    assert named_executor("dask://localhost:8786") == "executor"
    assert asked == ["tcp://localhost:8786"]
    with pytest.raises(EnvironmentFault, match="no Dask scheduler"):
        named_executor("dask://none:1")


def test_a_death_in_a_cluster_is_told_like_any_other() -> None:
    lost = type("KilledWorker", (Exception,), {"__module__": "distributed.scheduler"})

    def fail(item: int) -> int:
        raise lost(item)

    with ThreadPoolExecutor(1) as executor, pytest.raises(ResourceError, match="died; under work were item 0"):
        list(map_in_order(fail, range(3), executor=executor, describe=lambda item: f"item {item}"))


def test_a_scheduler_that_ends_cancels_its_work_which_is_a_death_too() -> None:
    class Ending(Executor):
        def submit(self, fn, /, *args, **kwargs):
            future = Future()
            if args[0] == 0:
                future.set_result(0)
            else:
                future.cancel()
                future.set_running_or_notify_cancel()
            return future

    with pytest.raises(ResourceError, match="died; under work were item 1; item 2"):
        list(map_in_order(double, range(3), executor=Ending(), describe=lambda item: f"item {item}"))


def test_processors_are_counted() -> None:
    assert 1 <= usable_processors() <= (os.cpu_count() or 1)
