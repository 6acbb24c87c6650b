"""Sums over processes: the same in all of them, round after round, however late one of them is."""

import random
import time

import pytest
import torch

from relgrounding import _ranks, _summing
from tests.ranks import together

ROUNDS, SIZE = 12, 5


def parts(turn: int) -> torch.Tensor:
    return torch.randn(3, SIZE, generator=torch.Generator().manual_seed(turn), dtype=torch.float64)


def sums(most: int) -> tuple[bool, list[torch.Tensor]]:
    _summing.MOST = most
    late = random.Random(_ranks.rank())
    summed, found = _summing.Sum(SIZE, torch.float64, torch.device("cpu")), []
    for turn in range(ROUNDS):
        summed.own().copy_(parts(turn)[_ranks.rank()])
        _ranks.barrier()
        time.sleep(late.choice((0, 0, 0.01)))  # while others already write the next one
        found.append(summed.total().clone())
    return summed._parts is not None, found


@pytest.mark.parametrize("most", [4, 2])
def test_all_processes_have_the_sum_of_each_round(most):
    results = together(3, sums, most)
    for shares, found in results:
        assert shares == (most >= 3)
        for turn, total in enumerate(found):
            torch.testing.assert_close(total, parts(turn).sum(0), rtol=1e-14, atol=1e-14)
            assert torch.equal(total, results[0][1][turn])
