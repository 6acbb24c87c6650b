"""Lines that are printed at once and kept for the summary, results as numbers, and the time that is left."""

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Report:
    """What a run has found.

    Args:
        device: that is measured.
        dry: tiny sizes, one call each: whether everything runs, not how fast.
        budget: seconds after which no section, and no case of one, begins.
    """

    def __init__(self, device: torch.device, dry: bool, budget: float) -> None:
        self.device, self.dry, self.budget = device, dry, budget
        self.began = time.monotonic()
        self.lines: list[str] = []
        self.results: dict[str, Any] = {}
        self.failures: list[str] = []

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.began

    @property
    def time_left(self) -> bool:
        """Whether another case may begin."""
        return self.seconds < self.budget

    def say(self, text: str) -> None:
        """Print a line and keep it."""
        self.lines.append(f"[{self.seconds:5.0f} s] {text}")
        print(self.lines[-1], flush=True)

    def fail(self, text: str) -> None:
        """Say what is wrong; the run then exits with 1."""
        self.failures.append(text)
        self.say(f"FAIL {text}")

    def section(self, name: str, body: Callable[["Report"], Any]) -> None:
        """Run a section and keep what it returns; its error is reported, and the next section follows."""
        if not self.time_left:
            self.say(f"{name}: no time left")
            return
        self.say(f"== {name}")
        try:
            self.results[name] = body(self)
        except Exception as error:  # whatever a first run on a new device may raise must not hide the other sections
            self.fail(f"{name}: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}")
            traceback.print_exc()

    def write(self, folder: Path, facts: dict[str, str]) -> None:
        """Write device.json and device.txt."""
        folder.mkdir(parents=True, exist_ok=True)
        found = {"facts": facts, "results": self.results, "failures": self.failures, "seconds": round(self.seconds, 1)}
        (folder / "device.json").write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
        head = [f"{name}: {value}" for name, value in facts.items()]
        (folder / "device.txt").write_text("\n".join([*head, *self.lines]) + "\n", encoding="utf-8")
