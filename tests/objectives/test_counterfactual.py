from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relgrounding.graphs import GraphStructure
from relgrounding.objectives import MemoryBank, destroy_edges, replace_rows
from tests.graphs.multigraphs import build, in_edges, multigraphs


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _chosen(data, nodes: int) -> torch.Tensor:
    return torch.tensor(data.draw(st.lists(st.booleans(), min_size=nodes, max_size=nodes)), dtype=torch.bool)


def _touches(edge: tuple[int, int, int], chosen: torch.Tensor) -> bool:
    return edge[0] != edge[1] and bool(chosen[edge[0]] or chosen[edge[1]])


@given(multigraphs(), st.data())
def test_removed_edges_are_gone_and_all_others_are_there(drawn, data):
    structure = build(drawn)
    chosen = _chosen(data, structure.num_nodes)
    left = in_edges(destroy_edges(structure, chosen))
    assert left == [edge for edge in in_edges(structure) if not _touches(edge, chosen)]


@given(multigraphs(), st.data(), st.integers(0, 1000))
def test_rewired_edges_keep_their_number_one_end_and_their_type(drawn, data, seed):
    structure = build(drawn)
    chosen = _chosen(data, structure.num_nodes)
    before = Counter(in_edges(structure))
    changed = destroy_edges(structure, chosen, "rewired", _seeded(seed))
    after = Counter(in_edges(changed))
    untouched = Counter({e: n for e, n in before.items() if not _touches(e, chosen)})
    assert not untouched - after
    moved = list((after - untouched).elements())
    assert len(moved) == structure.num_edges - untouched.total()
    item = structure.node_item
    for source, destination, _ in moved:
        assert source != destination
        assert item[source] == item[destination]
        assert chosen[source] or chosen[destination]
    # The chosen end stays, of two the destination; each such end is still there, as often and with its types.
    for end in (0, 1):
        kept = Counter((e[end], e[2]) for e in (before - untouched).elements() if bool(chosen[e[1]]) == (end == 1))
        assert not kept - Counter((e[end], e[2]) for e in moved)


@given(multigraphs(), st.data(), st.integers(0, 1000))
def test_retyped_edges_keep_their_ends_and_lose_their_type(drawn, data, seed):
    structure = build(drawn)
    chosen = _chosen(data, structure.num_nodes)
    changed = destroy_edges(structure, chosen, "retyped", _seeded(seed))
    before, after = in_edges(structure), in_edges(changed)
    assert sorted(e[:2] for e in before) == sorted(e[:2] for e in after)
    assert Counter(e for e in before if not _touches(e, chosen)) == Counter(e for e in after if not _touches(e, chosen))
    single = [e for e in before if _touches(e, chosen) and sum(o[:2] == e[:2] for o in before) == 1]
    assert not set(single) & set(after)


def test_a_rewired_edge_may_end_at_any_other_proposal():
    star = torch.tensor([1, 2, 3, 4]), torch.tensor([0, 0, 0, 0])
    structure = GraphStructure.from_edges(*star, torch.zeros(4, dtype=torch.int64), ["near"], torch.tensor([5]))
    chosen = torch.tensor([True, False, False, False, False])
    ends = Counter(
        source
        for seed in range(200)
        for source, _, _ in in_edges(destroy_edges(structure, chosen, "rewired", _seeded(seed)))
    )
    assert set(ends) == {1, 2, 3, 4}
    assert all(150 < n < 250 for n in ends.values())


def test_changes_that_cannot_be_made_are_refused():
    structure = GraphStructure.from_edges(
        torch.tensor([0]), torch.tensor([1]), torch.tensor([0]), ["overlaps"], torch.tensor([2])
    )
    chosen = torch.tensor([True, False])
    with pytest.raises(ValueError, match="cannot get another; use removed or rewired"):
        destroy_edges(structure, chosen, "retyped")
    with pytest.raises((ValueError, TypeError), match="burned"):
        destroy_edges(structure, chosen, "burned")


def _bank(rows: list[list[float]], owners: list[int], size: int = 8) -> MemoryBank:
    bank = MemoryBank(size, len(rows[0]))
    bank.push(torch.tensor(rows), torch.tensor(owners))
    return bank


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.data(), st.integers(0, 1000))
def test_replaced_rows_come_from_other_samples_and_the_others_keep_their_bits(owners, data, seed):
    owners = torch.tensor(owners)
    chosen = _chosen(data, len(owners))
    features = torch.randn(len(owners), 2, generator=_seeded(seed))
    # A bank row is its owner's number: what was drawn tells where it came from.
    bank = _bank([[float(k)] * 2 for k in (0, 0, 0, 0, 0, 1, 3)], [0, 0, 0, 0, 0, 1, 3])
    replaced = replace_rows(features, chosen, bank, owners, _seeded(seed))
    assert torch.equal(replaced[~chosen], features[~chosen])
    assert (replaced[chosen][:, 0] != owners[chosen]).all()
    assert set(replaced[chosen][:, 0].tolist()) <= {0.0, 1.0, 3.0}
    assert torch.equal(replaced, replace_rows(features, chosen, bank, owners, _seeded(seed)))


def test_every_row_of_another_sample_is_drawn_alike():
    bank = _bank([[0.0]] * 5 + [[1.0], [2.0]], [0] * 5 + [1, 2])
    drawn = bank.draw(torch.zeros(4000, dtype=torch.int64), _seeded(0)).squeeze(1)
    assert set(drawn.tolist()) == {1.0, 2.0}
    assert abs(drawn.mean().item() - 1.5) < 0.05


def test_gradients_reach_the_rows_that_stay_and_no_others():
    features = torch.randn(3, 2, requires_grad=True)
    bank = _bank([[5.0, 5.0], [6.0, 6.0]], [7, 8])
    replace_rows(features, torch.tensor([False, True, False]), bank, torch.arange(3), _seeded(0)).sum().backward()
    assert features.grad.tolist() == [[1, 1], [0, 0], [1, 1]]


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.integers(2, 9))
def test_the_bank_keeps_the_latest_rows(sizes, size):
    bank, pushed = MemoryBank(size, 1), []
    for count in sizes:
        rows = [float(len(pushed) + k) for k in range(count)]
        pushed += rows
        bank.push(torch.tensor(rows).unsqueeze(1), torch.tensor(rows).long())
    assert sorted(bank.rows[: bank.filled, 0].tolist()) == pushed[-size:]
    assert torch.equal(bank.rows[: bank.filled, 0].long(), bank.owners[: bank.filled])
    other = MemoryBank(size, 1)
    other.load_state_dict(bank.state_dict())
    for one in (bank, other):
        one.push(torch.tensor([[-1.0]]), torch.tensor([-1]))
    assert torch.equal(bank.rows, other.rows)
    assert (bank.filled, bank.next) == (other.filled, other.next)


def test_a_bank_without_another_sample_says_so():
    bank = _bank([[1.0], [2.0]], [3, 3])
    assert not bank.ready
    with pytest.raises(ValueError, match="rows of fewer than two samples; push more before drawing"):
        bank.draw(torch.tensor([3]))
    with pytest.raises(ValueError, match="a bank of 1 rows cannot hold those of another sample"):
        MemoryBank(1, 2)
    with pytest.raises(ValueError, match=r"the checkpoint's bank is \(8, 1\), this one \(4, 1\)"):
        MemoryBank(4, 1).load_state_dict(bank.state_dict())
