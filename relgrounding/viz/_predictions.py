"""What runs answered, query by query: read, scored, matched, and the examples worth a look."""

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from relgrounding._printing import counted
from relgrounding.config import Config
from relgrounding.predictor import Neighbour
from relgrounding.runs import RunError, RunFolder
from relgrounding.viz._views import View, view_of

REPEAT = "repeat it with relgrounding evaluate --write"


@dataclass(frozen=True, eq=False)
class Prediction:
    """One line of predictions.jsonl with how good its first answer is.

    Attributes:
        iou: of the first answer, of several right answers with the best.
        hit: whether the first answer counts as right in the protocol's metric at IoU 0.5.
        frame: (duration,) of the video in seconds or (width, height) of the image in pixels; empty: not recorded.
        neighbours: of the messages to the first answer, highest weight first; empty: none, or not recorded.
    """

    id: str
    item: str
    text: str
    split: str
    protocol: str
    top: tuple[tuple[tuple[float, ...], float], ...]
    targets: tuple[tuple[float, ...], ...]
    iou: float
    hit: bool
    frame: tuple[float, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()

    @property
    def key(self) -> tuple[str, ...]:
        """What is the same query in another run."""
        return self.split, self.id, self.item, self.text


@dataclass(frozen=True, eq=False)
class Run:
    """What a run folder holds.

    Attributes:
        name: of the folder.
        config: resolved.
        config_text: the same as it was written, with versions.
        origin: when, on what and with which versions it was trained, by name; what was not recorded is absent.
        log: lines of log.jsonl.
        results: entries of results.json.
        predictions: of all splits and protocols, where a right answer is known.
    """

    name: str
    config: Config
    config_text: str
    origin: Mapping[str, str]
    log: list[dict[str, Any]]
    results: list[dict[str, Any]]
    predictions: list[Prediction]

    @property
    def view(self) -> View:
        """How its answers are looked at."""
        return view_of(self.config)

    @property
    def protocols(self) -> list[str]:
        """Names of the protocols, in the order of the predictions."""
        return list(dict.fromkeys(p.protocol for p in self.predictions))

    @property
    def main_protocol(self) -> str:
        """The protocol that chose the epoch."""
        return self.config.modality.main_protocol(self.protocols, self.config.eval)


def read_run(path: str | os.PathLike) -> Run:
    """Read a finished run.

    Raises:
        RunError: not a run, one that is not finished, or a file that cannot be read.
    """
    folder = RunFolder(path)
    config = folder.read_config()
    log = folder.read_log()
    for number, line in enumerate(log, start=1):
        drawn = [line["step"], line.get("stage", 1)]
        drawn += [v for k, v in line.items() if k == "loss" or k.startswith("validation/")]
        if not all((isinstance(value, int | float) and -1e300 < value < 1e300) or value != value for value in drawn):
            raise RunError(f"{folder.path / 'log.jsonl'}, line {number}: step, stage, loss and metrics must be numbers")
    results = folder.read_results()
    for entry in results:
        if not {type(entry.get(name)) for name in ("dataset", "model", "queries", "seed")} <= {str, int}:
            raise RunError(f"{folder.path / 'results.json'} is damaged; {REPEAT}")
    lines = folder.read_predictions()
    if not lines:
        raise RunError(f"{folder.path / 'predictions.jsonl'} is empty; {REPEAT}")
    try:
        predictions = _scored([line for line in lines if line["targets"]], view_of(config))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise RunError(f"{folder.path / 'predictions.jsonl'}: {error!r}; {REPEAT}") from None
    if not predictions:
        raise RunError(f"{folder.path}: no query has a right answer to compare with; give some in the annotations")
    found = Counter(f"split {p.split}, protocol {p.protocol}" for p in predictions)
    stated = Counter({f"split {e.get('split')}, protocol {e.get('protocol')}": e["queries"] for e in results})
    if differing := [part for part in [*stated, *found] if found[part] != stated[part]]:
        raise RunError(
            f"{folder.path / 'predictions.jsonl'} has {counted(found[differing[0]], 'answer')} of {differing[0]}, and "
            f"results.json says {stated[differing[0]]}; {REPEAT}"
        )
    text = (folder.path / "config.yaml").read_text(encoding="utf-8-sig")
    return Run(folder.path.resolve().name, config, text, folder.read_origin(), log, results, predictions)


def match_runs(runs: Sequence[Run], protocol: str | None = None) -> list[list[Prediction]]:
    """Return for each query that all runs answered what each of them said.

    Args:
        runs: one or more, all about videos or all about images.
        protocol: None: the main one of each run.

    Raises:
        RunError: videos and images mixed, a run without that protocol, or no query in common.
    """
    check_alike(runs)
    for run in runs:
        if protocol and protocol not in run.protocols:
            raise RunError(f"run {run.name} has no protocol '{protocol}'; it has {', '.join(run.protocols)}")
    matched = match_protocols([(run, protocol or run.main_protocol) for run in runs])
    if not matched:
        raise RunError(f"runs {', '.join(run.name for run in runs)} answered no query in common")
    return matched


def check_alike(runs: Sequence[Run]) -> None:
    """Raise RunError where videos and images are mixed."""
    if len({run.view.kind for run in runs}) > 1:
        raise RunError("one run is about videos, another about images; look at them separately")


def match_protocols(pairs: Sequence[tuple[Run, str]]) -> list[list[Prediction]]:
    """Return for each query that all runs answered, each by the protocol given with it, what each of them said."""
    tables = [{p.key: p for p in run.predictions if p.protocol == protocol} for run, protocol in pairs]
    return [[table[key] for table in tables] for key in tables[0] if all(key in table for table in tables)]


def choose_examples(
    matched: Sequence[list[Prediction]], count: int, seed: int = 0
) -> list[tuple[str, list[Prediction]]]:
    """Choose the best answers of the last run, its worst misses, and where it gained most on the first run.

    Every video or image is chosen once at most while there are enough; the seed draws among equal ones.

    Args:
        matched: see `match_runs`.
        count: of examples in all, shared among the kinds that there are: a run without a miss has no "worst".
        seed: of the draw.

    Returns:
        Pairs of kind ("best", "worst", "improved") and predictions, at most `count`.
    """
    last = np.array([answers[-1].iou for answers in matched])
    hit = np.array([answers[-1].hit for answers in matched])
    gain = last - np.array([answers[0].iou for answers in matched])
    rank = np.random.default_rng(seed).permutation(len(matched))
    kinds = {"best": (-last, last > 0), "worst": (last, ~hit), "improved": (-gain, gain > 0)}
    kinds = {kind: (values, fit) for kind, (values, fit) in kinds.items() if fit.any()}
    chosen: list[tuple[str, int]] = []
    for number, (kind, (values, fit)) in enumerate(kinds.items()):
        share = count * (number + 1) // len(kinds) - count * number // len(kinds)
        used = {i for _, i in chosen}
        order = [int(i) for i in np.lexsort((rank, values)) if fit[i] and i not in used]
        seen = {matched[i][0].item for i in used}
        chosen += [(kind, i) for i in _one_per_item(matched, order, seen)[:share]]
    return [(kind, list(matched[i])) for kind, i in chosen]


def draw_differing(
    matched: Sequence[list[Prediction]], count: int, seed: int = 0
) -> list[tuple[str, list[Prediction]]]:
    """Draw queries that some runs answered right and others wrong, all equally likely.

    Every video or image is drawn once at most while there are enough.

    Args:
        matched: see `match_runs`.
        count: of examples.
        seed: of the draw.

    Returns:
        Pairs of kind ("differing") and predictions, at most `count`.

    Raises:
        ValueError: all runs answered the same queries right.
    """
    order = np.random.default_rng(seed).permutation(len(matched)).tolist()
    order = [i for i in order if len({answer.hit for answer in matched[i]}) == 2]
    if not order:
        raise ValueError("no query was answered right by some of the runs and wrong by others; leave out --differing")
    return [("differing", list(matched[i])) for i in _one_per_item(matched, order, set())[:count]]


def _one_per_item(matched: Sequence[list[Prediction]], order: Sequence[int], seen: set[str]) -> list[int]:
    """Move queries about a video or image that was seen before to the end."""
    first: list[int] = []
    later: list[int] = []
    for i in order:
        (later if matched[i][0].item in seen else first).append(i)
        seen.add(matched[i][0].item)
    return first + later


def _scored(lines: list[dict[str, Any]], view: View) -> list[Prediction]:
    by_protocol: dict[str, list[int]] = {}
    for i, line in enumerate(lines):
        by_protocol.setdefault(str(line["protocol"]), []).append(i)
    scores: dict[int, tuple[float, bool]] = {}
    for protocol, rows in by_protocol.items():
        answers, targets = [lines[i]["top"][0]["proposal"] for i in rows], [lines[i]["targets"] for i in rows]
        ious, hits = view.score(protocol, answers, targets)
        scores |= dict(zip(rows, zip(ious.tolist(), hits.tolist(), strict=True), strict=True))
    return [
        Prediction(
            id=str(line["id"]),
            item=str(line["item"]),
            text=str(line["text"]),
            split=str(line["split"]),
            protocol=str(line["protocol"]),
            top=tuple((tuple(map(float, answer["proposal"])), float(answer["score"])) for answer in line["top"]),
            targets=tuple(tuple(map(float, target)) for target in line["targets"]),
            iou=scores[i][0],
            hit=scores[i][1],
            frame=view.frame(line),
            neighbours=tuple(map(_neighbour, line.get("explanation", {}).get("neighbours", ()))),
        )
        for i, line in enumerate(lines)
    ]


def _neighbour(said: dict[str, Any]) -> Neighbour:
    words = tuple((str(word), float(change)) for word, change in said["words"])
    proposal, weight = tuple(map(float, said["proposal"])), float(said["weight"])
    if not all(map(math.isfinite, (weight, *proposal, *(change for _, change in words)))):
        raise ValueError(f"the neighbour {proposal} has numbers that are not finite")
    return Neighbour(proposal, str(said["layer"]), str(said["edge_type"]), weight, words)
