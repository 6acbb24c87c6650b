"""Sums over processes: the same in all of them, round after round, however late one of them is."""

import os
import random
import time

import pytest
import torch

from relgrounding import _ranks, _summing
from tests.ranks import together

ROUNDS, SIZE = 12, 5


def parts(turn: int) -> torch.Tensor:
    return torch.randn(3, SIZE, generator=torch.Generator().manual_seed(turn), dtype=torch.float64)


def opened_elsewhere(place: str, flags: int) -> int:
    file = os.memfd_create("another")  # as on a copy of the machine
    os.truncate(file, 2**20)
    return file


def sums(case: str) -> tuple[bool, list[torch.Tensor]]:
    if case == "many processes":
        _summing.MOST = 2
    if case == "an old C library":
        del os.memfd_create
    if case == "a copied machine" and not _ranks.is_main():
        os.open = opened_elsewhere
    late = random.Random(_ranks.rank())
    summed, found = _summing.Sum(SIZE, torch.float64, torch.device("cpu")), []
    for turn in range(ROUNDS):
        summed.own().copy_(parts(turn)[_ranks.rank()])
        _ranks.barrier()
        time.sleep(late.choice((0, 0, 0.01)))  # while others already write the next one
        found.append(summed.total().clone())
    return summed._parts is not None, found


@pytest.mark.parametrize("case", ["", "many processes", "an old C library", "a copied machine"])
def test_all_processes_have_the_sum_of_each_round(case):
    results = together(3, sums, case)
    for shares, found in results:
        assert shares == (not case)
        for turn, total in enumerate(found):
            torch.testing.assert_close(total, parts(turn).sum(0), rtol=1e-14, atol=1e-14)
            assert torch.equal(total, results[0][1][turn])
