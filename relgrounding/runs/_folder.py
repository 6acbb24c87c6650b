"""The folder of a run: configuration, log, checkpoints."""

import errno
import io
import json
import os
import platform
import zipfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import relgrounding
from relgrounding._dgl import dgl
from relgrounding._files import clear_parts, is_part, replacing
from relgrounding._names import name_fault
from relgrounding._settings import read_yaml
from relgrounding.config import Config, config_to_yaml, make_config
from relgrounding.evaluation import read_results
from relgrounding.runs._log import Record, RunLog

TRAINED: Mapping[str, type] = {"model": dict, "vocabulary": list}
"""What a checkpoint needs to answer."""
WHOLE: Mapping[str, type] = {**TRAINED, "state": dict, "optimizer": dict, "random": dict}
"""What it needs to be trained on."""

ORIGIN = ("started", "versions")
"""Sections of config.yaml that are not settings."""


class RunError(RuntimeError):
    """A run folder that cannot be used as asked; the message says what to do."""


class RunFolder:
    """`runs/NAME/`: config.yaml, log.jsonl, last.pt, best.pt, results.json, predictions.jsonl.

    Args:
        path: the folder; made on first write.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._log = RunLog(self.path)

    @property
    def started(self) -> bool:
        """Whether a run has left a checkpoint here."""
        return (self.path / "last.pt").is_file()

    def write_config(self, config: Config, device: torch.device | None = None) -> None:
        """Write the resolved configuration with seed, versions, the date, and the device (None: as configured)."""
        name = str(device or config.device)
        if device is not None and device.type == "cuda":
            name += f" ({torch.cuda.get_device_name(device)})"
        started = {"date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), "device": name}
        versions = {
            "relgrounding": relgrounding.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "dgl": dgl.__version__,
        }
        text = config_to_yaml(config)
        for section, facts in zip(ORIGIN, (started, versions), strict=True):
            text += f"{section}:\n" + "".join(f"  {k}: {v}\n" for k, v in facts.items())
        with replacing(self.path / "config.yaml") as beside:
            beside.write_text(text, encoding="utf-8")

    def read_config(self) -> Config:
        """Read the resolved configuration.

        Raises:
            RunError: the folder holds none.
            ConfigError: it cannot be used.
        """
        path = self.path / "config.yaml"
        if not os.path.isfile(path):
            raise RunError(f"{self.path} is no run: it has no config.yaml; tools/train.py makes one")
        settings = read_yaml(path)
        for section in ORIGIN:
            settings.pop(section, None)
        if name_fault(settings.get("name")):  # of a run from before names were names; nothing is called so any more
            settings["name"] = self.path.resolve().name
        return make_config([(str(path), settings)], old=True)

    def read_origin(self) -> dict[str, str]:
        """Read when ("date"), on what ("device") and with which versions it was trained, as far as that is recorded.

        A run that was resumed has the date and device of its last start.
        """
        settings = read_yaml(self.path / "config.yaml")
        sections = [settings.get(section) for section in ORIGIN]
        return {str(k): str(v) for facts in sections if isinstance(facts, dict) for k, v in facts.items()}

    def log(self, record: Record) -> None:
        """Add one line to log.jsonl, and its numbers to those of TensorBoard."""
        self._current_log().add(record)

    def rewind(self, step: int, epoch: int) -> None:
        """Remove what a process that died left after its last checkpoint: lines logged since, unfinished files."""
        for folder in (self.path, self.path / "tensorboard"):
            clear_parts(folder)
        self._current_log().rewind(step, epoch)

    def _current_log(self) -> RunLog:
        if self._log.folder != self.path:
            self._log = RunLog(self.path)
        return self._log

    def read_log(self) -> list[Record]:
        """Read log.jsonl, but for a last line that is not whole: the run goes on, or was killed.

        Raises:
            RunError: it is not there or cannot be read.
        """
        content = self._existing("log.jsonl").read_bytes()
        return self._lines("log.jsonl", content[: content.rfind(b"\n") + 1], ("step", "epoch"))

    def read_results(self) -> list[Record]:
        """Read results.json.

        Raises:
            RunError: it is not there or cannot be read.
        """
        path = self._existing("results.json")
        try:
            return read_results(path)
        except ValueError as error:
            raise RunError(str(error)) from None

    def read_predictions(self) -> list[Record]:
        """Read predictions.jsonl.

        Raises:
            RunError: it is not there or cannot be read.
        """
        return self._lines(
            "predictions.jsonl", self._existing("predictions.jsonl").read_bytes(), ("split", "protocol", "id")
        )

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Replace a checkpoint, after what was logged before it has reached the disk."""
        self._current_log().synchronise()
        # Not straight to the file: there a full disk would be an error that does not say so.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self._replace(name, buffer.getbuffer())

    def keep(self, name: str, other: str) -> None:
        """Keep a checkpoint under another name too."""
        self._replace(other, (self.path / name).read_bytes())

    def load(self, name: str, parts: Mapping[str, type] = TRAINED) -> dict[str, Any]:
        """Read a checkpoint onto the CPU; nothing but tensors and plain data is admitted.

        Args:
            name: of the file.
            parts: what is needed of it, with the type of each part.

        Raises:
            RunError: it is not there, is damaged, or lacks a part.
        """
        path = self.path / name
        if not os.path.isfile(path):
            remedy = "start the run without --resume" if name == "last.pt" else "has the run finished an epoch?"
            raise RunError(f"{path} does not exist; {remedy}")
        try:
            content = io.BytesIO(path.read_bytes())
            # PyTorch does not look at the checksums of the archive that it reads.
            with zipfile.ZipFile(content) as archive:
                if part := archive.testzip():
                    raise self._damaged(name, f"{part} in it has another checksum than when it was written")
            content.seek(0)
            saved = torch.load(content, map_location="cpu", weights_only=True)
        except zipfile.BadZipFile:
            raise self._damaged(name, "it is cut off, or not a checkpoint") from None
        except RunError:
            raise
        except Exception as error:  # damaged bytes raise whatever they lead the reader to
            reason = (str(error).splitlines() or [""])[0].split(". ")[0][:200]
            raise self._damaged(name, f"{type(error).__name__}: {reason}") from None
        if not isinstance(saved, dict):
            raise self._damaged(name, f"it holds a {type(saved).__name__}, no checkpoint")
        for part, kind in parts.items():
            if not isinstance(saved.get(part), kind):
                raise self._damaged(name, f"its part '{part}' is missing or of a wrong type")
        if not all(isinstance(word, str) for word in saved["vocabulary"]):
            raise self._damaged(name, "its vocabulary holds something else than words")
        if not all(isinstance(tensor, torch.Tensor) for tensor in saved["model"].values()):
            raise self._damaged(name, "its model holds something else than tensors")
        return saved

    def restore(self, model: torch.nn.Module, saved: Mapping[str, Any], name: str) -> None:
        """Put the weights of a checkpoint into a model.

        Raises:
            RunError: they are those of another model.
        """
        try:
            model.load_state_dict(saved["model"])
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip()
            raise self.another_model(name, first) from None

    def another_model(self, name: str, reason: str) -> RunError:
        """Return the error of a checkpoint whose weights are not those that the configuration describes."""
        return RunError(f"{self.path / name}: the model is another one than model.* describes: {reason}")

    def progress(self) -> str:
        """Return where `--resume` goes on from, as the end of a sentence."""
        try:
            state = self.load("last.pt", WHOLE)["state"]
        except RunError as error:
            return str(error)
        where = f"step {state['step']}, {state['epoch']} epochs done"
        return f"the same command with --resume goes on from {where} ({self.path / 'last.pt'})"

    def check_new(self) -> None:
        """Raise RunError if a run or something else is here: what a run is trained into is taken for a run's."""
        if self.started:
            raise RunError(
                f"{self.path} holds a run: continue it with --resume, replace it with --overwrite, or give this one "
                "another name with name=..."
            )
        if not os.path.isdir(self.path) or os.path.isfile(self.path / "config.yaml"):
            return
        own = {".lock", "train.log"}  # of those who start it
        others = [name for name in sorted(os.listdir(self.path)) if name not in own and not is_part(name)]
        if others:
            raise RunError(f"{self.path} holds {others[0]}, and no run; give this one another name with name=...")

    def check_there(self) -> None:
        """Raise FileNotFoundError if the folder is gone: whoever removed it does not want it made again."""
        if not self.path.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the run's folder is gone", str(self.path))

    def _damaged(self, name: str, reason: str) -> RunError:
        others = [n for n in ("last.pt", "best.pt") if n != name and (self.path / n).is_file()]
        remedy = f"copy {others[0]} over it to go on from there, or " if others else ""
        return RunError(
            f"{self.path / name} cannot be restored: {reason}; {remedy}train the run again with --overwrite"
        )

    def _replace(self, name: str, content: bytes | memoryview) -> None:
        self.check_there()
        with replacing(self.path / name) as beside:
            beside.write_bytes(content)

    def _existing(self, name: str) -> Path:
        path = self.path / name
        if not path.is_file():
            raise RunError(
                f"{path} does not exist; finish the run with tools/train.py --resume, or tools/evaluate.py --write"
            )
        return path

    def _lines(self, name: str, content: bytes, keys: Sequence[str]) -> list[Record]:
        records = []
        for number, line in enumerate(content.splitlines(), start=1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise self._unreadable(name, number, str(error)) from None
            if not isinstance(record, dict) or not all(key in record for key in keys):
                raise self._unreadable(name, number, f"no entry with {', '.join(keys)}")
            records.append(record)
        return records

    def _unreadable(self, name: str, number: int, reason: str) -> RunError:
        remedy = "remove that line" if name == "log.jsonl" else "repeat it with tools/evaluate.py --write"
        return RunError(f"{self.path / name}, line {number}: {reason}; {remedy}")
