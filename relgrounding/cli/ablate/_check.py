"""What can be known of the runs of a grid before the first one starts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from relgrounding._settings import ConfigError

if TYPE_CHECKING:
    from relgrounding.config import Config
    from relgrounding.training import Grid, Job


def check_runs(grid: "Grid", jobs: "Sequence[Job]") -> None:
    """Check the settings of all runs with those that they start from, and that each will have its columns.

    Args:
        grid: whose experiments have the columns.
        jobs: runs of it.

    Raises:
        ConfigError: a run could not be trained with its settings, or its results would lack a column.
    """
    from relgrounding.config import load_config

    seen = set()
    for job in jobs:
        if (job.experiment, job.row) in seen:
            continue
        seen.add((job.experiment, job.row))
        config = grid.configs[job.experiment, job.row]
        try:
            if job.before is not None:
                load_config(job.file, job.words)
            if config.dataset.splits() is not None:  # else the annotations would have to be read
                config.dataset.check_splits(config.data.test_splits)
            metrics = _metrics(config)
            chosen = config.train.select_metric
            if chosen not in ("", "last") and not _has(config, set().union(*metrics.values()), chosen):
                known = ", ".join(dict.fromkeys(name for names in metrics.values() for name in names))
                raise ConfigError(f"train.select_metric: there is no metric {chosen!r}; the metrics are {known}")
            for column in grid.experiments[job.experiment].columns:
                _check_column(config, metrics, column.split, column.protocol, column.metric)
        except ConfigError as error:
            raise ConfigError(f"run {job.earlier_name}: {error}") from None


def _metrics(config: "Config") -> dict[str, Sequence[str]]:
    """Return the names of the metrics by protocol; none where they are not known."""
    protocols = config.modality.protocols(config.dataset.protocols(), config.data.dataset, config.eval)
    return {name: config.modality.metric_names(variant) for name, variant in protocols.items()}


def _check_column(config: "Config", metrics: dict[str, Sequence[str]], split: str, protocol: str, metric: str) -> None:
    what = f"its results will have no column '{split}, {protocol}: {metric}'"
    if split not in config.data.test_splits:
        raise ConfigError(f"{what}: data.test_splits are {', '.join(config.data.test_splits)}")
    if protocol not in metrics:
        raise ConfigError(f"{what}: the protocols are {'; '.join(metrics)}")
    if not _has(config, metrics[protocol], metric):
        raise ConfigError(f"{what}: the metrics are {', '.join(metrics[protocol])}")


def _has(config: "Config", known: "Sequence[str] | set[str]", metric: str) -> bool:
    name, _, kind = metric.partition(",kind=")
    return not known or (name in known and (not kind or config.dataset.by_kind))
