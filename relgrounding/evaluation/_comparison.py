"""Differences between systems, query by query, with bootstrap intervals over queries and seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relgrounding.evaluation._kinds import QUERY_KINDS

_AT_ONCE = 1_000_000
"""Maximum number of resampled queries at a time, which limits the memory."""


@dataclass(frozen=True)
class Difference:
    """How two systems compare on the same queries.

    Attributes:
        queries: their number.
        ours: mean over queries and seeds.
        theirs: the same of the other system.
        low: lower end of the interval of ours - theirs; NaN where a single query leaves nothing to resample.
        high: upper end.
    """

    queries: int
    ours: float
    theirs: float
    low: float
    high: float

    @property
    def mean(self) -> float:
        """Return ours - theirs."""
        return self.ours - self.theirs

    def __str__(self) -> str:
        interval = "" if math.isnan(self.low) else f" [{self.low:+.1f}, {self.high:+.1f}]"
        return f"{self.mean:+.1f}{interval}"


def paired_bootstrap(
    ours: Sequence | np.ndarray,
    theirs: Sequence | np.ndarray,
    *,
    same_seeds: bool = True,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """Compare two systems on the same queries, with a percentile bootstrap interval of the difference of their means.

    Queries and seeds are resampled with replacement, independently of each other; both systems get the same queries
    and, with `same_seeds`, the same seeds. With a single seed only queries are resampled.

    An interval over few seeds is somewhat too narrow: resampling S seeds shows (S - 1) / S of their variance.

    Args:
        ours: (queries, seeds) value of each query in each run, such as 100 for a hit and 0 for a miss.
        theirs: (queries, other seeds), of the same queries in the same order.
        same_seeds: column s of both is a pair that shares the seed; False: each resamples its seeds on its own.
        confidence: of the interval, in (0, 1).
        resamples: their number, >= 1.
        seed: of the bootstrap.

    Raises:
        ValueError: no query, no seed, shapes that do not match, a value that is not finite, or a confidence or number
            of resamples out of its range.

    Source: `scipy.stats.bootstrap`; Owen, The pigeonhole bootstrap, Annals of Applied Statistics 2007, for the
    resampling of both.

    >>> hits = np.array([[100.0, 100.0], [0.0, 100.0], [100.0, 0.0], [0.0, 0.0]])
    >>> difference = paired_bootstrap(hits, np.zeros((4, 2)))
    >>> difference.mean, difference.low, difference.high
    (50.0, 0.0, 100.0)
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; give a number between 0 and 1, such as 0.95")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; give at least 1")
    first, second = _table(ours, "ours"), _table(theirs, "theirs")
    if len(first) != len(second):
        raise ValueError(f"ours has {len(first)} queries, theirs {len(second)}; give the same queries to both")
    if same_seeds and first.shape != second.shape:
        raise ValueError(
            f"ours has {first.shape[1]} seeds, theirs {second.shape[1]}; give the same seeds, or same_seeds=False"
        )
    tables = [first - second] if same_seeds else [first, -second]
    low, high = _interval(tables, confidence, resamples, seed) if len(first) > 1 else (math.nan, math.nan)
    return Difference(len(first), float(first.mean()), float(second.mean()), low, high)


def compare_runs(
    ours: Sequence | np.ndarray, theirs: Sequence | np.ndarray, kinds: Sequence[str] | None = None, **options: object
) -> dict[str, Difference]:
    """Compare two systems on all queries and on those of each kind.

    Args:
        ours: see `paired_bootstrap`.
        theirs: see `paired_bootstrap`.
        kinds: (queries,) the kind of each query, see `query_kind`; None: no kinds.
        options: of `paired_bootstrap`.

    Returns:
        By name: "all", then every kind that there is, those of `query_kind` in their order before others.

    Raises:
        ValueError: as `paired_bootstrap`, or another number of kinds than of queries.
    """
    first, second = _table(ours, "ours"), _table(theirs, "theirs")
    found = {"all": paired_bootstrap(first, second, **options)}  # type: ignore[arg-type]
    if kinds is None:
        return found
    if len(kinds) != len(first):
        raise ValueError(f"there are {len(kinds)} kinds for {len(first)} queries; give one per query")
    named = np.asarray(kinds)
    for kind in dict.fromkeys([*QUERY_KINDS, *sorted(set(kinds))]):
        rows = named == kind
        if rows.any():
            found[kind] = paired_bootstrap(first[rows], second[rows], **options)  # type: ignore[arg-type]
    return found


def _table(values: Sequence | np.ndarray, what: str) -> np.ndarray:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"{what} has the shape {table.shape}; give (queries, seeds), at least one of each")
    if not np.isfinite(table).all():
        raise ValueError(f"{what} holds a value that is not finite")
    return table


def _interval(tables: list[np.ndarray], confidence: float, resamples: int, seed: int) -> tuple[float, float]:
    """Return the interval of the sum of the tables' means; they share the resampled queries, not the seeds."""
    from scipy.stats import bootstrap  # takes a second to import

    queries = len(tables[0])
    several = [table for table in tables if table.shape[1] > 1]

    def statistic(rows: np.ndarray, *columns: np.ndarray, axis: int) -> np.ndarray:
        drawn = iter(columns)
        total = np.zeros(rows.shape[:-1])
        for table in tables:
            by_seed = np.stack([column[rows].mean(axis=-1) for column in table.T], axis=-1)
            if table.shape[1] > 1:
                by_seed = np.take_along_axis(by_seed, next(drawn), axis=-1)
            total += by_seed.mean(axis=-1)
        return total

    # Resampled are the numbers of queries and seeds, so that the systems share them.
    samples = [np.arange(queries), *(np.arange(table.shape[1]) for table in several)]
    result = bootstrap(
        samples,
        statistic,
        n_resamples=resamples,
        batch=max(1, _AT_ONCE // queries),
        vectorized=True,
        axis=-1,
        confidence_level=confidence,
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
