"""What a run may be resumed with, and whether it has anything left to do."""

from typing import Any

from omegaconf import OmegaConf

from relgrounding.config import Config
from relgrounding.training._runs import WHOLE, RunError, RunFolder

FREE = {"name", "device", "backend", "data.root", "data.workers", "train.log_every", "eval.batch_size"}
"""Settings that say where and how a run computes, not what."""
UPWARDS = {"train.epochs", "train.patience", "ccl.epochs"}
"""Settings that say when it ends, which may be later."""


def check_settings(folder: RunFolder, config: Config) -> None:
    """Compare the settings of a run with those that it is to go on with.

    Raises:
        RunError: some differ which may not; names all of them with both values.
    """
    was, now = (_flat(OmegaConf.to_container(OmegaConf.structured(c))) for c in (folder.read_config(), config))
    wrong = []
    for key, value in now.items():
        later = key in UPWARDS and value > was[key]
        if value != was[key] and key not in FREE and not later:
            wrong.append(f"{key} is {was[key]!r} there and {value!r} here{' (it may rise)' if key in UPWARDS else ''}")
    if wrong:
        raise RunError(
            f"{folder.path} is run with other settings: {', '.join(wrong)}; resume it with its own, or give this run "
            "another name with name=..."
        )


def load_whole(folder: RunFolder, config: Config) -> dict[str, Any]:
    """Read the checkpoint that a run goes on from; its state is complete and says whether the run is finished.

    Raises:
        RunError: settings that differ from the run's, no checkpoint, or a damaged one.
    """
    saved = folder.load("last.pt", WHOLE)
    check_settings(folder, config)
    state = {"stage": 1, "stage_start": 0, "losses": []} | saved["state"]
    whole = ("epoch", "step", "stage", "stage_start", "best_epoch")
    numbers = all(isinstance(state.get(key), int) for key in whole) and isinstance(state.get("best"), float)
    if not numbers or state["stage"] not in (1, 2) or min(state["step"], state["epoch"]) < 0:
        raise RunError(f"{folder.path / 'last.pt'} cannot be restored: its state has no step, epoch or best value")
    if state["stage"] == 2 and not isinstance(saved.get("banks"), dict):
        raise RunError(f"{folder.path / 'last.pt'} cannot be restored: it lacks the banks of stage 2")
    if state["stage"] == 2 and not config.ccl.start_from and config.train.epochs > folder.read_config().train.epochs:
        raise RunError(f"train.epochs cannot rise: {folder.path} is past stage 1; ccl.epochs may")
    # Not as it was saved: a checkpoint of the last epoch may have been written before that was noted, and later
    # epochs may have been asked for since.
    state["finished"] = stage_is_over(state, config) and (state["stage"] == 2 or not config.ccl.epochs)
    return saved | {"state": state}


def stage_epochs(stage: int, config: Config) -> int:
    """Return the epochs that a stage lasts at most."""
    return config.train.epochs if stage == 1 else config.ccl.epochs


def stage_is_over(state: dict[str, Any], config: Config) -> bool:
    """Whether the present stage has had its epochs, or none better for as long as patience lasts."""
    waited = state["epoch"] - max(state["best_epoch"], state["stage_start"])
    done = state["epoch"] - state["stage_start"]
    return done >= stage_epochs(state["stage"], config) or waited >= config.train.patience


def nothing_left(folder: RunFolder, config: Config) -> str:
    """Return a line about a run that is finished, with its results; nothing where there is something to do.

    Raises:
        RunError: see `load_whole`.
    """
    state = load_whole(folder, config)["state"]
    if not state["finished"] or not (folder.path / "results.json").is_file():
        return ""
    early = state["epoch"] - state["stage_start"] < stage_epochs(state["stage"], config)
    how = "train.patience, none of the last was better" if early else "train.epochs or ccl.epochs"
    return f"{folder.path} is finished, with its results, after {state['epoch']} epochs; to go on, raise {how}"


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
