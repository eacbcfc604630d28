"""Runs of pruned ViTs: what follows the run's progress follows it after a stop too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sptcore.errors import UsageError
from sptcore.models.variants import build_backbone, find_backbone
from sptcore.runs import Run, new_run
from sptcore.training.loop import fit
from sptcore.training.prepare import build_model, prepare
from sptcore.training.step import Stepper
from sptcore.training.trial import try_run
from tests.support.training import STEPS, difference, final_state, mini_data, tiny_config, tiny_run

MODELS = ("evit-nano", "dynamicvit-nano")


class Crash(Exception):
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module", params=MODELS)
def whole(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nobody disturbed."""
    return tiny_run(tmp_path_factory.mktemp("runs") / "whole", data, model=request.param, res="128x128").run


def test_the_keep_rate_falls_with_the_steps(whole: Run) -> None:
    ratios = [row["select_ratio.stage3"] for row in whole.metrics() if "loss" in row]
    assert len(ratios) == STEPS
    if whole.config["train"]["model"] == "evit-nano":
        assert ratios[0] == 1  # before a thirtieth of the run
        own = pytest.approx((0.7 + 0.49) / 2, abs=0.03)
        assert 1 > ratios[1] > ratios[2] == own == ratios[3]  # a quarter of it; half and three quarters


@pytest.mark.parametrize("crash_at", [1, 3])
def test_a_run_that_crashed_ends_bit_for_bit_like_one_that_did_not(
    crash_at: int, whole: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(data, model=whole.config["train"]["model"], res="128x128")
    run = new_run("train", "tiny", folder=tmp_path / "run")
    take = Stepper.__call__

    def crash(self, state, batches):
        if state.step == crash_at:
            raise Crash
        return take(self, state, batches)

    with monkeypatch.context() as patched:
        patched.setattr(Stepper, "__call__", crash)
        with pytest.raises(Crash):
            fit(config, run)
    fit(config, run, resume=True)
    assert difference(final_state(whole), final_state(run)) is None


def test_the_keep_rate_can_be_set_and_other_bodies_refuse_it(data: Path) -> None:
    assert prepare(tiny_config(data, model="evit-nano", keep_rate=0.4)).spec.backbone.fixed_ratios == (0.4, 0.4**2)
    with pytest.raises(UsageError, match="'keep_rate' is not a setting"):
        prepare(tiny_config(data, model="spt-nano", keep_rate=0.4))
    with pytest.raises(UsageError, match="'num_spa_blocks' is not a setting of a ViT"):
        prepare(tiny_config(data, model="evit-nano", num_spa_blocks=2))


def test_a_run_is_tried_at_the_keep_rate_it_begins_with(data: Path) -> None:
    """Its time is an estimate for all steps from the first two."""
    assert try_run(tiny_config(data, model="evit-nano")).loss > 0


def test_weights_of_another_tool_start_the_backbone(data: Path, tmp_path: Path) -> None:
    """A state dict under timm's names, for a model whose predictors it does not know."""
    torch.manual_seed(1)
    given = build_backbone("vit-nano").state_dict()
    torch.save(given, tmp_path / "vit.pth")
    config = tiny_config(data, model="dynamicvit-nano", init=str(tmp_path / "vit.pth"))
    prepared = prepare(config)
    body = find_backbone(build_model(prepared.task, prepared.spec, config)).state_dict()
    assert all(torch.equal(body[name], value) for name, value in given.items())
    assert {name.split(".")[0] for name in body.keys() - given.keys()} == {"pruning"}
