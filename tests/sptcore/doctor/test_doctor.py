"""The diagnosis: broken libraries are reported with their cure, never a crash of the report."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sptcore.doctor import Check, Diagnosis, diagnose, machine, try_libraries
from sptcore.doctor.libraries import (
    fitting_torchvision,
    judge_counter,
    judge_cv2,
    judge_device,
    judge_libraries,
    judge_torch,
    judge_torchvision,
    judge_versions,
    numbers,
    requirements,
    versions,
)
from sptcore.doctor.places import judge_folder, judge_plugins, judge_shared_memory

GOOD = {"works": True, "version": "1"}
NMS = {"error": "RuntimeError: operator torchvision::nms does not exist"}


def stubs(folder: Path, **sources: str) -> dict[str, str]:
    """An environment in which `import NAME` runs the given source instead of the library."""
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.fixture(scope="module")
def found() -> Diagnosis:
    return diagnose()


def by_name(diagnosis: Diagnosis) -> dict[str, Check]:
    return {check.name: check for check in diagnosis.checks}


def test_a_healthy_machine_has_no_failing_library(found: Diagnosis) -> None:
    checks = by_name(found)
    for name in ("requirements", "torch", "torchvision", "opencv", "h5py", "pycocotools", "device", "MAC counter"):
        assert checks[name].state == "ok", checks[name]
    assert "HDF5" in checks["h5py"].message
    assert "2 FLOPs a MAC" in checks["MAC counter"].message
    assert "GPU test" not in checks
    assert found.versions["torch"]
    assert int(str(machine()["cpus"])) >= 1


def test_the_report_survives_a_torch_that_kills_its_process(tmp_path: Path) -> None:
    env = stubs(
        tmp_path,
        torch="import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n",
        cv2="raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')\n",
    )
    checks = by_name(diagnose(environment=env))
    assert checks["torch"].state == "fail"
    assert "-11" in checks["torch"].message
    assert checks["h5py"].state == "ok"
    assert checks["opencv"].state == "fail"
    assert "libgl1" in (checks["opencv"].cure or "")
    assert "headless" in (checks["opencv"].cure or "")
    assert checks["MAC counter"].state == checks["device"].state == "fail"


def test_a_missing_torch_is_named_with_its_cure(tmp_path: Path) -> None:
    env = stubs(tmp_path, torch="raise ModuleNotFoundError(\"No module named 'torch'\")\n")
    facts = try_libraries(True, env)
    checks = {check.name: check for check in judge_libraries(facts, gpu_test=True)}
    assert checks["torch"].cure == "pip install torch torchvision"
    assert checks["torchvision"].message == "cannot be tried without torch"
    assert checks["GPU test"].state == "fail"


def test_a_pair_that_does_not_fit_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(torch: str, torchvision: str) -> Check:
        have = {"torch": torch, "torchvision": torchvision}
        monkeypatch.setattr("sptcore.doctor.libraries.installed", have.get)
        return judge_torchvision({"torch": GOOD, "torchvision": NMS})

    same = pretend("2.14.1+cpu", "0.29.1")
    assert same.state == "fail"
    assert "CPU build" in same.message
    assert "operator torchvision::nms does not exist" in same.message
    assert "same index" in (same.cure or "")
    other = pretend("2.14.1", "0.26.0")
    assert "built for another torch" in other.message
    assert other.cure == "pip install 'torchvision==0.29.*'"
    assert judge_torchvision({"torch": GOOD, "torchvision": GOOD}).state == "ok"
    assert judge_torchvision({"torch": GOOD, "torchvision": {"works": False}}).state == "fail"


def test_the_pairing_rule() -> None:
    assert [fitting_torchvision(v) for v in ("2.11.0", "2.14.1+cu130", "1.13", "x")] == ["0.26", "0.29", None, None]
    assert numbers("2.14.1+cu130") == (2, 14, 1)


def test_versions_are_checked_against_our_own_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    assert requirements()["torch"] == "2.11"
    assert set(requirements()) < set(versions())
    assert [check.state for check in judge_versions()] == ["ok"]
    monkeypatch.setattr("sptcore.doctor.libraries.requirements", lambda: {"torch": "99", "no-such-package": "1"})
    checks = judge_versions()
    assert [check.state for check in checks] == ["fail", "fail"]
    assert checks[0].cure == "pip install 'torch>=99'"
    assert "not installed" in checks[1].message


@pytest.mark.parametrize(
    ("facts", "state", "word"),
    [
        ({"counter": {"flops_per_mac": 2.0, "attention_counted": True}}, "ok", "included"),
        ({"counter": {"flops_per_mac": 2.0, "attention_counted": False}}, "ok", "adds the formula"),
        ({"counter": {"flops_per_mac": 1.0, "attention_counted": True}}, "fail", "1 FLOPs"),
        ({"counter": {"error": "wrong"}}, "fail", "wrong"),
    ],
)
def test_the_counter(facts: dict, state: str, word: str) -> None:
    check = judge_counter(facts)
    assert check.state == state
    assert word in check.message


def test_devices() -> None:
    gpu = {"works": True, "version": "2", "cuda": True, "cuda_build": "13", "devices": ["H100"], "threads": 2}
    assert judge_device({"torch": gpu}).message == "cuda: H100"
    assert "cpu, 2 threads" in judge_device({"torch": {**gpu, "cuda": False, "cuda_build": None}}).message
    assert judge_torch({"torch": gpu}).state == "ok"
    assert judge_cv2({"cv2": {"error": "ImportError: something else"}}).state == "fail"


def test_the_gpu_test_computes_what_it_says() -> None:
    import torch

    from sptcore.doctor.gpu import run_on_gpu

    facts = run_on_gpu(torch.device("cpu"))
    assert facts["works"] is True
    for name in ("attention", "blocks"):
        assert 0 < float(str(facts[name])) < 1e-4, name


@pytest.mark.parametrize("wrong", [None, "tokens", "logits"])
def test_the_gpu_test_judges_blocks_that_do_not_wait(wrong: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    import torch

    from sptcore.doctor import gpu
    from sptcore.models.block import Block
    from sptcore.ops.attend_selected import must_not_wait

    compute, roads = Block.compute, []

    def spoilt(block, x, context):
        if x.dtype == torch.float64:
            return compute(block, x, context)
        roads.append(must_not_wait(x))
        with monkeypatch.context() as patch:
            patch.setattr("sptcore.models.block.must_not_wait", lambda x: False)
            output = compute(block, x, context)
        if wrong == "tokens":
            return replace(output, tokens=output.tokens * 1.1)
        logits = output.selection.logits * (1.1 if wrong else 1.0)
        return replace(output, selection=replace(output.selection, logits=logits))

    monkeypatch.setattr(Block, "compute", spoilt)
    monkeypatch.setattr(gpu, "kernel_obstacle", lambda *_: None)
    assert gpu.run_on_gpu(torch.device("cpu"))["works"] is (wrong is None)
    assert roads == [True] * 3


@pytest.mark.gpu
def test_the_gpu_test_runs_on_a_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    checks = by_name(diagnose(gpu_test=True))
    assert checks["GPU test"].state == "ok"


def test_folders(tmp_path: Path) -> None:
    assert judge_folder("cache", tmp_path / "new" / "deeper", "SPT_CACHE").state in ("ok", "note")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    check = judge_folder("runs", tmp_path / "file", "SPT_RUNS")
    assert check.state == "fail"
    assert "SPT_RUNS" in (check.cure or "")
    assert judge_shared_memory(tmp_path / "nowhere") is None


def test_a_broken_plugin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    points = {"spt.formats": [EntryPoint("broken", "no_such_module:thing", "spt.formats")]}
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points.get(group, []))
    (check,) = judge_plugins()
    assert (check.name, check.state) == ("plug-in broken", "fail")
