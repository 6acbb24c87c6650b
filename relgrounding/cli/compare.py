"""Compare two systems query by query, each with one run or several seeds: differences with bootstrap intervals.

    relgrounding compare runs/edges-0 runs/edges-1 runs/edges-2 --with runs/none-0 runs/none-1 runs/none-2
    relgrounding compare runs/charades_vgn --with runs/other --protocol "official, select=score" --out difference.md
    relgrounding compare runs/edges-0 --with runs/none-0 --words second third 2nd 3rd

Reads predictions.jsonl of the runs. Queries and seeds are resampled (--resamples times); runs of the same seeds are
compared in pairs. Generated scenes differ between seeds: there, queries alone are resampled. Words tell the kind of a
query: time (before, after, then, again, until), order (second, leftmost, biggest), place (left, top), relation (next
to, behind), other; see relgrounding.evaluation.query_kind.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from relgrounding._files import check_output, replacing
from relgrounding._printing import printable, show
from relgrounding.cli import local

if TYPE_CHECKING:
    import numpy as np

    from relgrounding.evaluation import Difference
    from relgrounding.viz import Prediction, Run
    from relgrounding.viz._views import View

ERRORS = (ValueError,)
MOST_RESAMPLES = 1_000_000
HEAD = b"ours: "
"""First bytes of the tables, and of a file that may be replaced by them."""


class Compared(NamedTuple):
    """A metric of two systems on the queries of a split that both answered."""

    split: str
    protocol: str
    metric: str
    kinds: "dict[str, Difference]"
    """By kind of query; the first is "all"."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("runs", nargs="+", type=local, metavar="RUN", help="folders of a system's finished runs")
    parser.add_argument(
        "--with",
        nargs="+",
        type=local,
        metavar="RUN",
        dest="others",
        required=True,
        help="folders of the second system's runs",
    )
    parser.add_argument("--split", help="as in results.json (default: all in common)")
    parser.add_argument("--protocol", help="as in results.json (default: all in common)")
    parser.add_argument("--metric", nargs="+", help="names of metrics (default: all)")
    parser.add_argument("--words", nargs="+", help="only queries with one of these words (default: all)")
    parser.add_argument("--confidence", type=float, default=0.95, help="confidence level (default: %(default)s)")
    parser.add_argument("--resamples", type=int, default=2000, help="bootstrap samples (default: %(default)s)")
    parser.add_argument("--out", type=local, help="file to write the tables to, besides printing them")


def run(arguments: argparse.Namespace) -> None:
    """Print the tables."""
    from relgrounding.runs import run_files
    from relgrounding.viz import read_run

    if arguments.out:
        check_output(arguments.out, run_files([*arguments.runs, *arguments.others]), HEAD)
    if not 0 < arguments.confidence < 1:
        raise ValueError(f"--confidence is {arguments.confidence}; give a share between 0 and 1, such as 0.95")
    if not 1 <= arguments.resamples <= MOST_RESAMPLES:
        raise ValueError(f"--resamples is {arguments.resamples}; give 1 to {MOST_RESAMPLES:,}")
    for side in (arguments.runs, arguments.others):
        paths = [os.path.realpath(path) for path in side]
        if doubled := [path for path, real in zip(side, paths, strict=True) if paths.count(real) > 1]:
            raise ValueError(f"{doubled[0]} is given twice as a run of one system; give each seed's run once")
    ours, theirs = ([read_run(path) for path in paths] for paths in (arguments.runs, arguments.others))
    wanted = arguments.split, arguments.protocol, arguments.metric, arguments.words
    options = {"confidence": arguments.confidence, "resamples": arguments.resamples}
    found = list(compare(ours, theirs, *wanted, **options))
    names = [", ".join(printable(one.name) for one in side) for side in (ours, theirs)]
    how = "the same seeds, in pairs" if seeds_match(ours, theirs) else "other seeds"
    text = f"{HEAD.decode()}{names[0]}\ntheirs: {names[1]} ({how})\n\n" + as_tables(found, arguments.confidence)
    show(text)
    if arguments.out:
        with replacing(arguments.out) as beside:
            beside.write_text(text + "\n", encoding="utf-8")


def compare(
    ours: "Sequence[Run]",
    theirs: "Sequence[Run]",
    split: str | None = None,
    protocol: str | None = None,
    metrics: Sequence[str] | None = None,
    words: Sequence[str] | None = None,
    **options: float | int,
) -> Iterator[Compared]:
    """Yield the differences of every split, protocol and metric that all runs have.

    Args:
        ours: runs of one system.
        theirs: runs of the other.
        split: its name; None: all.
        protocol: its name; None: all.
        metrics: their names; None: all.
        words: only queries with one of these words, whatever its case; None: all.
        options: of `relgrounding.evaluation.paired_bootstrap`.

    Raises:
        RunError: videos and images mixed, or nothing in common; no query has one of the words, or no run a metric;
            what is given is not a word.
    """
    from relgrounding.evaluation import compare_runs, query_kind
    from relgrounding.features import tokenize
    from relgrounding.runs import RunError
    from relgrounding.viz._predictions import check_alike

    if odd := [word for word in words or () if tokenize(word) != [word.lower()]]:
        raise RunError(f"{odd[0]!r} is not one word of a sentence; give words such as second, left")
    paired = seeds_match(ours, theirs)
    if paired:
        ours, theirs = (sorted(side, key=lambda one: one.config.seed) for side in (ours, theirs))
    every = [*ours, *theirs]
    check_alike(every)
    names = [name for name in every[0].protocols if all(name in one.protocols for one in every)]
    found, known = False, dict[str, None]()
    for name in [n for n in names if protocol in (None, n)]:
        matched = [sides for sides in _matched(ours, theirs, name, paired) if _holds(sides[0][0].text, words)]
        for part in dict.fromkeys(first[0].split for first, _ in matched if split in (None, first[0].split)):
            rows = [sides for sides in matched if sides[0][0].split == part]
            kinds = [query_kind(first[0].text) for first, _ in rows]
            values = [_measured(every[0].view, answers) for answers in zip(*rows, strict=True)]
            known |= dict.fromkeys(values[0])
            for metric in [m for m in values[0] if metrics is None or m in metrics]:
                found = True
                differences = compare_runs(values[0][metric], values[1][metric], kinds, same_seeds=paired, **options)
                yield Compared(part, name, metric, differences)
    if not found:
        had = dict.fromkeys((one.name, p.split, p.protocol) for one in every for p in one.predictions)
        raise RunError(
            "the runs have no query, protocol and metric in common that was asked for"
            + (f", with {' or '.join(words)}; " if words else "; ")
            + "they have "
            + "; ".join(f"{name}: split {split}, protocol {protocol}" for name, split, protocol in had)
            + (f"; their metrics: {'; '.join(known)}" if known else "")
        )
    if unknown := [name for name in metrics or () if name not in known]:
        raise RunError(f"there is no metric {unknown[0]!r}; the metrics are {'; '.join(known)}")


def _holds(text: str, words: Sequence[str] | None) -> bool:
    from relgrounding.features import tokenize

    return words is None or not {word.lower() for word in words}.isdisjoint(tokenize(text))


def _matched(ours: "Sequence[Run]", theirs: "Sequence[Run]", protocol: str, paired: bool) -> list[tuple[list, list]]:
    """Return the answers of both systems to each query that all runs have; generated queries differ between seeds."""
    from relgrounding.viz._predictions import match_protocols

    matched = match_protocols([(one, protocol) for one in (*ours, *theirs)])
    if matched or not paired:
        return [(answers[: len(ours)], answers[len(ours) :]) for answers in matched]
    pairs = [match_protocols([(a, protocol), (b, protocol)]) for a, b in zip(ours, theirs, strict=True)]
    return [(answers[:1], answers[1:]) for pair in pairs for answers in pair]


def _measured(view: "View", answers: Sequence[Sequence["Prediction"]]) -> "dict[str, np.ndarray]":
    """Return (queries, seeds) of each metric."""
    import numpy as np

    ious, hits = (np.array([[getattr(one, what) for one in row] for row in answers]) for what in ("iou", "hit"))
    return view.measures(ious, hits)


def seeds_match(ours: "Sequence[Run]", theirs: "Sequence[Run]") -> bool:
    """Whether both systems have one run of each of the same seeds."""
    first, second = ([one.config.seed for one in side] for side in (ours, theirs))
    return sorted(first) == sorted(second) and len(set(first)) == len(first)


def as_tables(found: Sequence[Compared], confidence: float) -> str:
    """Return the differences as Markdown, one table per split and protocol."""
    from tabulate import tabulate

    parts = []
    for split, protocol in dict.fromkeys((one.split, one.protocol) for one in found):
        rows = [
            [one.metric, kind, d.queries, f"{d.ours:.1f}", f"{d.theirs:.1f}", str(d)]
            for one in found if (one.split, one.protocol) == (split, protocol)
            for kind, d in one.kinds.items()
        ]  # fmt: skip
        head = ["metric", "queries", "number", "ours", "theirs", f"difference [{100 * confidence:g} %]"]
        align = ["left", "left", *["right"] * 4]
        table = tabulate(rows, head, tablefmt="pipe", colalign=align, disable_numparse=True)
        parts.append(f"{printable(split)}, {printable(protocol)}\n\n{table}")
    return "\n\n".join(parts)
