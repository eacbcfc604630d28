"""The order of images: complete, seeded, the same from any starting point."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from sptcore.training.sampler import Draw, EpochSampler, image_generator, step_seed


def indexes(batches: list[list[Draw]]) -> list[int]:
    return [draw.index for batch in batches for draw in batch]


def test_an_epoch_shows_every_image_once() -> None:
    sampler = EpochSampler(12, 4, seed=3)
    assert sorted(indexes(list(sampler.batches(0)))) == list(range(12))
    assert sampler.steps_per_epoch == 3


def test_epochs_and_seeds_differ_and_repeat() -> None:
    first = indexes(list(EpochSampler(50, 5, seed=1).batches(0)))
    assert first == indexes(list(EpochSampler(50, 5, seed=1).batches(0)))
    assert first != indexes(list(EpochSampler(50, 5, seed=1).batches(1)))
    assert first != indexes(list(EpochSampler(50, 5, seed=2).batches(0)))


@pytest.mark.parametrize("skip", [0, 1, 4, 6])
def test_skipping_is_the_same_as_having_seen(skip: int) -> None:
    sampler = EpochSampler(25, 4, seed=9)
    assert list(sampler.batches(2, skip=skip)) == list(sampler.batches(2))[skip:]


@pytest.mark.parametrize(("length", "batch", "world"), [(12, 2, 2), (13, 2, 3), (3, 4, 2)])
def test_ranks_share_an_epoch_in_full_steps(length: int, batch: int, world: int) -> None:
    ranks = [EpochSampler(length, batch, seed=0, rank=rank, world=world) for rank in range(world)]
    dealt = [list(sampler.batches(0)) for sampler in ranks]
    assert {len(batches) for batches in dealt} == {ranks[0].steps_per_epoch}
    assert all(len(one) == batch for batches in dealt for one in batches)
    assert {index for batches in dealt for index in indexes(batches)} == set(range(length))
    in_turn = [draw.index for step in zip(*dealt, strict=True) for one in step for draw in one]
    assert in_turn[:length] == ranks[0].order(0).tolist()


def test_without_shuffling_the_order_is_the_files() -> None:
    assert indexes(list(EpochSampler(5, 2, shuffle=False).batches(7)))[:5] == list(range(5))


def test_nothing_to_deal_is_refused() -> None:
    for wrong in ((0, 1, 0, 1), (1, 0, 0, 1), (1, 1, 2, 2)):
        length, batch, rank, world = wrong
        with pytest.raises(ValueError):
            EpochSampler(length, batch, rank=rank, world=world)


def test_draws_have_no_memory_and_do_not_repeat_each_other() -> None:
    first = image_generator(0, Draw(1, 5)).random(8)
    assert np.array_equal(first, image_generator(0, Draw(1, 5)).random(8))
    for other in (image_generator(1, Draw(1, 5)), image_generator(0, Draw(2, 5)), image_generator(0, Draw(1, 6))):
        assert not np.array_equal(first, other.random(8))
    seeds = [step_seed(seed, number) for number in range(200) for seed in range(2)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert any(a < b for a, b in pairwise(seeds))
    assert any(a > b for a, b in pairwise(seeds))
