"""Whole runs: what `relgrounding.train`, `relgrounding.evaluate` and the commands do."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from relgrounding._files import check_output_folder, local_only, no_empty_folders
from relgrounding._printing import silent
from relgrounding._ranks import before_joining, check_device, in_all, is_main, joined, on_main, world_size
from relgrounding._signals import held
from relgrounding._urls import is_url
from relgrounding.config import Config, ConfigError, load_config
from relgrounding.runs import Record, RunFolder, flat, hold_run
from relgrounding.training._evaluate import FLOORS, results_table, score_run, write_scores
from relgrounding.training._resume import nothing_left, resumes
from relgrounding.training._same import PATHS, check_settings_same
from relgrounding.training._task import Task, check_tests, make_task, make_test_task, with_data, words_of_start
from relgrounding.training._trainer import Trainer


@dataclass(frozen=True)
class TrainedRun:
    """A run with its results.

    Args:
        path: its folder.
        config: its settings.
        results: one entry per split and protocol, as in results.json.
        table: the same as text.
    """

    path: Path
    config: Config
    results: list[Record] = field(repr=False)
    table: str = field(repr=False)

    def __fspath__(self) -> str:
        return str(self.path)


def train(
    config: str | os.PathLike | Config = "demo",
    runs: str | os.PathLike = "runs",
    resume: bool | str = False,
    overwrite: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> TrainedRun:
    """Train a model, select its best epoch on held-out training items, and evaluate it on the test splits.

    >>> run = relgrounding.train("charades_vgn", **{"train.epochs": 1, "name": "short"})  # doctest: +SKIP
    >>> run.results[0]["metrics"]["R@1,IoU=0.5"]  # doctest: +SKIP

    Args:
        config: name of a configuration that comes with the package, a YAML file, or a configuration.
        runs: folder of the runs; the run is kept in `runs`/NAME.
        resume: continue the run of this name; "auto": or start it, if there is none.
        overwrite: replace the run of this name, once training can begin.
        quiet: print nothing.
        settings: settings by name, such as `**{"train.epochs": 1}`, laid over those of the configuration.

    Returns:
        The run. A finished one that is resumed has the results that it had.

    Raises:
        ConfigError: settings, or a device, that cannot be used; data that is missing.
        DataError: annotations or features that cannot be used.
        RunError: a folder that holds another run, or a run that cannot be resumed.
        KeyboardInterrupt: it was interrupted; the run can be resumed.
    """
    if not isinstance(config, Config):
        config = config_for_all(load_config, config, settings)
    elif settings:
        raise ConfigError(f"settings go into the configuration; {next(iter(settings))} was given beside it")
    folder = RunFolder(local_only(runs, "the folder of the runs") / config.name)
    with joined(config.device, config.train.timeout):
        resume = on_main(resumes, folder, resume)
        if resume and on_main(nothing_left, folder, config):
            results = on_main(folder.read_results)
            return TrainedRun(folder.path, config, results, results_table(results))
        return train_run(config, folder, resume, overwrite, quiet)


def config_for_all(load: Callable[..., Config], *arguments: Any) -> Config:
    """Return the configuration that each process of a job loads; where one cannot be used, all end before they join."""

    def usable() -> Config:
        config = load(*arguments)
        check_device(config.device)
        return config

    return before_joining(usable, minutes=lambda config: config.train.timeout)


def train_run(
    config: Config, folder: RunFolder, resume: bool = False, overwrite: bool = False, quiet: bool = False
) -> TrainedRun:
    """Train and evaluate the run of a folder; see `train`. Processes of a job do so together, and one writes."""
    with (
        joined(config.device, config.train.timeout),
        _held_by_main(folder, overwrite, _paths_of(config)) as settle,
        silent(quiet),
    ):
        check_settings_same(config)
        on_main(check_tests, config)
        words = on_main(words_of_start, config, folder, resume)
        trainer = Trainer(in_all(make_task, config, words), folder, resume=resume, quiet=quiet)
        settle()
        trainer.run()
        with held(folder.progress):
            results, lines = score_run(trainer.task, folder, quiet=quiet)
        return TrainedRun(folder.path, config, results, results_table(results, len(lines)))


@contextlib.contextmanager
def _held_by_main(
    folder: RunFolder, overwrite: bool = False, read: Mapping[str, Path] | None = None
) -> Iterator[Callable[[], None]]:
    """Hold the lock of a run in the main process of a job; see `hold_run`."""
    with contextlib.ExitStack() as stack:
        settle: list[Callable[[], None]] = []
        on_main(lambda: settle.append(stack.enter_context(hold_run(folder, overwrite, read))))
        yield lambda: on_main(lambda: settle[0]())


def _paths_of(config: Config) -> dict[str, Path]:
    """Return what a run reads on this machine, by setting."""
    settings = flat(OmegaConf.to_container(OmegaConf.structured(config)))
    settings["data.root"] = settings["data.root"] or os.environ.get("RELGROUNDING_DATA", "")
    named = {key: value for key, value in settings.items() if key in PATHS or key.endswith(".start_from")}
    return {key: Path(value) for key, value in named.items() if isinstance(value, str) and value and not is_url(value)}


def evaluate(
    run: str | os.PathLike,
    splits: Sequence[str] | None = None,
    data: Mapping[str, Any] | Sequence[str] = (),
    write: bool = False,
    quiet: bool = False,
    explain: bool = False,
    out: str | os.PathLike | None = None,
) -> TrainedRun:
    """Evaluate the best checkpoint of a run.

    >>> relgrounding.evaluate("runs/refcoco_ign", splits=["testA"]).table  # doctest: +SKIP

    Args:
        run: its folder, or what `train` returned.
        splits: names of splits; None: those of the run.
        data: settings of the section `data` to evaluate with, such as `{"root": "/data"}` or `["root=/data"]`.
        write: replace results.json and predictions.jsonl of the run.
        quiet: print nothing.
        explain: with `write` or `out`: whatever `eval.explain` is, say in predictions.jsonl how first answers got their
            scores.
        out: a new folder that the results go into, with the configuration, origin and log of the run, so that it can be
            compared, drawn and reported like one; None: nowhere.

    Raises:
        ConfigError: settings, or data, that cannot be used; `write` with `data` or `out`, `explain` with neither; `out`
            is there and not empty.
        DataError: annotations or features that cannot be used.
        RunError: not a run, or one without a checkpoint.
    """
    if data and write:
        raise ConfigError("results of a run are those of its own data; leave out what replaces them, or the other data")
    if write and out is not None:
        raise ConfigError("results go into the run's folder or into another one; leave out `write` or `out`")
    kept = write or out is not None
    if explain and not kept:
        raise ConfigError("explanations go into predictions.jsonl; write it, or leave them out")
    folder, other = RunFolder(run), None if out is None else RunFolder(out)
    words = [f"{key}={value}" for key, value in data.items()] if isinstance(data, Mapping) else data
    config = config_for_all(_config_of, folder, words)
    config.eval.explain = kept and (explain or config.eval.explain)
    splits = [splits] if isinstance(splits, str) else splits
    with (
        joined(config.device, config.train.timeout),
        _held_by_main(folder) if write else contextlib.nullcontext(),
        no_empty_folders(other.path) if other and is_main() else contextlib.nullcontext(),
        silent(quiet),
    ):
        if other is not None:
            on_main(_make_empty, other, folder)
        task = in_all(make_test_task, config, folder)
        results, lines = score_run(task, folder, splits=splits, write=write, quiet=quiet)
        if other is not None:
            config.name = other.path.resolve().name
            config.data.test_splits = list(splits or config.data.test_splits)
            on_main(_fill, other, folder, config, task, results, lines)
    return TrainedRun((other or folder).path, config, results, results_table(results, len(lines)))


def _make_empty(folder: RunFolder, trained: RunFolder) -> None:
    """Make the folder that results of a run go into, before the work; it must be new or empty."""
    trained.read_log()
    check_output_folder(folder.path)
    folder.path.mkdir(parents=True, exist_ok=True)
    _check_empty(folder)


def _check_empty(folder: RunFolder) -> None:
    if there := min(folder.path.iterdir(), default=None):
        raise ConfigError(f"{folder.path} is not empty, it holds {there.name}; name a new folder")


def _fill(
    folder: RunFolder, trained: RunFolder, config: Config, task: Task, results: list[Record], lines: list[Record]
) -> None:
    """Write what was found into a folder that is still empty; if that fails it is empty again, for another try."""
    _check_empty(folder)  # so that what is deleted below was written here
    try:
        folder.write_beginning(trained, config)
        write_scores(task, folder, results, lines)
    except BaseException:
        for name in ("config.yaml", "log.jsonl", FLOORS, "predictions.jsonl"):
            (folder.path / name).unlink(missing_ok=True)
        raise


def _config_of(folder: RunFolder, words: Sequence[str]) -> Config:
    config = with_data(folder.read_config(), words)
    if world_size() > 1 and config.device != "cpu":
        config.device = "auto"  # that of the run may be none of this machine's, or one that its processes would share
    return config
