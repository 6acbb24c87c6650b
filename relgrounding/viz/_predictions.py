"""What runs answered, query by query: read, scored, matched, and the examples worth a look."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from relgrounding.config import Config
from relgrounding.evaluation import ImageEvaluator, VideoEvaluator
from relgrounding.runs import RunError, RunFolder

READINGS = ("single", "union", "any")


@dataclass(frozen=True, eq=False)
class Prediction:
    """One line of predictions.jsonl with the IoU of its first answer, of several right moments with the best."""

    id: str
    item: str
    text: str
    split: str
    protocol: str
    top: tuple[tuple[tuple[float, ...], float], ...]
    targets: tuple[tuple[float, ...], ...]
    iou: float

    @property
    def key(self) -> tuple[str, str]:
        """What is the same query in another run."""
        return self.split, self.id


@dataclass(frozen=True, eq=False)
class Run:
    """What a run folder holds.

    Attributes:
        name: of the folder.
        config: resolved.
        config_text: the same as it was written, with versions.
        log: lines of log.jsonl.
        results: entries of results.json.
        predictions: of all splits and protocols, where a right answer is known.
    """

    name: str
    config: Config
    config_text: str
    log: list[dict[str, Any]]
    results: list[dict[str, Any]]
    predictions: list[Prediction]

    @property
    def video(self) -> bool:
        """Whether it is about videos; else about images."""
        return self.config.model.name == "vgn"

    @property
    def protocols(self) -> list[str]:
        """Names of the protocols, in the order of the predictions."""
        return list(dict.fromkeys(p.protocol for p in self.predictions))

    @property
    def main_protocol(self) -> str:
        """The protocol that chose the epoch: the last way of choosing moments, the first reading of boxes."""
        return self.protocols[-1 if self.video else 0]


def read_run(path: str | os.PathLike) -> Run:
    """Read a finished run.

    Raises:
        RunError: no run, one that is not finished, or a file that cannot be read.
    """
    folder = RunFolder(path)
    config = folder.read_config()
    log = folder.read_log()
    for number, line in enumerate(log, start=1):
        drawn = [line["step"], *(v for k, v in line.items() if k == "loss" or k.startswith("validation/"))]
        if not all((isinstance(value, int | float) and -1e300 < value < 1e300) or value != value for value in drawn):
            raise RunError(f"{folder.path / 'log.jsonl'}, line {number}: step, loss and metrics must be numbers")
    results = folder.read_results()
    for entry in results:
        if not {type(entry.get(name)) for name in ("dataset", "model", "queries", "seed")} <= {str, int}:
            raise RunError(f"{folder.path / 'results.json'} is damaged; repeat it with tools/evaluate.py --write")
    records = folder.read_predictions()
    if not records:
        raise RunError(f"{folder.path / 'predictions.jsonl'} is empty; repeat it with tools/evaluate.py --write")
    try:
        predictions = _scored([record for record in records if record["targets"]], config.model.name == "vgn")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise RunError(f"{folder.path / 'predictions.jsonl'}: {error!r}; repeat it with tools/evaluate.py") from None
    if not predictions:
        raise RunError(f"{folder.path}: no query has a right answer to compare with; give some in the annotations")
    text = (folder.path / "config.yaml").read_text(encoding="utf-8-sig")
    return Run(folder.path.resolve().name, config, text, log, results, predictions)


def match_runs(runs: Sequence[Run], protocol: str | None = None) -> list[list[Prediction]]:
    """Return for each query that all runs answered what each of them said.

    Args:
        runs: one or more.
        protocol: None: the main one of the first run.

    Raises:
        RunError: a run without that protocol, or no query in common.
    """
    wanted = protocol or runs[0].main_protocol
    tables = []
    for run in runs:
        if wanted not in run.protocols:
            raise RunError(f"run {run.name} has no protocol '{wanted}'; it has {', '.join(run.protocols)}")
        tables.append({p.key: p for p in run.predictions if p.protocol == wanted})
    matched = [[table[key] for table in tables] for key in tables[0] if all(key in table for table in tables)]
    if not matched:
        raise RunError(f"runs {', '.join(run.name for run in runs)} answered no query in common")
    return matched


def choose_examples(
    matched: Sequence[list[Prediction]], count: int, seed: int = 0
) -> list[tuple[str, list[Prediction]]]:
    """Choose the best and the worst answers of the last run, and where it gained most on the first run.

    Every video or image is chosen once at most while there are enough; of equal ones the seed draws.

    Args:
        matched: see `match_runs`.
        count: of examples in all, shared out among the kinds.
        seed: of the draw.

    Returns:
        Pairs of kind ("best", "worst", "improved") and predictions, at most `count`.
    """
    last = np.array([row[-1].iou for row in matched])
    gain = last - np.array([row[0].iou for row in matched])
    rank = np.random.default_rng(seed).permutation(len(matched))
    kinds = {"best": -last, "worst": last}
    if len(matched[0]) > 1:
        kinds["improved"] = -gain
    chosen: list[tuple[str, list[Prediction]]] = []
    used: set[int] = set()
    items: set[str] = set()
    for place, (kind, values) in enumerate(kinds.items()):
        share = count * (place + 1) // len(kinds) - count * place // len(kinds)
        order = [int(i) for i in np.lexsort((rank, values)) if kind != "improved" or gain[i] > 0]
        for once in (True, False):
            for i in order:
                if share and i not in used and not (once and matched[i][0].item in items):
                    used.add(i)
                    items.add(matched[i][0].item)
                    chosen.append((kind, list(matched[i])))
                    share -= 1
    return chosen


def _scored(records: list[dict[str, Any]], video: bool) -> list[Prediction]:
    ious = np.zeros(len(records))
    protocols = np.array([r["protocol"] for r in records])
    for protocol in dict.fromkeys(protocols.tolist()):
        places = np.flatnonzero(protocols == protocol)
        first = [records[i]["top"][0]["proposal"] for i in places]
        targets = [records[i]["targets"] for i in places]
        if video:
            ious[places] = VideoEvaluator(reversed_targets=True).overlaps([[f] for f in first], targets)
        else:
            reading = next((r for r in READINGS if r in protocol.split(", ")), "any")
            ious[places] = ImageEvaluator(reading).overlaps(first, targets)
    return [
        Prediction(
            id=str(r["id"]),
            item=str(r["item"]),
            text=str(r["text"]),
            split=str(r["split"]),
            protocol=str(r["protocol"]),
            top=tuple((tuple(map(float, t["proposal"])), float(t["score"])) for t in r["top"]),
            targets=tuple(tuple(map(float, t)) for t in r["targets"]),
            iou=float(iou),
        )
        for r, iou in zip(records, ious, strict=True)
    ]
