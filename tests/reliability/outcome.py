"""What a run has come to, so that an interrupted run can be compared with one that was not."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event


def outcome(folder: Path) -> dict[str, Any]:
    """Return checkpoints, log, TensorBoard points, predictions and results of a run, all but the times, by name."""
    found: dict[str, Any] = {
        path.name: _plain(torch.load(path, weights_only=True)) for path in sorted(folder.glob("*.pt"))
    }
    found["log.jsonl"] = [_plain(json.loads(line)) for line in (folder / "log.jsonl").read_bytes().splitlines()]
    found["tensorboard"] = points(folder)
    if (folder / "results.json").is_file():
        found["results.json"] = _plain(json.loads((folder / "results.json").read_bytes()))
        found["predictions.jsonl"] = (folder / "predictions.jsonl").read_bytes()
    found["config.yaml"] = re.sub(r"(?m)^  date: .*\n", "", (folder / "config.yaml").read_text())
    found["files"] = sorted(path.name for path in folder.rglob("*") if "tfevents" not in path.name)
    return found


def points(folder: Path) -> list[tuple[str, int, float]]:
    """Return what TensorBoard shows, and see that no file holds a point that it hides."""
    shown = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    scalars = sorted((tag, e.step, e.value) for tag in shown.Tags()["scalars"] for e in shown.Scalars(tag))
    raw = [
        (value.tag, event.step, value.simple_value)
        for path in (folder / "tensorboard").iterdir()
        for event in map(Event.FromString, RawEventFileLoader(str(path)).Load())
        for value in event.summary.value
    ]
    if sorted(raw) != scalars:
        raise AssertionError(f"{folder}: event files hold {len(raw)} points, TensorBoard shows {len(scalars)}")
    return scalars


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names under which two outcomes differ."""
    return [name for name in {**one, **other} if one.get(name) != other.get(name)]


def _plain(value: Any) -> Any:
    """Return what can be compared: tensors as their bytes, nothing that is called seconds."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items() if key != "seconds"}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
