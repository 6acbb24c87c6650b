"""Where runs fail: by length of the query, by size of the target, by relation word."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from relgrounding.data import tokenize
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
    lengths_named = {
        (f"{low} word" if high == 2 else f"{low} to {high - 1} words"): (lengths >= low) & (lengths < high)
        for low, high in pairwise(WORDS)
    } | {f"{WORDS[-1]} words or more": lengths >= WORDS[-1]}
    sizes, edges, unit = np.array([view.size(a[0].targets) for a in matched]), view.size_edges, view.size_unit
    sizes_named = {f"under {edges[0]} {unit}": sizes < edges[0]}
    sizes_named |= {f"{low} to under {high} {unit}": (sizes >= low) & (sizes < high) for low, high in pairwise(edges)}
    sizes_named[f"{edges[-1]} {unit} or more"] = sizes >= edges[-1]
    having = {word: np.array([word in w for w in words]) for word in view.relation_words}
    none = ~np.logical_or.reduce(list(having.values()))
    relations = _groups(matched, having)
    relations.sort(key=lambda group: -group.queries)
    return {
        "all queries": _groups(matched, {"all": np.ones(len(matched), dtype=bool)}),
        "by length of the query": _groups(matched, lengths_named),
        view.size_title: _groups(matched, sizes_named),
        "by relation word": relations + _groups(matched, {"none of these": none}),
    }


def _groups(matched: Sequence[list[Prediction]], named: dict[str, np.ndarray]) -> list[QueryGroup]:
    """Of each name and (queries,) mask, but for the empty ones."""
    values = 100.0 * np.array([[(p.hit, p.iou) for p in answers] for answers in matched])
    return [
        QueryGroup(name, int(mask.sum()), *values[mask].mean(0).T.tolist())
        for name, mask in named.items()
        if mask.any()
    ]
