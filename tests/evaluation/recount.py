"""Metrics computed again from predictions.jsonl."""

import json
from pathlib import Path

from relgrounding.evaluation import ImageEvaluator, VideoEvaluator


def recount(folder: Path) -> list[tuple[dict[str, float], dict[str, float]]]:
    """For each entry of a run's results.json its metrics, and those of the lines of its protocol and split."""
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    pairs = []
    for entry in json.loads((folder / "results.json").read_text()):
        place = entry["protocol"], entry["split"]
        found = [line for line in lines if (line["protocol"], line["split"]) == place and line["targets"]]
        proposals = [[answer["proposal"] for answer in line["top"]] for line in found]
        targets = [line["targets"] for line in found]
        if len(proposals[0][0]) == 2:
            metrics = VideoEvaluator()(proposals, targets)
        else:
            metrics = ImageEvaluator(entry["protocol"])([top[0] for top in proposals], targets)
        pairs.append(({name: entry["metrics"][name] for name in metrics}, metrics))
    return pairs
