"""Grids of runs: rows of settings, over data sets and seeds, and their table."""

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from tabulate import tabulate

from relgrounding._names import check_name
from relgrounding._printing import counted
from relgrounding._settings import LARGEST, merge_settings, read_yaml
from relgrounding.config import Config, ConfigError, load_config
from relgrounding.evaluation import read_results
from relgrounding.runs import RunError, RunFolder, address, addressed_folders, flat, name_with_address
from relgrounding.training._resume import FREE, as_kept
from relgrounding.training._schedule import stages


@dataclass
class Column:
    """A column of the table: a metric of results.json."""

    split: str = MISSING
    protocol: str = MISSING
    metric: str = MISSING

    @property
    def title(self) -> str:
        """Its heading in the table."""
        return f"{self.split}, {self.protocol}: {self.metric}"


@dataclass
class Experiment:
    """A configuration on which every row is run, and the reported metrics."""

    config: str = MISSING
    """Name of a configuration that comes with the package, or a YAML file, relative to the working directory."""
    settings: list[str] = field(default_factory=list)
    columns: list[Column] = field(default_factory=list)


@dataclass
class Row:
    """Settings whose effect is measured."""

    settings: list[str] = field(default_factory=list)
    reference: str = ""
    """Row that it is compared with; empty: that of the grid."""
    start: str = ""
    """Row whose run on the same data set and seed stage 2 starts from."""
    only: list[str] = field(default_factory=list)
    """Experiments on which the row is run; empty: all."""


@dataclass
class Grid:
    """What `relgrounding ablate` runs."""

    name: str = MISSING
    note: str = ""
    """Printed above the table, to describe the schedule."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    reference: str = ""
    """Row with which the others are compared, per seed."""
    settings: list[str] = field(default_factory=list)
    """Settings of every run."""
    experiments: dict[str, Experiment] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)

    def reference_of(self, row: str) -> str:
        """Return the row that a row is compared with; empty: none."""
        reference = self.rows[row].reference or self.reference
        return "" if reference == row else reference

    @cached_property
    def configs(self) -> dict[tuple[str, str], Config]:
        """The configurations by experiment and row, with the first seed, before it is known where runs start from.

        Raises:
            ConfigError: invalid settings.
        """
        return {(name, row): _config(self, name, row) for row in self.rows for name in _experiments(self, row)}


@dataclass(frozen=True)
class Job:
    """One run of a grid. Rows with equal settings share it."""

    experiment: str
    row: str
    seed: int
    start: str
    """Row that must be run before, or empty."""
    file: str
    words: tuple[str, ...]
    settings: dict[str, Any] = field(repr=False)
    """Those of file and words on which results depend, such as {"train.epochs": 3}."""
    name: str
    """Name of the run's folder."""
    address: str
    """Hash of its settings, without those that do not affect results, with which its folder's name ends."""
    before: "Job | None" = field(default=None, repr=False)
    """The run that it starts from."""

    @property
    def earlier_name(self) -> str:
        """Name of the folder that earlier versions gave this run."""
        return run_name(self.experiment, self.row, self.seed)


def run_name(experiment: str, row: str, seed: int) -> str:
    """Return what the folder of a run is called, without characters that are special to a shell or a file system."""
    plain = "".join(c if c.isalnum() or c in "._-" else "-" for c in f"{experiment}-{row}")
    return f"{plain}-{seed}"


def read_grid(path: str | Path) -> Grid:
    """Read a grid; `jobs` checks the settings of its runs.

    Raises:
        ConfigError: an unknown key, row or experiment, rows that start from each other in a circle, or two runs with
            the same name.
    """
    merged = merge_settings(OmegaConf.structured(Grid), read_yaml(path), str(path))
    missing = sorted(OmegaConf.missing_keys(merged))
    if missing:
        raise ConfigError(f"{path}: {missing[0]} is missing")
    grid = OmegaConf.to_object(merged)
    if not isinstance(grid, Grid):
        raise ConfigError(f"{path}: is not a grid")
    if not grid.rows or not grid.experiments or not grid.seeds:
        raise ConfigError(f"{path}: a grid needs rows, experiments and seeds")
    if wrong := [seed for seed in grid.seeds if not 0 <= seed <= LARGEST]:
        raise ConfigError(f"{path}: seeds: {wrong[0]} is not from 0 to 2^63 - 1")
    check_name(grid.name, f"{path}: name")
    for kind, given in (("experiments", grid.experiments), ("rows", grid.rows)):
        for name in given:
            check_name(name, f"{path}: {kind}")
    for name, row in grid.rows.items():
        _check_row(path, grid, name, row)
    if grid.reference and grid.reference not in grid.rows:
        raise ConfigError(f"{path}: reference: there is no row '{grid.reference}'; known are {', '.join(grid.rows)}")
    names = [check_name(run_name(*run), f"{path}: a run's name") for run in _runs(grid)]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ConfigError(f"{path}: two runs would be called {doubled[0]}; give their rows other names")
    return grid


def _check_row(path: str | Path, grid: Grid, name: str, row: Row) -> None:
    for other in row.only:
        if other not in grid.experiments:
            known = ", ".join(grid.experiments)
            raise ConfigError(f"{path}: rows.{name}.only: there is no experiment '{other}'; known are {known}")
    if row.reference and row.reference not in grid.rows:
        raise ConfigError(
            f"{path}: rows.{name}.reference: there is no row '{row.reference}'; known are {', '.join(grid.rows)}"
        )
    seen = [name]
    while start := grid.rows[seen[-1]].start:
        if start not in grid.rows:
            raise ConfigError(f"{path}: rows.{seen[-1]}.start: there is no row '{start}'")
        if start in seen:
            raise ConfigError(f"{path}: rows start from each other in a circle: {' <- '.join([*seen, start])}")
        seen.append(start)


def jobs(grid: Grid, runs: Path) -> list[Job]:
    """Return all runs; each comes after the run that it starts from.

    A run is looked for by its settings: in a folder whose name ends with their hash, whatever the row is called, then
    in the folder that earlier versions named after the row. Jobs of the same name are one run. Where a default changed
    since a folder was made, which its hash does not tell, the run is another one, known by the hash of all settings.

    Args:
        grid: see `read_grid`.
        runs: folder of the runs.

    Raises:
        ConfigError: invalid settings, or a row that starts from one that is not run on the same data.
    """
    there = addressed_folders(runs)
    found: dict[tuple[str, str, int], Job] = {}
    for experiment, row, seed in _runs(grid):
        start = grid.rows[row].start
        before = found[experiment, start, seed] if start else None
        job = _job(grid, runs, (experiment, row, seed), before, there)
        if job.address not in there:
            earlier = runs / job.earlier_name
            there[job.address] = earlier.name if earlier.is_dir() and not _differs(earlier, job) else job.name
        name = there[job.address]
        found[experiment, row, seed] = dataclasses.replace(job, name=name, words=(*job.words, f"name={name}"))
    return list(found.values())


def _runs(grid: Grid) -> list[tuple[str, str, int]]:
    """Return experiment, row and seed of all runs; each comes after the run that it starts from."""
    return [
        (experiment, row, seed)
        for row in sorted(grid.rows, key=lambda name: len(list(_starts(grid, name))))
        for experiment in _experiments(grid, row)
        for seed in grid.seeds
    ]


def _experiments(grid: Grid, row: str) -> list[str]:
    return [name for name in grid.experiments if not grid.rows[row].only or name in grid.rows[row].only]


def _starts(grid: Grid, row: str) -> Iterator[str]:
    while grid.rows[row].start:
        row = grid.rows[row].start
        yield row


def _config(grid: Grid, experiment: str, row: str) -> Config:
    what, start = grid.experiments[experiment], grid.rows[row].start
    if start and experiment not in _experiments(grid, start):
        raise ConfigError(f"row '{row}' starts from '{start}', which is not run on {experiment}")
    name = run_name(experiment, row, grid.seeds[0])
    try:
        return load_config(what.config, [*_words(grid, experiment, row), f"seed={grid.seeds[0]}", f"name={name}"])
    except ConfigError as error:
        raise ConfigError(f"run {name}: {error}") from None


def _words(grid: Grid, experiment: str, row: str) -> list[str]:
    return [*grid.settings, *grid.experiments[experiment].settings, *grid.rows[row].settings]


def _job(grid: Grid, runs: Path, run: tuple[str, str, int], before: Job | None, there: dict[str, str]) -> Job:
    """Return a run, in a folder of its own; `there` are those that have an address."""
    experiment, row, seed = run
    config = grid.configs[experiment, row]
    settings = flat_settings(config) | {"seed": seed}
    words = [*_words(grid, experiment, row), f"seed={seed}"]
    content = dict(settings)
    if before is not None:
        key = f"{_second_stage(config)}.start_from"
        settings[key], content[key] = str(runs / before.name), before.address
        words.append(f"{key}={settings[key]}")
    what, name = grid.experiments[experiment], run_name(*run)
    known = address(content, type(config))
    job = Job(*run, grid.rows[row].start, what.config, tuple(words), settings, "", known, before)
    if known in there and _differs(runs / there[known], job):
        known = address(content)
    return dataclasses.replace(job, name=name_with_address(name, known), address=known)


def flat_settings(config: Config) -> dict[str, Any]:
    """Return the settings on which the results of a run depend, such as {"train.epochs": 3}; no credentials of URLs."""
    return {key: as_kept(value) for key, value in flat(dataclasses.asdict(config)).items() if key not in FREE}


def _second_stage(config: Config) -> str:
    """Return the section of the first stage after that of `train.objectives`."""
    return next((stage.objectives[0].name for stage in stages(config)[1:]), "ccl")


def _differs(folder: Path, job: Job) -> bool:
    """Whether a folder holds a run with other settings, as far as its config.yaml can be read."""
    try:
        return not _same(RunFolder(folder).read_config(), job)
    except (ConfigError, RunError):
        return False


def _same(config: Config, job: Job) -> bool:
    """Whether settings are those of a run; the run that it starts from may be found elsewhere now."""
    was = flat_settings(config)
    if job.before is not None:
        key = f"{_second_stage(config)}.start_from"
        if Path(was[key]).name == job.before.name:
            was[key] = job.settings[key]
    return was == job.settings


def is_done(job: Job, runs: Path) -> bool:
    """Whether a run has its results.

    Raises:
        ConfigError: a run of that name has other settings.
    """
    folder = RunFolder(runs / job.name)
    if not (folder.path / "config.yaml").is_file():
        return False
    if not _same(folder.read_config(), job):
        raise ConfigError(
            f"{folder.path} was run with settings other than those of the grid; delete it, or choose another --runs"
        )
    return (folder.path / "results.json").is_file()


def measured(grid: Grid, runs: Path, known: Sequence[Job] = ()) -> dict[tuple[str, str, int], list[dict[str, Any]]]:
    """Return the entries of results.json of every run, by experiment, row and seed; empty if it is not done.

    Args:
        grid: see `read_grid`.
        runs: folder of the runs.
        known: the runs, if they were looked for before.
    """
    paths = {(j.experiment, j.row, j.seed): runs / j.name / "results.json" for j in known or jobs(grid, runs)}
    return {run: read_results(path) if path.is_file() else [] for run, path in paths.items()}


@dataclass(frozen=True)
class Cell:
    """A metric over seeds.

    Attributes:
        values: by seed.
        differences: from the reference row with the same seed.
    """

    values: dict[int, float]
    differences: list[float]

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return statistics.fmean(self.values.values())

    @property
    def deviation(self) -> float:
        """Sample standard deviation of the values; 0 for a single value."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else 0.0

    def __str__(self) -> str:
        text = f"{self.mean:.1f} ± {self.deviation:.1f}"
        if self.differences:
            spread = statistics.stdev(self.differences) if len(self.differences) > 1 else 0.0
            # Adding 0 turns a difference of -0.0 into 0.0.
            text += f" ({round(statistics.fmean(self.differences), 1) + 0:+.1f} ± {spread:.1f})"
        return text


def table(grid: Grid, runs: Path, known: Sequence[Job] = ()) -> str:
    """Return the table as Markdown, per experiment: mean and deviation over seeds, difference from the reference.

    Rows that were not run on the data show a dash; an experiment of which nothing was run says so. The arguments are
    those of `measured`.
    """
    found = cells(grid, runs, known)
    parts = []
    for name, experiment in grid.experiments.items():
        titles = [column.title for column in experiment.columns]
        extra = sorted(row for row in found[name] if row not in grid.rows)
        order = [row for row in grid.rows if name in _experiments(grid, row)] + extra
        lines = [
            [_label(grid, row), *(_written(found[name].get(row, {}).get(title), len(grid.seeds)) for title in titles)]
            for row in order
        ]
        text = tabulate(lines, ["", *titles], tablefmt="pipe", colalign=("left", *["right"] * len(titles)))
        if not found[name]:
            text = "Not run."
        settings = " ".join([*grid.settings, *experiment.settings])
        ran = f"`{experiment.config}` with `{settings}`" if settings else f"`{experiment.config}`"
        parts.append(f"## {name}\n\n{ran}\n\n{text}\n")
    return "\n".join(parts)


def _written(cell: Cell | None, seeds: int) -> str:
    """Return a cell as text, a dash where there is none; one of fewer seeds than the grid's says so."""
    if cell is None:
        return "-"
    return str(cell) if len(cell.values) == seeds else f"{cell}, {len(cell.values)} of {counted(seeds, 'seed')}"


def _label(grid: Grid, row: str) -> str:
    """Return the name of a row, with that of its own reference."""
    own = grid.rows[row].reference if row in grid.rows else ""
    return f"{row} (against {own})" if own else row


def cells(grid: Grid, runs: Path, known: Sequence[Job] = ()) -> dict[str, dict[str, dict[str, Cell]]]:
    """Return the metrics by experiment, row and column title, as far as they were measured.

    Floors and the oracle are rows named "floor: ..." and "oracle", and "... of ROW" where they differ between rows, as
    their candidates do. The arguments are those of `measured`.

    Raises:
        ConfigError: the results of a run lack a column.
    """
    entries = measured(grid, runs, known)
    found: dict[str, dict[str, dict[str, Cell]]] = {name: {} for name in grid.experiments}
    for name, experiment in grid.experiments.items():
        for column in experiment.columns:
            by_row: dict[str, dict[int, float]] = {}
            shared: dict[str, dict[str, dict[int, float]]] = {}
            for (where, row, seed), results in entries.items():
                if where == name and results:
                    entry = _entry(name, results, column)
                    by_row.setdefault(row, {})[seed] = float(entry["metrics"][column.metric])
                    floors = {f"floor: {floor}": metrics for floor, metrics in entry["floors"].items()}
                    for title, metrics in (floors | {"oracle": entry["oracle"]}).items():
                        shared.setdefault(title, {}).setdefault(row, {})[seed] = float(metrics[column.metric])
            for title, of_rows in shared.items():
                by_row |= _once(title, of_rows)
            for row, values in by_row.items():
                baseline = by_row.get(grid.reference_of(row), {}) if row in grid.rows else {}
                differences = [values[s] - baseline[s] for s in values if s in baseline]
                found[name].setdefault(row, {})[column.title] = Cell(values, differences)
    return found


def _once(title: str, of_rows: dict[str, dict[int, float]]) -> dict[str, dict[int, float]]:
    """Return what rows have in common by seed, under its title; where they differ, that of each row."""
    common: dict[int, float] = {}
    for values in of_rows.values():
        if any(round(common.setdefault(seed, value), 6) != round(value, 6) for seed, value in values.items()):
            return {f"{title} of {row}": values for row, values in of_rows.items()}
    return {title: common}


def _entry(experiment: str, results: list[dict[str, Any]], column: Column) -> dict[str, Any]:
    for entry in results:
        if (entry["split"], entry["protocol"]) == (column.split, column.protocol) and column.metric in entry["metrics"]:
            return entry
    known = sorted({f"{e['split']}, {e['protocol']}: {metric}" for e in results for metric in e["metrics"]})
    raise ConfigError(f"{experiment}: the results have no column '{column.title}'; known are {'; '.join(known[:20])}")
