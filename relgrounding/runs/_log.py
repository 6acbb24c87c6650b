"""The log of a run: lines of log.jsonl, and the same numbers as TensorBoard events."""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from relgrounding._files import replacing, synchronise

Record = dict[str, Any]
PROGRESS = ("step", "epoch", "seconds")


class RunLog:
    """`log.jsonl` and `tensorboard/` of a run folder.

    Both are written unbuffered, so that the log of a killed process is complete.

    Args:
        folder: of the run; must exist when something is logged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "log.jsonl"
        self._events = folder / "tensorboard"
        self._file: Path | None = None

    def add(self, record: Record) -> None:
        """Append a line.

        Args:
            record: numbers by name; "step", "epoch" and "seconds" are the progress of the run.
        """
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        numbers = [Summary.Value(tag=key, simple_value=value) for key, value in record.items() if key not in PROGRESS]
        self._add_event(Event(wall_time=time.time(), step=record["step"], summary=Summary(value=numbers)))

    def synchronise(self) -> None:
        """Flush the log to disk."""
        for path in (self.path, self._file):
            if path is not None and path.is_file():
                synchronise(path)

    def rewind(self, step: int, epoch: int) -> None:
        """Remove what was logged after a checkpoint, by a process that died before it wrote the next one.

        The lines of steps and of epochs may have the same step, but not the same number of finished epochs.

        Args:
            step: of the checkpoint.
            epoch: number of finished epochs at the checkpoint.
        """
        self._file = None
        content = self.path.read_bytes() if self.path.is_file() else b""
        records = [(line, _record(line)) for line in content.splitlines(keepends=True)]
        kept = [(line, r) for line, r in records if r is not None and r["step"] <= step and r["epoch"] <= epoch]
        # A killed process may not have written the final line break, without which the next line would be lost, too.
        whole = b"".join(line.rstrip(b"\n") + b"\n" for line, _ in kept)
        if whole != content:
            with replacing(self.path) as beside:
                beside.write_bytes(whole)
        logged = {tag for _, record in kept if record["step"] == step for tag in record}
        for path in self._events.glob("*tfevents*"):
            self._cut_events(path, step, logged)
        if step and self._events.is_dir():
            # Makes a TensorBoard that has already read the removed points discard them.
            self._add_event(Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status="START")))

    def _cut_events(self, path: Path, step: int, logged: set[str]) -> None:
        """Keep only the events before a step, and those of the step itself that were logged."""
        size = 0
        kept = []
        for content in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(content)
            size += len(content) + 16
            tags = [value.tag for value in event.summary.value]
            if event.step < step or (event.step == step and logged.issuperset(tags)):
                kept.append(content)
        if size != path.stat().st_size or sum(len(content) + 16 for content in kept) != size:
            with replacing(path) as beside, beside.open("wb") as file:
                for content in kept:
                    RecordWriter(file).write(content)

    def _add_event(self, event: Event) -> None:
        first = self._file is None
        if self._file is None:
            name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
            self._events.mkdir(exist_ok=True)
            self._file = self._events / name
        with self._file.open("ab", buffering=0) as file:
            if first:
                RecordWriter(file).write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
            RecordWriter(file).write(event.SerializeToString())


def _record(line: bytes) -> Record | None:
    """Return the content of a line of log.jsonl; None: the line is incomplete."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(record, dict) and all(isinstance(record.get(key), int) for key in ("step", "epoch"))
    return record if whole else None
