"""Files of events, which TensorBoard shows."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from relgrounding._files import replacing


class EventFile:
    """The file that this process adds to a folder of events; made when something is added.

    Args:
        folder: made, in a folder that is there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path: Path | None = None

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add numbers by name."""
        values = [Summary.Value(tag=key, simple_value=value) for key, value in numbers.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def rewind(self, step: int, logged: set[str]) -> None:
        """Keep of all files the events before a step, and of the step itself what was logged."""
        for path in self.folder.glob("*tfevents*"):
            _cut(path, step, logged)
        if step and self.folder.is_dir():
            # A TensorBoard that has read the points already forgets them.
            self._write(Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status="START")))

    def _write(self, event: Event) -> None:
        first = self.path is None
        if self.path is None:
            name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
            self.folder.mkdir(exist_ok=True)
            self.path = self.folder / name
        with self.path.open("ab", buffering=0) as file:
            if first:
                RecordWriter(file).write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
            RecordWriter(file).write(event.SerializeToString())


def _cut(path: Path, step: int, logged: set[str]) -> None:
    """Keep of a file of events those before a step, and of the step itself what was logged."""
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
