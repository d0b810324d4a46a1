"""Index streams: every rank its share, all ranks together the same global batches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning.data.loading.samplers import EvalSampler, TrainSampler

RANKS = st.integers(1, 4)


def epoch_of(size: int, batch: int, seed: int, ranks: int, epoch: int = 0) -> list[list[tuple[int, int]]]:
    """What each rank reads in an epoch."""
    streams = []
    for rank in range(ranks):
        sampler = TrainSampler(size, batch, seed, rank, ranks)
        sampler.set_epoch(epoch)
        streams.append(list(sampler))
        assert len(streams[-1]) == len(sampler)
    return streams


@given(st.integers(1, 40), st.integers(1, 5), RANKS, st.integers(0, 5), st.integers(0, 3))
def test_ranks_share_the_same_global_batches(extra: int, per_rank: int, ranks: int, seed: int, epoch: int) -> None:
    batch = per_rank * ranks
    size = batch + extra
    alone = epoch_of(size, batch, seed, 1, epoch)[0]
    streams = epoch_of(size, batch, seed, ranks, epoch)
    steps = size // batch
    for step in range(steps):
        together = [key for stream in streams for key in stream[step * per_rank : (step + 1) * per_rank]]
        assert sorted(together) == sorted(alone[step * batch : (step + 1) * batch])
    everything = [index for stream in streams for _, index in stream]
    assert len(everything) == len(set(everything)) == steps * batch  # nothing twice, only the tail is dropped
    assert set(everything) <= set(range(size)) and {e for stream in streams for e, _ in stream} == {epoch}


def test_order_depends_on_seed_and_epoch_alone() -> None:
    first = epoch_of(50, 10, 0, 1)
    assert first == epoch_of(50, 10, 0, 1)
    others = [epoch_of(50, 10, 0, 1, 1), epoch_of(50, 10, 1, 1)]
    indices = [[i for _, i in stream] for (stream,) in [first, *others]]
    assert indices[0] != indices[1] != indices[2] != indices[0]
    sampler = TrainSampler(50, 10, 0)
    sampler.set_epoch(1)
    list(sampler)
    sampler.set_epoch(0)
    assert list(sampler) == first[0]


def test_what_does_not_divide_names_the_fix() -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size=10 is the batch over all ranks: make it a multiple of 3"):
        TrainSampler(100, 10, 0, 0, 3)
    with pytest.raises(ValueError, match=r"the train split has 9 videos, .*; lower data\.batch_size=10"):
        TrainSampler(9, 10, 0)
    assert len(TrainSampler(10, 10, 0)) == 10


@given(st.integers(0, 40), RANKS)
def test_evaluation_covers_all_with_equal_steps(size: int, ranks: int) -> None:
    streams = [list(EvalSampler(size, rank, ranks)) for rank in range(ranks)]
    assert len({len(stream) for stream in streams}) == 1 and len(EvalSampler(size, 0, ranks)) == len(streams[0])
    everything = [index for stream in streams for _, index in stream]
    assert set(everything) == set(range(size)) and {e for stream in streams for e, _ in stream} <= {0}
    assert len(everything) - size < ranks  # padding is less than one video a rank
    if ranks == 1:
        assert everything == list(range(size))


@given(st.integers(1, 40), st.integers(1, 5), RANKS, st.integers(0, 8))
def test_an_epoch_that_is_continued_has_the_rest_of_its_batches(
    extra: int, per_rank: int, ranks: int, steps: int
) -> None:
    batch = per_rank * ranks
    size = batch + extra
    for rank in range(ranks):
        whole = epoch_of(size, batch, 3, ranks, 2)[rank]
        sampler = TrainSampler(size, batch, 3, rank, ranks)
        sampler.start_at(2, steps)
        sampler.set_epoch(2)  # as Lightning does when it goes on
        assert list(sampler) == whole[steps * per_rank :] and len(sampler) == len(whole)
        sampler.set_epoch(3)
        assert list(sampler) == epoch_of(size, batch, 3, ranks, 3)[rank]
