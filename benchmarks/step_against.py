"""Steps of this checkout against those of another commit: `benchmarks.step --against COMMIT`.

A process per commit trains with that commit's own `Trainer`, restricted to one thread. The processes take turns step by
step, so that whatever else the machine does meets both, and go through the same batches of real data in the same order.
A step is what a training loop waits for: a batch is collated, and the parameters are updated.

Before any figure, loss and gradients of the first batch are compared in float64, with equal weights and draws and
without dropout, whose masks depend on the order of pairs.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.report import table

ROOT = Path(__file__).parents[1]
WARM_UP = 3
"""Steps that are not counted: whatever is made on first use."""
TOLERANCE = 1e-11
IMAGE = ["model.name=ign", "model.fusion=product", "model.top_r=2", "mil.negatives=8"]
VIDEO = [
    *("data.widths=[2,4,6,8,10,12,16,20,24,28,32]", "data.stride=2", "data.batch_size=32", "model.name=vgn"),
    *("model.hidden=64", "model.clip_encoder=linear", "model.pooling=mean", "model.contrast=0.5"),
    *("model.attention_dim=128", "model.relation_dim=128", "model.top_r=8", "mil.negatives=2"),
]


class Case(NamedTuple):
    """Settings that are spelt alike for every commit: those that a configuration had at first.

    Attributes:
        dataset: name.
        features: file of features, below the data's root where its folder is named.
        words: other settings.
        goals: largest shares of the time of steps of commit a6acd63 in float32: in float32, in bfloat16, and in float32
            with the relation module.
    """

    dataset: str
    features: str
    words: Sequence[str]
    goals: tuple[float, float, float]

    def goal(self, relation: str, precision: str) -> float | None:
        """Return the goal of a row, if there is one."""
        rows = [("none", "float32"), ("none", "bfloat16"), ("graph", "float32")]
        return dict(zip(rows, self.goals, strict=True)).get((relation, precision))


CASES = {
    "refcoco_ign": Case("refcoco", "refcoco_categories.h5", IMAGE, (0.45, 0.35, 0.55)),
    "flickr30k_ign": Case(
        "flickr30k", "flickr30k_entities/region_features.h5", [*IMAGE, "model.dropout=0.1"], (0.45, 0.30, 0.60)
    ),
    "charades_vgn": Case("charades_sta", "charades_actions.h5", VIDEO, (0.60, 0.50, 0.70)),
}


class WorkerError(RuntimeError):
    """A worker ended before its time."""


class Worker:
    """A process that takes the steps of one checkout; see `benchmarks.step_worker.Desk` for its orders.

    Args:
        checkout: folder of the checkout.
        words: settings.
        folder: for its run and its log; must be empty.
    """

    def __init__(self, checkout: Path, words: Sequence[str], folder: Path) -> None:
        self.checkout, self._log = checkout, folder / "log"
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        command = [sys.executable, str(ROOT / "benchmarks" / "step_worker.py"), json.dumps(list(words)), str(folder)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # Safe path: the folder of the script holds modules with common names.
                env=os.environ | threads | {"PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"},
            )
        self.precisions: list[str] = self._answer()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None  # narrows the type for mypy
        line = self._process.stdout.readline()
        if not line:
            said = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
            raise WorkerError(f"the steps of {self.checkout} cannot be taken:\n{said}")
        return json.loads(line)

    def __call__(self, *order: str) -> Any:
        """Give an order and wait for its answer."""
        assert self._process.stdin is not None  # narrows the type for mypy
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return self._answer()


@contextmanager
def other_checkout(commit: str) -> Iterator[Path]:
    """Check another commit out into a folder that is removed in the end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkout"
        _git("worktree", "add", "--quiet", "--detach", str(path), commit)
        try:
            yield path
        finally:
            _git("worktree", "remove", "--force", str(path))


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def measure_against(
    commit: str, cases: Sequence[str], relations: Sequence[str], features: Path, turns: int
) -> Iterator[str]:
    """Compare the steps of this checkout and of another commit; a table at a time.

    Args:
        commit: the other one, as git names it.
        cases: names of `CASES`.
        relations: "none", "graph".
        features: folder of the files of features.
        turns: counted steps of each.

    Raises:
        WorkerError: one of them cannot be run.
    """
    name = _git("log", "-1", "--format=%h %s", commit)
    yield f"Milliseconds per step, medians of {turns}: processor time (wall time). Before: {name}."
    with other_checkout(commit) as checkout:
        for case in cases:
            for relation in relations:
                yield f"## {case}, model.relation={relation}"
                yield from _compare(case, relation, checkout, features, turns)


def _compare(name: str, relation: str, checkout: Path, features: Path, turns: int) -> Iterator[str]:
    case = CASES[name]
    words = [
        *("name=step", "data.word_vectors=word_vectors/vectors.300d.txt", "mil.loss=contrastive", "device=cpu"),
        *(f"data.dataset={case.dataset}", f"model.relation={relation}", *case.words),
        f"data.features={features / case.features if '/' not in case.features else case.features}",
    ]
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2)]
        places = zip((checkout, ROOT), folders, strict=True)
        before, after = (stack.enter_context(Worker(place, words, folder)) for place, folder in places)
        yield agreement(before, after, folders[0])
        steps = {("before", "float32"): before}
        steps |= {("after", precision): after for precision in after.precisions}
        times = _times(steps, turns)
    yield _table(times, lambda precision: case.goal(relation, precision))


def agreement(before: Worker, after: Worker, folder: Path) -> str:
    """Say how well both agree, or leave with an error; what cannot be compared is said, too."""
    files = [str(folder / f"{side}.pt") for side in ("before", "after")]
    before("check", "", files[0])
    after("check", files[0], files[1])
    expected, found = (torch.load(file) for file in files)
    differing = [n for n, x in expected["batch"].items() if not torch.equal(x, found["batch"].get(n, torch.empty(0)))]
    if differing:
        return f"values are not compared: both draw other batches ({', '.join(differing)})"
    error = disagreement(expected, found)
    if not error < TOLERANCE:
        sys.exit(f"loss or gradients differ by {error:.1e} in float64: no figures")
    return f"loss and gradients agree to {error:.0e} in float64"


def disagreement(expected: Mapping[str, Any], found: Mapping[str, Any]) -> float:
    """Return the largest difference of loss and gradients, each as a share of its size.

    Where a gradient is zero but for rounding, a share of the largest one is its measure.
    """
    one, other = ({"loss": of["loss"], **of["gradients"]} for of in (expected, found))
    least = 1e-3 * max(value.norm() for value in one.values())
    shares = [(value - other[name]).norm() / value.norm().clamp_min(least) for name, value in one.items()]
    return float(torch.stack(shares).max())  # unlike Python's, NaN where there is one


Key = tuple[str, str]
"""Which commit, and in which precision."""


def _times(steps: Mapping[Key, Worker], turns: int) -> dict[Key, dict[str, float]]:
    taken: dict[Key, list[dict[str, float]]] = {key: [] for key in steps}
    for turn in range(WARM_UP + turns):
        for key, worker in steps.items():
            time = worker("step", key[1])
            if turn >= WARM_UP:
                taken[key].append(time)
    return {
        key: {clock: statistics.median(time[clock] for time in times) for clock in ("cpu", "wall")}
        for key, times in taken.items()
    }


def _table(times: Mapping[Key, Mapping[str, float]], goal: Callable[[str], float | None]) -> str:
    base, rows = times["before", "float32"]["cpu"], []
    for (side, precision), of in times.items():
        wanted = goal(precision) if side == "after" else None
        cells = [f"{of['cpu']:.0f} ({of['wall']:.0f})", f"{of['cpu'] / base:.2f}"]
        rows.append([side, precision, *cells, "" if wanted is None else f"{wanted:.2f}"])
    return table(rows, ["commit", "precision", "ms", "share", "goal"])
