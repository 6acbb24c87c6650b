"""The folder of a run: configuration, log, checkpoints."""

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

import relgrounding
from relgrounding._dgl import dgl
from relgrounding._files import replacing
from relgrounding._names import name_fault
from relgrounding._settings import read_yaml
from relgrounding.config import Config, config_to_yaml, make_config


class RunError(RuntimeError):
    """A run folder that cannot be used as asked; the message says what to do."""


class RunFolder:
    """`runs/NAME/`: config.yaml, log.jsonl, last.pt, best.pt, results.json, predictions.jsonl.

    Args:
        path: the folder; made on first write.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)

    @property
    def started(self) -> bool:
        """Whether a run has left a checkpoint here."""
        return (self.path / "last.pt").is_file()

    def write_config(self, config: Config) -> None:
        """Write the resolved configuration, with seed and versions."""
        versions = {
            "relgrounding": relgrounding.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "dgl": dgl.__version__,
        }
        text = config_to_yaml(config) + "versions:\n" + "".join(f"  {k}: {v}\n" for k, v in versions.items())
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
        settings.pop("versions", None)
        if name_fault(settings.get("name")):  # of a run from before names were names; nothing is called so any more
            settings["name"] = self.path.resolve().name
        return make_config([(str(path), settings)])

    def log(self, record: dict[str, Any]) -> None:
        """Add one line to log.jsonl."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Replace a checkpoint."""
        with replacing(self.path / name) as beside:
            torch.save(state, beside)

    def keep(self, name: str, other: str) -> None:
        """Keep a checkpoint under another name too."""
        with replacing(self.path / other) as beside:
            beside.write_bytes((self.path / name).read_bytes())

    def load(self, name: str) -> dict[str, Any]:
        """Read a checkpoint onto the CPU; nothing but tensors and plain data is admitted.

        Raises:
            RunError: it is not there.
        """
        path = self.path / name
        if not os.path.isfile(path):
            raise RunError(f"{path} does not exist; has the run finished an epoch?")
        return torch.load(path, map_location="cpu", weights_only=True)
