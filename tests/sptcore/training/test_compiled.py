"""Compiled feed-forward networks: same losses, same names, few recompilations, a clear error without a compiler.

Except where a test says so, the graphs are captured and run without generating code, which is quick.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sptcore.errors import EnvironmentFault
from sptcore.models.layers import Mlp
from sptcore.runs import Run, load_checkpoint, new_run
from sptcore.runs.models import load_model
from sptcore.training import compiled
from sptcore.training.compiled import compile_dense_parts, uncompiled
from sptcore.training.loop import fit
from tests.support.kills import finish, start
from tests.support.training import STEPS, difference, final_state, mini_data, tiny_config, tiny_run

CPU = torch.device("cpu")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")


@pytest.mark.usefixtures("_quick")
def test_a_compiled_run_is_the_same_run(data: Path, tmp_path: Path) -> None:
    plain, fused = (tiny_run(tmp_path / str(on), data, compile=on).run for on in (False, True))
    one, other = ([row for row in run.metrics() if "loss" in row] for run in (plain, fused))
    assert len(one) == STEPS
    for a, b in zip(one, other, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["select_ratio.stage3"] == a["select_ratio.stage3"]
    saved = [load_checkpoint(run.checkpoints / "last.pt") for run in (plain, fused)]
    for part in ("model", "average"):
        assert list(saved[0][part]) == list(saved[1][part])
    assert load_model(fused).info.model == load_model(plain).info.model


@pytest.mark.usefixtures("_quick")
def test_a_compiled_run_goes_on_bit_for_bit_with_few_graphs(data: Path, tmp_path: Path) -> None:
    from torch._dynamo.utils import counters

    counters.clear()
    whole = tiny_run(tmp_path / "whole", data, compile=True).run
    graphs = counters["stats"]["unique_graphs"]
    assert 1 <= graphs <= 16
    run = new_run("train", "tiny", folder=tmp_path / "run")
    fit(tiny_config(data, compile=True, max_steps=2), run)
    torch._dynamo.reset()
    fit(tiny_config(data, compile=True), run, resume=True)
    assert difference(final_state(whole)["checkpoint"]["model"], final_state(run)["checkpoint"]["model"]) is None


@pytest.mark.usefixtures("_quick")
def test_numbers_of_tokens_do_not_recompile() -> None:
    from torch._dynamo.utils import counters

    counters.clear()
    model = torch.nn.Sequential(Mlp(8, 32), Mlp(8, 32), Mlp(16, 64))
    names = list(model.state_dict())
    assert compile_dense_parts(model, CPU) == 3
    assert list(model.state_dict()) == names
    for tokens in range(2, 40):
        x = torch.randn(tokens, 8, requires_grad=True)
        model[1](model[0](x)).sum().backward()
    assert counters["stats"]["unique_graphs"] == 1  # the two of one width share it
    with uncompiled():
        model[2](torch.randn(3, 16))
    assert counters["stats"]["unique_graphs"] == 1


def test_generated_code_computes_the_same() -> None:
    """The real thing, on one layer: C++ is compiled here."""
    torch.manual_seed(0)
    layer = Mlp(8, 32)
    inputs = [torch.randn(tokens, 8) for tokens in (5, 9, 0)]

    def gradients() -> list[torch.Tensor]:
        layer.zero_grad()
        outputs = [layer(x) for x in inputs]
        torch.cat(outputs).square().sum().backward()
        return [*outputs, *(parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None)]

    plain = gradients()
    compile_dense_parts(layer, CPU)
    for one, other in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(one, other)


def test_without_a_compiler_the_cure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as settings

    monkeypatch.setattr(settings.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(EnvironmentFault) as caught:
        compile_dense_parts(Mlp(8, 32), CPU)
    assert "compiler" in str(caught.value.hint)


@pytest.mark.usefixtures("_quick")
def test_two_processes_compile_as_one_does(data: Path, tmp_path: Path) -> None:
    settings = {"batch": 1, "compile": True}
    assert finish(start(tmp_path / "two", data, settings, 2)) == [0, 0]
    one = tiny_run(tmp_path / "one", data, batch=1, accum=2).run
    rows = ([row["loss"] for row in run.metrics() if "loss" in row] for run in (Run(tmp_path / "two"), one))
    assert next(rows) == pytest.approx(next(rows), rel=1e-4)
