"""Mixed precision: float16 with scaled gradients, its overflows, and its exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.amp.grad_scaler import GradScaler

from sptcore.errors import NumericalError
from sptcore.runs import load_checkpoint, new_run
from sptcore.training import loop, step
from sptcore.training.loop import fit
from sptcore.training.step import amp_dtype, make_scaler
from tests.support.training import STEPS, difference, final_state, mini_data, tiny_config, tiny_run

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("data") / "set")


def start_at(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    monkeypatch.setattr(step, "make_scaler", lambda config, device: GradScaler(device.type, init_scale=scale))


def test_the_dtype_of_forward_passes_and_who_needs_a_scaler(data: Path) -> None:
    wanted = {"off": (None, None), "bf16": (torch.bfloat16,) * 2, "fp16": (torch.float16,) * 2}
    wanted["auto"] = (None, torch.bfloat16)
    for amp, dtypes in wanted.items():
        config = tiny_config(data, amp=amp)
        assert (amp_dtype(config, CPU), amp_dtype(config, CUDA)) == dtypes
        assert (make_scaler(config, CPU) is not None) == (amp == "fp16")


def test_a_scale_that_is_too_high_comes_down_without_a_fault(data: Path, tmp_path: Path) -> None:
    report = tiny_run(tmp_path / "run", data, amp="fp16", epochs=4, max_bad_steps=1)
    rows = [row for row in report.run.metrics() if "loss" in row]
    assert report.skipped == 0
    assert 1 <= rows[-1]["overflowed"] < 8
    assert rows[-1]["grad_scale"] == 65536 / 2 ** rows[-1]["overflowed"]
    assert rows[-1]["skipped"] == 0
    assert len(rows) == 8 - rows[-1]["overflowed"]


def test_gradients_are_measured_and_clipped_without_their_scale(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tiny_run(tmp_path / "plain", data, max_steps=1).run.metrics()[0]
    start_at(monkeypatch, 256.0)
    scaled = tiny_run(tmp_path / "scaled", data, amp="fp16", max_steps=1).run.metrics()[0]
    assert scaled["grad_norm"] == pytest.approx(plain["grad_norm"], rel=0.25)
    assert scaled["overflowed"] == 0


def test_what_no_scale_mends_is_a_fault(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients that are infinite whatever the scale: it comes down to 1, from there on every step is a bad one."""
    start_at(monkeypatch, 4.0)

    def poison(model: Any, spec: Any, config: Any, progress: Any) -> Any:
        built = real(model, spec, config, progress)
        next(built.parameters()).register_hook(lambda gradient: gradient * float("inf"))
        return built

    real = loop.build_model
    monkeypatch.setattr(loop, "build_model", poison)
    with pytest.raises(NumericalError):
        tiny_run(tmp_path / "run", data, amp="fp16", epochs=4, max_bad_steps=3)
    saved = load_checkpoint(max((tmp_path / "run" / "checkpoints").glob("step-*.pt")))
    assert saved["overflowed"] == 2


@pytest.mark.parametrize("amp", ["fp16", "bf16"])
def test_a_stop_and_a_resume_are_bit_equal(amp: str, data: Path, tmp_path: Path) -> None:
    whole = tiny_run(tmp_path / "whole", data, amp=amp, epochs=2).run
    run = new_run("train", "tiny", folder=tmp_path / "run")
    for steps in range(1, STEPS + 1):
        torch.manual_seed(steps)
        fit(tiny_config(data, amp=amp, epochs=2, max_steps=steps), run, resume=steps > 1)
    one, other = (final_state(each)["checkpoint"] for each in (whole, run))
    assert (one["scaler"] is not None) == (amp == "fp16")
    for part in ("model", "average", "optimizer", "scaler", "step", "overflowed"):
        assert difference(one[part], other[part], part) is None
