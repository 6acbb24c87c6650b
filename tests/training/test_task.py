from relgrounding.datasets import Query
from relgrounding.training import hold_out


def _queries():
    return [Query(f"{i}-{k}", f"item{i}", "text", ((0.0, 1.0),)) for i in range(20) for k in range(3)]


def test_no_item_is_on_both_sides_and_no_query_is_lost():
    queries = _queries()
    train, held = hold_out(queries, 0.25, seed=3)
    assert not {q.item for q in train} & {q.item for q in held}
    assert sorted(q.id for q in train + held) == sorted(q.id for q in queries)
    assert len({q.item for q in held}) == 5
    assert hold_out(queries, 0.25, seed=3) == (train, held)


def test_groups_are_held_out_whole():
    queries = [Query(f"{i}", f"item{i}", "text", ((0.0, 1.0),), group=f"pair{i // 2}") for i in range(20)]
    train, held = hold_out(queries, 0.3, seed=0)
    assert not {q.group for q in train} & {q.group for q in held}
