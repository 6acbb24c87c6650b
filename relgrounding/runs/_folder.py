"""The folder of a run: configuration, log, checkpoints."""

import contextlib
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
from relgrounding._files import clear_parts, is_part, local_only, replacing
from relgrounding._names import name_fault
from relgrounding._printing import counted
from relgrounding._settings import ConfigError, read_yaml
from relgrounding._urls import Masked
from relgrounding.config import Config, config_to_yaml, make_config
from relgrounding.evaluation import read_results
from relgrounding.runs._log import Record, RunLog

TRAINED: Mapping[str, type] = {"model": dict, "vocabulary": list}
"""Parts of a checkpoint that inference needs."""
WHOLE: Mapping[str, type] = {**TRAINED, "state": dict, "optimizer": dict, "random": dict}
"""Parts that resuming needs."""

ORIGIN = ("started", "versions")
"""Sections of config.yaml that are not settings."""


def is_run(path: Path) -> bool:
    """Whether a folder holds the configuration of a run."""
    config = path / "config.yaml"
    with contextlib.suppress(ConfigError):
        settings = {} if config.is_symlink() or not config.is_file() else read_yaml(config)
        versions = settings.get("versions")
        return isinstance(versions, dict) and "relgrounding" in versions
    return False


class RunError(Masked, RuntimeError):
    """A run folder cannot be used as requested; the message says what to do."""


class RunFolder:
    """`runs/NAME/`: config.yaml, log.jsonl, last.pt, best.pt, results.json, predictions.jsonl.

    Args:
        path: the folder, created by the first write.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = local_only(path, "the folder of a run")
        self._log = RunLog(self.path)

    @property
    def started(self) -> bool:
        """Whether the folder holds a checkpoint."""
        return (self.path / "last.pt").is_file()

    def write_config(self, config: Config, device: torch.device | None = None) -> None:
        """Write the resolved configuration with seed, versions, the date, and the device (None: as configured)."""
        name = str(device or config.device)
        if device is not None and device.type == "cuda":
            name += f" ({torch.cuda.get_device_name(device)})"
        now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        begun = self.read_origin().get("date", now) if self.started else now
        started = {"date": begun, "device": name}
        versions = {
            "relgrounding": relgrounding.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "dgl": dgl.__version__,
        }
        self._write_config(config, dict(zip(ORIGIN, (started, versions), strict=True)))

    def write_beginning(self, trained: "RunFolder", config: Config) -> None:
        """Write what results elsewhere need to be read as those of a run: its origin and log, and their configuration.

        Args:
            trained: the folder of the run.
            config: of the results.

        Raises:
            RunError: the run has no log.
        """
        log = trained._existing("log.jsonl").read_bytes()
        settings = read_yaml(trained.path / "config.yaml")
        self._write_config(config, {section: settings.get(section) or {} for section in ORIGIN})
        self._replace("log.jsonl", log)

    def _write_config(self, config: Config, origin: Mapping[str, Mapping[str, Any]]) -> None:
        text = config_to_yaml(config)
        for section, facts in origin.items():
            text += f"{section}:\n" + "".join(f"  {k}: {v}\n" for k, v in facts.items())
        with replacing(self.path / "config.yaml") as beside:
            beside.write_text(text, encoding="utf-8")

    def read_config(self) -> Config:
        """Read the resolved configuration.

        Raises:
            RunError: there is no config.yaml.
            ConfigError: it is invalid.
        """
        path = self.path / "config.yaml"
        if not os.path.isdir(self.path):
            raise RunError(f"{self.path} is not a run: there is no such folder; relgrounding train makes one")
        if not os.path.isfile(path):
            raise RunError(f"{self.path} is not a run: it has no config.yaml; relgrounding train makes one")
        settings = read_yaml(path)
        for section in ORIGIN:
            settings.pop(section, None)
        if name_fault(settings.get("name")):  # earlier versions allowed any text
            settings["name"] = self.path.resolve().name
        return make_config([(str(path), settings)], old=True)

    def read_origin(self) -> dict[str, str]:
        """Read the date, device and versions with which the run was trained, as far as they are recorded.

        A resumed run has the date of its first start and the device of its last.
        """
        settings = read_yaml(self.path / "config.yaml")
        sections = [settings.get(section) for section in ORIGIN]
        return {str(k): str(v) for facts in sections if isinstance(facts, dict) for k, v in facts.items()}

    def log(self, record: Record) -> None:
        """Append a line to log.jsonl, and its numbers to the TensorBoard events."""
        self._current_log().add(record)

    def rewind(self, step: int, epoch: int) -> None:
        """Remove what a killed process left after its last checkpoint: later log lines and unfinished files."""
        for folder in (self.path, self.path / "tensorboard"):
            clear_parts(folder)
        self._current_log().rewind(step, epoch)

    def _current_log(self) -> RunLog:
        if self._log.folder != self.path:
            self._log = RunLog(self.path)
        return self._log

    def read_log(self) -> list[Record]:
        """Read log.jsonl, without an incomplete last line of a run that is in progress or was killed.

        Raises:
            RunError: it does not exist or cannot be read.
        """
        content = self._existing("log.jsonl").read_bytes()
        return self._lines("log.jsonl", content[: content.rfind(b"\n") + 1], ("step", "epoch"))

    def read_results(self) -> list[Record]:
        """Read results.json.

        Raises:
            RunError: it does not exist or cannot be read.
        """
        path = self._existing("results.json")
        try:
            return read_results(path)
        except ValueError as error:
            raise RunError(str(error)) from None

    def read_predictions(self) -> list[Record]:
        """Read predictions.jsonl.

        Raises:
            RunError: it does not exist or cannot be read.
        """
        return self._lines(
            "predictions.jsonl", self._existing("predictions.jsonl").read_bytes(), ("split", "protocol", "id")
        )

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Replace a checkpoint, after all earlier log lines have reached the disk."""
        self._current_log().synchronise()
        # Not directly to the file: then the error on a full disk would not say so.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self._replace(name, buffer.getbuffer())

    def keep(self, name: str, other: str) -> None:
        """Copy a checkpoint to another name."""
        self._replace(other, (self.path / name).read_bytes())

    def load(self, name: str, parts: Mapping[str, type] = TRAINED) -> dict[str, Any]:
        """Load a checkpoint to the CPU; only tensors and plain data are admitted.

        Args:
            name: of the file.
            parts: required parts and their types.

        Raises:
            RunError: it does not exist, is damaged, or lacks a part.
        """
        path = self.path / name
        if not os.path.isfile(path):
            epoch = (
                "if no epoch of the run is finished, continue it with relgrounding train --resume; a folder of "
                "evaluate --out has no weights at all"
            )
            if name == "last.pt":
                self.check_new()
            remedy = "start the run without --resume" if name == "last.pt" else epoch
            raise RunError(f"{path} does not exist; {remedy}")
        try:
            content = io.BytesIO(path.read_bytes())
            # PyTorch does not verify the checksums of the archive.
            with zipfile.ZipFile(content) as archive:
                if part := archive.testzip():
                    raise self._damaged(name, f"the checksum of {part} does not match")
            content.seek(0)
            saved = torch.load(content, map_location="cpu", weights_only=True)
        except zipfile.BadZipFile:
            raise self._damaged(name, "it is truncated, or not a checkpoint") from None
        except RunError:
            raise
        except Exception as error:  # damaged content can raise any exception
            reason = (str(error).splitlines() or [""])[0].split(". ")[0][:200]
            raise self._damaged(name, f"{type(error).__name__}: {reason}") from None
        if not isinstance(saved, dict):
            raise self._damaged(name, f"it holds a {type(saved).__name__}, not a checkpoint")
        for part, kind in parts.items():
            if not isinstance(saved.get(part), kind):
                raise self._damaged(name, f"its part '{part}' is missing or has the wrong type")
        if not all(isinstance(word, str) for word in saved["vocabulary"]):
            raise self._damaged(name, "its vocabulary holds values that are not words")
        if not all(isinstance(tensor, torch.Tensor) for tensor in saved["model"].values()):
            raise self._damaged(name, "its model holds values that are not tensors")
        return saved

    def restore(self, model: torch.nn.Module, saved: Mapping[str, Any], name: str) -> None:
        """Load the weights of a checkpoint into a model.

        Raises:
            RunError: they belong to another model.
        """
        try:
            model.load_state_dict(saved["model"])
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip()
            raise self.another_model(name, first) from None

    def another_model(self, name: str, reason: str) -> RunError:
        """Return the error for weights that do not match the model of the configuration."""
        return RunError(f"{self.path / name}: the weights do not match the model that model.* describes: {reason}")

    def progress(self) -> str:
        """Return where `--resume` would continue, as the end of a sentence."""
        try:
            state = self.load("last.pt", WHOLE)["state"]
        except RunError as error:
            return str(error)
        where = f"step {state['step']}, {counted(state['epoch'], 'epoch')} done"
        return f"the same command with --resume continues from {where} ({self.path / 'last.pt'})"

    def check_new(self) -> None:
        """Raise RunError if the folder holds a run or other files, which would be mistaken for those of the new run."""
        if self.started:
            raise RunError(
                f"{self.path} holds a run: continue it with --resume, replace it with --overwrite, or give this run "
                "another name with name=..."
            )
        if not os.path.isdir(self.path):
            return
        begun = is_run(self.path)
        own = {".lock", "train.log", *(("config.yaml", "tensorboard") if begun else ())}  # of before the first last.pt
        others = [name for name in sorted(os.listdir(self.path)) if name not in own and not is_part(name)]
        if others and begun:
            copy = "copy best.pt there to continue from its epoch, " if self._holds_epoch() else ""
            raise RunError(
                f"{self.path} holds {others[0]} of a run, but last.pt does not exist; {copy}replace it all with "
                "--overwrite, or give this run another name with name=..."
            )
        if others:
            raise RunError(f"{self.path} holds {others[0]} and is not a run; give this run another name with name=...")

    def check_there(self) -> None:
        """Raise FileNotFoundError if the folder was deleted, rather than create it again."""
        if not self.path.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the run folder was deleted", str(self.path))

    def _damaged(self, name: str, reason: str) -> RunError:
        others = [n for n in ("last.pt", "best.pt") if n != name and (self.path / n).is_file()]
        if name == "last.pt" and not self._holds_epoch():
            others = []
        remedy = f"copy {others[0]} over it to continue from there, or " if others else ""
        return RunError(
            f"{self.path / name} cannot be restored: {reason}; {remedy}train the run again with --overwrite"
        )

    def _holds_epoch(self) -> bool:
        """Whether best.pt is there and can be continued from, which its weights cannot if they are an average."""
        with contextlib.suppress(ConfigError, RunError):
            return (self.path / "best.pt").is_file() and not self.read_config().train.ema > 0
        return (self.path / "best.pt").is_file()

    def _replace(self, name: str, content: bytes | memoryview) -> None:
        self.check_there()
        with replacing(self.path / name) as beside:
            beside.write_bytes(content)

    def _existing(self, name: str) -> Path:
        path = self.path / name
        if not path.is_file():
            raise RunError(
                f"{path} does not exist; finish the run with relgrounding train --resume, "
                "or relgrounding evaluate --write"
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
                raise self._unreadable(name, number, f"not an entry with {', '.join(keys)}")
            records.append(record)
        return records

    def _unreadable(self, name: str, number: int, reason: str) -> RunError:
        remedy = "remove that line" if name == "log.jsonl" else "repeat it with relgrounding evaluate --write"
        return RunError(f"{self.path / name}, line {number}: {reason}; {remedy}")
