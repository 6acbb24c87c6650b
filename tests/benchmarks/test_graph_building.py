"""The benchmark of graph building compares the same graphs, and excludes others."""

import pytest
import torch

from benchmarks import building
from benchmarks.building import Way
from benchmarks.graph_building import COLUMNS, contestants, lines, measure_case

MOMENTS = building.graphs.map_proposals(6, dense_width=6)
SMALL = {
    "equal": lambda: building.videos([MOMENTS] * 3),
    "different": lambda: building.videos([MOMENTS * (k + 1) for k in range(3)]),
    "boxes": lambda: building.images(5),
    "join": lambda: building.joining(4),
}


class Here:
    """What `Measured` does, in this process."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def ask(self, *request: str):
        return building.answer(list(request))


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(building, "CASES", dict(SMALL))
    monkeypatch.setattr(building, "BESIDE", 1)
    monkeypatch.setattr(building, "ITEMS", 3)
    building.ways.cache_clear()


@pytest.mark.parametrize("case", list(SMALL))
def test_all_ways_give_the_same_graph_and_get_figures(case):
    pytest.importorskip("torch_geometric")
    here, before = Here(), Here("before")
    assert next(iter(contestants(case, [here]))) == "ours"
    assert set(contestants(case, [here])) == set(building.ways(case))
    rows = measure_case(case, [here, before], [here, before], turns=1)
    assert {"ours", "ours, at before"} < {row["way"] for row in rows}
    assert all(row["warm, processor"] > 0 and row["cold, clock"] > 0 for row in rows)
    table = lines(rows)
    assert len(table) == len(rows)
    assert all(len(line) == 1 + len(COLUMNS) for line in table)


def test_another_graph_gets_no_figure(monkeypatch):
    def with_a_wrong_one():
        fewer = Way(lambda _: building.graphs.temporal_structure([MOMENTS] * 3, iou_threshold=0.4))
        return {**building.videos([MOMENTS] * 3), "wrong": fewer}

    monkeypatch.setitem(building.CASES, "equal", with_a_wrong_one)
    assert "wrong" in building.ways("equal")
    assert "wrong" not in contestants("equal", [Here()])


def test_a_digest_counts_edges_and_sees_each_of_them():
    one = building.graphs.temporal_structure([MOMENTS] * 3)
    assert building.digest(one) == building.digest(one.to_dgl())
    for edge in (0, 7, one.num_edges - 1):
        keep = torch.ones(one.num_edges, dtype=torch.bool)
        keep[edge] = False
        other = one.keep_edges(keep)
        assert building.digest(other)[0] == one.num_edges - 1
        assert building.digest(other)[1] != building.digest(one)[1]
