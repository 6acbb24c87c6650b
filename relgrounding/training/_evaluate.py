"""Evaluation: predictions, metrics and the table with its floors."""

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from relgrounding._files import replacing
from relgrounding._printing import get_logger, progress
from relgrounding._ranks import from_main, is_main, on_main
from relgrounding._sharing import shared
from relgrounding._signals import look
from relgrounding.config import ConfigError, model_name
from relgrounding.datasets import Query, columns
from relgrounding.evaluation import format_table, make_entry, write_results
from relgrounding.io import DataError
from relgrounding.modalities import Scored
from relgrounding.models import System
from relgrounding.predictor import Explanation, usable_device
from relgrounding.runs import RunError, RunFolder
from relgrounding.training._task import Split, Task, build_model, read_training

FLOORS = "floors.json"
LAST = "last"
"""Value of `train.select_metric` with which the last epoch counts as the best."""
MOST_FOR_FLOORS = 100_000
"""Training queries that floors are fitted on: a grid of segments is compared with each."""
MOST_KINDS = 20
"""With more kinds of queries than these, results are not reported by kind."""
logger = get_logger("relgrounding.training")


def answered(split: Split, scored: Scored) -> tuple[Split, Scored]:
    """Return the queries with right answers, which only own data may lack."""
    known = columns(split.queries)
    rows = np.flatnonzero(known.answered())
    if len(rows) == len(split.queries):
        return split, scored
    return Split(known.take(rows), split.store, split.durations), scored.take(rows.tolist())


def score_split(model: System, task: Task, split: Split, quiet: bool = False, desc: str = "scoring") -> Scored:
    """Score every candidate of every query of a split; the processes of a job share the batches, and each has all."""
    return task.predictor(model).score(split.queries, split.store, task.durations, quiet, desc, together=True)


def protocols(task: Task) -> dict[str, str]:
    """Return the protocols of a task by name, each with its variant: a selection method or a reading of the targets."""
    config = task.config
    return task.modality.protocols(task.dataset.protocols(), config.data.dataset, config.eval)


def split_metrics(task: Task, split: Split, scored: Scored, variant: str) -> dict[str, float]:
    """Return the metrics of one protocol."""
    top = task.modality.select(scored, variant, task.config.eval)
    chosen = [p[rows].numpy() for p, rows in zip(scored.proposals, top, strict=True)]
    return task.modality.metrics(chosen, [q.targets for q in split.queries], variant, kinds(task, split))


def kinds(task: Task, split: Split) -> list[str] | None:
    """Return the kind of each query, or "none", if the data set reports by kind and the split has a few kinds."""
    found = [query.kind for query in split.queries] if task.dataset.by_kind else []
    return [kind or "none" for kind in found] if any(found) and len(set(found)) <= MOST_KINDS else None


def validation_metrics(model: System, task: Task, quiet: bool = False) -> tuple[str, dict[str, float]]:
    """Return the name of the metric that selects the epoch, and all metrics on the held-out training items.

    Without right answers among the held-out items there are no metrics.
    """
    name = task.config.train.select_metric
    name = task.modality.metric if name in ("", LAST) else name
    if not columns(task.validation.queries).answered().any():
        return name, {}
    known, scored = answered(task.validation, score_split(model, task, task.validation, quiet, "validation"))
    all_protocols = protocols(task)
    main = task.modality.main_protocol(list(all_protocols), task.config.eval)
    return name, on_main(split_metrics, task, known, scored, all_protocols[main])


def _kept_floors(task: Task, folder: RunFolder) -> Any:
    """Return the floors fitted in training; if the run lacks them, fit them on its training data if available."""
    path = folder.path / FLOORS
    if path.is_file():
        try:
            return task.modality.floors_from_json(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RunError(f"{path} is damaged: {error}; delete it to evaluate without a constant floor") from None
    try:
        if folder.read_config().data == task.config.data:
            train, _ = read_training(task.config)
            if queries := for_floors(train.queries, task.config.seed):
                return task.modality.fit_floors(queries, train.durations)
    except (ConfigError, DataError):
        pass  # only the test data is available
    if task.modality.fits_floors:
        logger.warning("%s has no %s: the table lacks the floor of constant segments", folder.path, FLOORS)
    return None


def for_floors(queries: Sequence[Query], seed: int) -> Sequence[Query]:
    """Return the training queries that floors are fitted on: those with right answers, or 100,000 drawn from them."""
    known = columns(queries)
    rows = np.flatnonzero(known.answered())
    if len(rows) > MOST_FOR_FLOORS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_FOR_FLOORS, replace=False))
    return known.take(rows)


def _floors(task: Task, split: Split, scored: Scored, variant: str) -> tuple[dict, dict]:
    if task.floors is None and (trained := for_floors(task.train.queries, task.config.seed)):
        task.floors = task.modality.fit_floors(trained, task.durations)
    seconds = task.modality.seconds(split.queries, task.durations)
    return task.modality.floors(scored, split.queries, seconds, variant, task.floors, kinds(task, split))


def evaluate_split(
    model: System, task: Task, name: str, split: Split, quiet: bool = False
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Score a split with every protocol of its task.

    The processes of a job share the batches and the explanations. Metrics and floors are computed once, on rank 0.

    Args:
        model: the trained model.
        task: see `make_task`.
        name: of the split.
        split: its queries and features.
        quiet: without progress bars.

    Returns:
        Entries of results.json, one per protocol, and lines of predictions.jsonl, one per query and protocol; the
        lines on rank 0 only. Without right answers there are no entries.
    """
    start = time.perf_counter()
    scored = score_split(model, task, split, quiet, f"scoring {name}")
    tops: dict[str, list[list[int]]] = {}
    if is_main():
        tops = {
            key: task.modality.select(scored, variant, task.config.eval) for key, variant in protocols(task).items()
        }
    explained = _explained(model, task, split, tops, quiet) if task.config.eval.explain else None
    entries = on_main(_entries, task, split, name, scored, start)
    lines = [_prediction_lines(task, split, scored, top, name, protocol, explained) for protocol, top in tops.items()]
    return entries, list(itertools.chain(*lines))


def _entries(task: Task, split: Split, name: str, scored: Scored, start: float) -> list[dict[str, Any]]:
    """Return the entries of results.json about a split, whose evaluation began at `start`."""
    known, known_scored = answered(split, scored)
    entries = []
    for protocol, variant in protocols(task).items() if known.queries else ():
        metrics = split_metrics(task, known, known_scored, variant)
        floors, oracle = _floors(task, known, known_scored, variant)
        entries.append(
            make_entry(
                dataset=task.config.data.dataset,
                protocol=protocol,
                split=name,
                model=model_name(task.config),
                queries=len(known.queries),
                metrics=metrics,
                floors=floors,
                oracle=oracle,
                seed=task.config.seed,
                seconds=round(time.perf_counter() - start, 2),
            )
        )
    return entries


def _explained(
    model: System, task: Task, split: Split, tops: dict[str, list[list[int]]], quiet: bool
) -> list[dict[int, Explanation]]:
    """Return for each query the explanations of its first answers, by the number of the proposal.

    Args:
        model: the trained model.
        task: see `make_task`.
        split: its queries and features.
        tops: numbers of the answers to each query, by protocol; read on rank 0.
        quiet: without progress.
    """
    predictor = task.predictor(model)
    answers = zip(*tops.values(), strict=True)
    first = from_main([list(dict.fromkeys(rows[0] for rows in selected)) for selected in answers])

    def explained(indices: Sequence[int]) -> Iterator[dict[int, Explanation]]:
        for i in progress(indices, desc="explaining", unit="query", quiet=quiet):
            look()
            explanations = predictor.explain(split.queries[i], split.store, task.durations, first[i])
            yield dict(zip(first[i], explanations, strict=True))

    return shared(range(len(split.queries)), explained)


def _prediction_lines(
    task: Task,
    split: Split,
    scored: Scored,
    top: list[list[int]],
    name: str,
    protocol: str,
    explained: list[dict[int, Explanation]] | None,
) -> list[dict]:
    return [
        {
            "split": name,
            "protocol": protocol,
            "id": query.id,
            "item": query.item,
            **task.modality.frame(query.item, task.durations, split.store),
            "text": query.text,
            # All digits, so that these lines reproduce the metrics of results.json.
            "top": [{"proposal": proposals[k].tolist(), "score": round(scores[k].item(), 4)} for k in rows],
            "targets": query.targets,
        }
        | ({} if explained is None else {"explanation": explained[i][rows[0]].to_json()})
        for i, (query, proposals, scores, rows) in enumerate(
            zip(split.queries, scored.proposals, scored.scores, top, strict=True)
        )
    ]


def evaluate_run(
    task: Task, folder: RunFolder, splits: Sequence[str] | None = None, write: bool = True, quiet: bool = False
) -> str:
    """Score the best checkpoint of a run on its test splits and return the table; see `score_run`."""
    entries, lines = score_run(task, folder, splits, write, quiet)
    return results_table(entries, len(lines))


def score_run(
    task: Task, folder: RunFolder, splits: Sequence[str] | None = None, write: bool = True, quiet: bool = False
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Score the best checkpoint of a run on its test splits; rank 0 writes.

    Args:
        task: see `make_task`.
        folder: of the run, with best.pt.
        splits: names; None: the run's own.
        write: write results.json, predictions.jsonl and, for videos, the constant segments in floors.json into the
            folder.
        quiet: without progress.

    Returns:
        As `evaluate_split`, of all splits.
    """
    model = build_model(task)
    folder.restore(model, on_main(folder.load, "best.pt"), "best.pt")
    model.to(usable_device(task.config.device, fall_back=True))
    if is_main() and not task.train.queries:
        task.floors = _kept_floors(task, folder)
    entries, lines = [], []
    for name in dict.fromkeys(splits or task.config.data.test_splits):
        found = evaluate_split(model, task, name, task.test(name), quiet)
        entries.extend(found[0])
        lines.extend(found[1])
    if write:
        on_main(write_scores, task, folder, entries, lines)
    return entries, lines


def write_scores(task: Task, folder: RunFolder, entries: list[dict[str, Any]], lines: list[dict[str, Any]]) -> None:
    """Write what `score_run` found into a folder: results.json, predictions.jsonl and the floors that were fitted."""
    folder.check_there()
    if (kept := task.modality.floors_to_json(task.floors)) is not None:
        with replacing(folder.path / FLOORS) as beside:
            beside.write_text(json.dumps(kept) + "\n", encoding="utf-8")
    text = "".join(json.dumps(line) + "\n" for line in lines)
    with replacing(folder.path / "predictions.jsonl") as beside:
        beside.write_text(text, encoding="utf-8")
    # Last: a run that has results is finished.
    write_results(folder.path / "results.json", entries)


def results_table(entries: list[dict[str, Any]], predictions: int = 0) -> str:
    """Return entries of results.json as a table, or a line where there are none."""
    if not entries:
        return f"no query has a right answer to compare with: {predictions} predictions, no metrics"
    return format_table(entries)
