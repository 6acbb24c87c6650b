"""Where runs fail: by length of the query, by size of the target, by relation word."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from relgrounding.features import tokenize
from relgrounding.viz._predictions import Prediction
from relgrounding.viz._views import View

WORDS = (1, 2, 4, 6, 9, 13)


@dataclass(frozen=True)
class QueryGroup:
    """Some of the queries: their name and number, and each run's share of hits and mean IoU, both in percent."""

    name: str
    queries: int
    hits: list[float]
    iou: list[float]


def breakdowns(matched: Sequence[list[Prediction]], view: View) -> dict[str, list[QueryGroup]]:
    """Return groups of the queries, by the title of their table.

    Args:
        matched: for each query what each run answered.
        view: of all these runs.
    """
    words = [tokenize(answers[0].text) for answers in matched]
    lengths = np.array([max(1, len(w)) for w in words])
    names = [f"{low} to {high - 1} words" if high > 2 else "1 word" for low, high in pairwise(WORDS)]
    by_length = _between(lengths, WORDS, [*names, f"{WORDS[-1]} words or more"])
    edges, unit = view.size_edges, view.size_unit
    names = [f"under {edges[0]} {unit}", *(f"{low} to under {high} {unit}" for low, high in pairwise(edges))]
    sizes = np.array([view.size(answers[0].targets) for answers in matched])
    by_size = _between(sizes, (0, *edges), [*names, f"{edges[-1]} {unit} or more"])
    having = {word: np.array([word in w for w in words]) for word in view.relation_words}
    none = ~np.logical_or.reduce(list(having.values()))
    relations = _groups(matched, having)
    relations.sort(key=lambda group: -group.queries)
    return {
        "all queries": _groups(matched, {"all": np.ones(len(matched), dtype=bool)}),
        "by length of the query": _groups(matched, by_length),
        view.size_title: _groups(matched, by_size),
        "by relation word": relations + _groups(matched, {"none of these": none}),
    }


def _between(values: np.ndarray, edges: Sequence[int], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Of each name which values lie from its edge to the next one."""
    ends = zip(names, edges, (*edges[1:], np.inf), strict=True)
    return {name: (values >= low) & (values < high) for name, low, high in ends}


def _groups(matched: Sequence[list[Prediction]], named: dict[str, np.ndarray]) -> list[QueryGroup]:
    """Of each name and (queries,) mask, but for the empty ones."""
    values = 100.0 * np.array([[(p.hit, p.iou) for p in answers] for answers in matched])
    return [
        QueryGroup(name, int(mask.sum()), *values[mask].mean(0).T.tolist())
        for name, mask in named.items()
        if mask.any()
    ]
