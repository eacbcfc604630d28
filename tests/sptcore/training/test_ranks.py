"""Two processes as torchrun and SLURM start them: they evaluate as one does, none hangs, a dead one is noticed."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from sptcore.training.distributed import ALONE
from sptcore.training.evaluate import Evaluation
from tests.support.ranks import evaluation, start_ranks
from tests.support.training import difference


@pytest.fixture(scope="module", params=["torchrun", "slurm"])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found, by rank."""
    out = tmp_path_factory.mktemp(request.param)
    processes = start_ranks(request.param, ["-m", "tests.support.ranks", str(out), "sample"])
    ends = [(process.communicate(timeout=300), process.returncode) for process in processes]
    assert [code for _, code in ends] == [0, 9], ends
    return [pickle.loads((out / f"{rank}.pickle").read_bytes()) for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> Evaluation:
    """The same evaluation by this process alone."""
    return evaluation(ALONE, "sample")


pytestmark = pytest.mark.slow


def test_they_know_their_places(ranks: list[dict[str, Any]]) -> None:
    assert [(one["place"].rank, one["place"].world, one["place"].local_rank) for one in ranks] == [(0, 2, 0), (1, 2, 1)]
    assert [one["gathered"] for one in ranks] == [[0, 1], [0, 1]]


def test_shares_of_an_evaluation_are_that_of_one_process(ranks: list[dict[str, Any]], alone: Evaluation) -> None:
    shared, other = ranks[0]["evaluation"], ranks[1]["evaluation"]
    assert alone.figures() == shared.figures()
    assert alone.results == shared.results
    assert len(alone.results) > 0
    assert alone.tokens == shared.tokens
    assert sorted(one.image_id for one in shared.tokens) == sorted({one.image_id for one in alone.tokens})
    assert alone.counts == shared.counts
    assert (other.scores, other.results) == ({}, [])


def test_a_rank_that_selects_nothing_holds_up_nobody(ranks: list[dict[str, Any]]) -> None:
    one, other = ranks[0]["step"], ranks[1]["step"]
    assert min(one["ratios"]) > 0
    assert max(other["ratios"]) == 0
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in one["gradients"].values())
    assert difference(one["gradients"], other["gradients"]) is None


def test_who_is_left_says_that_another_is_gone(ranks: list[dict[str, Any]]) -> None:
    assert "another process of the run is gone, as rank 0 notices" in ranks[0]["lost"]
