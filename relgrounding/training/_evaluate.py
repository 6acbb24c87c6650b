"""From a model to predictions, metrics and the table with its floors."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from relgrounding._files import replacing
from relgrounding._printing import get_logger
from relgrounding._signals import look
from relgrounding.config import ConfigError, model_name
from relgrounding.data import DataError, Query
from relgrounding.data.batches import ImageBatch, OrderedBatches, VideoBatch, VideoCollator, make_loader
from relgrounding.evaluation import (
    ConstantSegments,
    ImageEvaluator,
    VideoEvaluator,
    fit_constant_segments,
    format_table,
    image_floors,
    image_oracle,
    make_entry,
    select_by_score,
    select_by_vote,
    video_floors,
    video_oracle,
    write_results,
)
from relgrounding.models import IGN, VGN
from relgrounding.training._runs import RunError, RunFolder
from relgrounding.training._task import Split, Task, build_model, read_training, usable_device

READINGS = {"flickr30k": ["union", "any"], "own": ["any"]}
TOP = 5
FLOORS = "floors.json"
logger = get_logger("relgrounding.training")
# Readers refuse moments that end before they start, but for those that an official protocol counts.
MOMENTS = VideoEvaluator(reversed_targets=True)


@dataclass
class Scored:
    """The candidates of each query with the model's scores.

    Attributes:
        proposals: for each query (P, 2) seconds in float64 or (P, 4) x1 y1 x2 y2 in pixels.
        scores: for each query (P,), from 0 to 1.
    """

    proposals: list[Float[Tensor, "proposals ends"]]
    scores: list[Float[Tensor, " proposals"]]


def answered(split: Split, scored: Scored) -> tuple[Split, Scored]:
    """Return the queries whose right answer is known; all of them but for your own data."""
    rows = [i for i, query in enumerate(split.queries) if query.targets]
    if len(rows) == len(split.queries):
        return split, scored
    kept = Scored([scored.proposals[i] for i in rows], [scored.scores[i] for i in rows])
    return Split([split.queries[i] for i in rows], split.store, split.durations), kept


@torch.no_grad()
def score_split(model: VGN | IGN, task: Task, split: Split, quiet: bool = False, desc: str = "scoring") -> Scored:
    """Score every candidate of every query of a split."""
    model.eval()
    device = next(model.parameters()).device
    collator = task.collator(split)
    batches = OrderedBatches(len(split.queries), task.config.eval.batch_size)
    loader = make_loader(collator, batches, task.config.data.workers)
    result = Scored([], [])
    for batch in tqdm(loader, desc=desc, unit="batch", disable=quiet, leave=False):
        look()
        scores = model(batch.to(device)).cpu()
        counts = batch.structure.batch_num_nodes.tolist()
        result.scores.extend(scores.split(counts))
        if isinstance(batch, VideoBatch):
            seconds = [task.durations[split.queries[i].item] for i in batch.queries]
            durations, clips = torch.tensor(seconds, dtype=torch.float64), batch.clip_lengths
            spans = batch.spans * durations[batch.structure.node_item, None] / clips[batch.structure.node_item, None]
            result.proposals.extend(spans.split(counts))
        elif isinstance(batch, ImageBatch):
            result.proposals.extend(batch.boxes.split(counts))
    return result


def select_top(task: Task, split: Split, scored: Scored, how: str) -> list[list[int]]:
    """Return for each query the numbers of its best candidates, best first, at most five.

    Args:
        task: for the settings of non-maximum suppression and votes.
        split: the queries.
        scored: what `score_split` returned for them.
        how: "score" or "vote" for moments; regions are ranked by score.
    """
    if not task.video:
        return [s.topk(min(TOP, len(s))).indices.tolist() for s in scored.scores]
    collator = task.collator(split)
    assert isinstance(collator, VideoCollator)
    settings = task.config.eval
    # Overlaps do not depend on the length of a second: videos of equally many clips share their candidates.
    same: dict[int, list[int]] = {}
    for i, query in enumerate(split.queries):
        same.setdefault(len(collator.clips(query.item)), []).append(i)
    top: list[list[int]] = [[] for _ in split.queries]
    for n_clips, places in same.items():
        spans = collator.proposals(n_clips).to(torch.float32)
        scores = torch.stack([scored.scores[i] for i in places])
        if how == "vote":
            ballots = torch.logit(scores, 1e-6) if settings.vote_by == "odds" else scores
            chosen = select_by_vote(spans, ballots, settings.nms, TOP, settings.vote_temperature, settings.vote_prior)
        else:
            chosen = select_by_score(spans, scores, settings.nms, TOP)
        for i, row in zip(places, chosen.tolist(), strict=True):
            top[i] = [k for k in row if k >= 0]
    return top


def protocols(task: Task) -> dict[str, str]:
    """Return the protocols of a task, by name, each with its way of choosing or its reading of the targets."""
    if task.video:
        settings = task.config.data
        name = settings.protocol if settings.dataset == "charades_sta" else settings.dataset
        return {f"{name}, select={how}": how for how in task.config.eval.select}
    return {reading: reading for reading in READINGS.get(task.config.data.dataset, ["single"])}


def split_metrics(task: Task, split: Split, scored: Scored, how: str) -> tuple[dict[str, float], list[list[int]]]:
    """Return the metrics of one protocol and the candidates that were chosen."""
    top = select_top(task, split, scored, how)
    chosen = [p[rows] for p, rows in zip(scored.proposals, top, strict=True)]
    targets = [q.targets for q in split.queries]
    if task.video:
        return MOMENTS([c.numpy() for c in chosen], targets), top
    evaluator = ImageEvaluator(how)
    return evaluator([c[0].numpy() for c in chosen], targets, kinds(task, split)), top


def kinds(task: Task, split: Split) -> list[str] | None:
    """Return the kind of each query where accuracy is reported by kind: for the embedded scenes."""
    return [q.kind for q in split.queries] if task.config.data.dataset == "demo" else None


def validation_metrics(model: VGN | IGN, task: Task, quiet: bool = False) -> tuple[str, dict[str, float]]:
    """Return the name of the metric that chooses the epoch, and all metrics of the held-out training items.

    Of held-out items without any right answer there are no metrics.
    """
    name = task.config.train.select_metric or ("R@1,IoU=0.5" if task.video else "Acc@0.5")
    if not any(query.targets for query in task.validation.queries):
        return name, {}
    known, scored = answered(task.validation, score_split(model, task, task.validation, quiet, "validation"))
    # The last way of choosing moments decides; of the readings of several boxes, the stricter first one.
    ways = list(protocols(task).values())
    metrics, _ = split_metrics(task, known, scored, ways[-1] if task.video else ways[0])
    return name, metrics


def _fit(queries: list[Query], durations: Mapping[str, float]) -> ConstantSegments:
    return fit_constant_segments(MOMENTS, [q.targets for q in queries], [durations[q.item] for q in queries])


def _kept_constants(task: Task, folder: RunFolder) -> ConstantSegments | None:
    """Return what training fitted; of a run that does not hold it, what its training data gives if that is here."""
    path = folder.path / FLOORS
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["constant"]
            kept = {name: tuple((float(s), float(e)) for s, e in segments) for name, segments in found.items()}
            constants = ConstantSegments(kept)
            video_floors(VideoEvaluator(), [[(0.0, 1.0)]], [(0.0, 1.0)], [1.0], constants)  # of all metrics
            return constants
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RunError(f"{path} is damaged: {error}; delete it to go without a constant floor") from None
    try:
        if folder.read_config().data == task.config.data:
            train, _ = read_training(task.config, task.train.store)
            if queries := [q for q in train.queries if q.targets]:
                return _fit(queries, train.durations)
    except (ConfigError, DataError):
        pass  # only the test data is here
    logger.warning("%s has no %s: the table is without the floor of constant segments", folder.path, FLOORS)
    return None


def _floors(task: Task, split: Split, scored: Scored, how: str) -> tuple[dict, dict]:
    targets = [q.targets for q in split.queries]
    if task.video:
        segments = [p.numpy() for p in scored.proposals]
        seconds = [task.durations[q.item] for q in split.queries]
        trained = [q for q in task.train.queries if q.targets] or split.queries
        constants = task.constants or _fit(trained, task.durations)
        floors = video_floors(MOMENTS, segments, targets, seconds, constants)
        if task.constants is None and trained is split.queries:  # fitted on the answers themselves: no floor
            del floors["constant"]
        else:
            task.constants = constants
        return floors, video_oracle(MOMENTS, segments, targets)
    image_evaluator = ImageEvaluator(how)
    boxes = [p.numpy() for p in scored.proposals]
    names = kinds(task, split)
    return image_floors(image_evaluator, boxes, targets, names), image_oracle(image_evaluator, boxes, targets, names)


def evaluate_split(
    model: VGN | IGN, task: Task, name: str, split: Split, quiet: bool = False
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Score a split by every protocol of its task.

    Args:
        model: trained.
        task: see `make_task`.
        name: of the split.
        split: its queries and features.
        quiet: without progress bars.

    Returns:
        Entries of results.json, one a protocol, and lines of predictions.jsonl, one a query and protocol. Without any
        right answer there are no entries.
    """
    start = time.perf_counter()
    scored = score_split(model, task, split, quiet, f"scoring {name}")
    entries, lines = [], []
    for protocol, how in protocols(task).items():
        top = select_top(task, split, scored, how)
        lines.extend(_prediction_lines(task, split, scored, top, name, protocol))
        known, known_scored = answered(split, scored)
        if not known.queries:
            continue
        metrics, _ = split_metrics(task, known, known_scored, how)
        floors, oracle = _floors(task, known, known_scored, how)
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
    return entries, lines


def _prediction_lines(
    task: Task, split: Split, scored: Scored, top: list[list[int]], name: str, protocol: str
) -> list[dict]:
    def frame(item: str) -> dict:
        """What a drawing of an answer needs."""
        if task.video:
            return {"duration": task.durations[item]}
        return {"size": split.store.size(item)}  # type: ignore[union-attr]

    return [
        {
            "split": name,
            "protocol": protocol,
            "id": query.id,
            "item": query.item,
            **frame(query.item),
            "text": query.text,
            # All digits: whoever computes metrics from these lines finds those of results.json.
            "top": [{"proposal": proposals[k].tolist(), "score": round(scores[k].item(), 4)} for k in rows],
            "targets": query.targets,
        }
        for query, proposals, scores, rows in zip(split.queries, scored.proposals, scored.scores, top, strict=True)
    ]


def evaluate_run(
    task: Task, folder: RunFolder, splits: list[str] | None = None, write: bool = True, quiet: bool = False
) -> str:
    """Score the best checkpoint of a run on its test splits and return the table.

    Args:
        task: see `make_task`.
        folder: of the run, with best.pt.
        splits: names; None: the run's own.
        write: write results.json, predictions.jsonl and, for videos, the constant segments in floors.json into the
            folder.
        quiet: without progress bars.
    """
    model = build_model(task)
    folder.restore(model, folder.load("best.pt"), "best.pt")
    model.to(usable_device(task.config.device, fall_back=True))
    if task.video and not task.train.queries:
        task.constants = _kept_constants(task, folder)
    entries, lines = [], []
    for name in splits or task.config.data.test_splits:
        found = evaluate_split(model, task, name, task.test(name), quiet)
        entries.extend(found[0])
        lines.extend(found[1])
    if write:
        folder.check_there()
        if task.constants is not None:
            with replacing(folder.path / FLOORS) as beside:
                beside.write_text(json.dumps({"constant": task.constants.fractions}) + "\n", encoding="utf-8")
        text = "".join(json.dumps(line) + "\n" for line in lines)
        with replacing(folder.path / "predictions.jsonl") as beside:
            beside.write_text(text, encoding="utf-8")
        # Last: a run that has results is finished.
        write_results(folder.path / "results.json", entries)
    if not entries:
        return f"no query has a right answer to compare with: {len(lines)} predictions, no metrics"
    return format_table(entries)
