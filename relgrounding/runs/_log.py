"""The log of a run: lines of log.jsonl, and the same numbers as TensorBoard events."""

import json
from pathlib import Path
from typing import Any

from relgrounding._files import replacing, synchronise
from relgrounding.io._regular import check_regular

Record = dict[str, Any]
PROGRESS = ("step", "epoch", "stage", "seconds")


class RunLog:
    """`log.jsonl` and `tensorboard/` of a run folder.

    Both are written unbuffered, so that the log of a killed process is complete.

    Args:
        folder: of the run; must exist when something is logged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "log.jsonl"
        self._events: Any = None

    def add(self, record: Record) -> None:
        """Append a line.

        Args:
            record: numbers by name; "step", "epoch", "stage" and "seconds" are the progress of the run.
        """
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        numbers = {key: value for key, value in record.items() if key not in PROGRESS}
        self._current_events().add(record["step"], numbers)

    def synchronise(self) -> None:
        """Flush the log to disk."""
        for path in (self.path, self._events and self._events.path):
            if path is not None and path.is_file():
                synchronise(path)

    def rewind(self, step: int, epoch: int) -> None:
        """Remove what was logged after a checkpoint, by a process that died before it wrote the next one.

        The lines of steps and of epochs may have the same step, but not the same number of finished epochs.

        Args:
            step: of the checkpoint.
            epoch: number of finished epochs at the checkpoint.

        Raises:
            UnsafeFile: the log is not a regular file.
        """
        self._events = None
        content = b""
        if self.path.exists():
            check_regular(self.path)
            content = self.path.read_bytes()
        records = [(line, _record(line)) for line in content.splitlines(keepends=True)]
        kept = [(line, r) for line, r in records if r is not None and r["step"] <= step and r["epoch"] <= epoch]
        # A killed process may not have written the final line break, without which the next line would be lost, too.
        whole = b"".join(line.rstrip(b"\n") + b"\n" for line, _ in kept)
        if whole != content:
            with replacing(self.path) as beside:
                beside.write_bytes(whole)
        logged = {tag for _, record in kept if record["step"] == step for tag in record}
        self._current_events().rewind(step, logged)

    def _current_events(self) -> Any:
        if self._events is None:
            from relgrounding.runs._events import EventFile  # TensorBoard: not needed by those who only read runs

            self._events = EventFile(self.folder / "tensorboard")
        return self._events


def _record(line: bytes) -> Record | None:
    """Return the content of a line of log.jsonl; None: the line is incomplete."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(record, dict) and all(isinstance(record.get(key), int) for key in ("step", "epoch"))
    return record if whole else None
