"""Checks before a run is resumed: its settings, its checkpoint, and whether it is finished."""

from typing import Any

from omegaconf import OmegaConf

from relgrounding._printing import counted
from relgrounding._urls import identity, masked
from relgrounding.config import Config, ConfigError
from relgrounding.runs import WHOLE, RunError, RunFolder, flat
from relgrounding.training._schedule import stages

FREE = {
    "name",
    "device",
    "backend",
    "data.root",
    "data.stream",
    "data.workers",
    "train.accumulate",
    "train.compile",
    "train.log_every",
    "train.save_every",
    "train.save_minutes",
    "train.timeout",
    "eval.batch_size",
}
"""Settings that may change when a run is resumed: they do not affect its results, except that another number of pieces
changes random draws (`train.accumulate` and the number of processes)."""


def check_settings(folder: RunFolder, config: Config) -> None:
    """Compare the settings of a run with those with which it is resumed.

    Raises:
        RunError: settings differ that must not; the message lists them with both values.
    """
    was, now = (flat(OmegaConf.to_container(OmegaConf.structured(c))) for c in (folder.read_config(), config))
    # A run may be extended.
    rising = {"train.patience", "train.epochs", *(f"{name}.epochs" for name in config.classes)}
    wrong = []
    for key in sorted({*was, *now} - FREE, key=[*now, *was].index):
        before, value = as_kept(was.get(key)), as_kept(now.get(key))
        later = key in rising and before is not None and value is not None and value > before
        if value != before and not later:
            wrong.append(f"{key} is {before!r} there and {value!r} here{' (it may rise)' if key in rising else ''}")
    if wrong:
        raise RunError(
            f"{folder.path} has other settings: {', '.join(wrong)}; resume it with its own, or give this run "
            "another name with name=..."
        )


def check_words(start: RunFolder, config: Config) -> None:
    """Compare the word vectors of a run with those of one that starts from its weights, which hold them.

    Raises:
        RunError: the offsets of words differ.
    """
    was, now = start.read_config().data.word_offset, config.data.word_offset
    if was != now:
        raise RunError(
            f"{start.path} was trained with data.word_offset={was:g}, not {now:g}; give data.word_offset={was:g}"
        )


def check_teacher(start: RunFolder, config: Config) -> None:
    """Compare the model of a run with the one that is trained from it without being changed.

    Raises:
        RunError: settings differ that its answers depend on.
    """
    was, now = (flat(OmegaConf.to_container(OmegaConf.structured(c.model))) for c in (start.read_config(), config))
    wrong = [key for key in {**was, **now} if was.get(key) != now.get(key) and key != "dropout"]
    if wrong:
        differing = ", ".join(f"model.{key} is {was.get(key)!r} there and {now.get(key)!r} here" for key in wrong)
        raise RunError(f"{start.path} is to be the first member, but {differing}; cotrain.student changes the others")


def load_whole(folder: RunFolder, config: Config) -> dict[str, Any]:
    """Read the checkpoint from which a run is resumed, with a complete state that tells whether the run is finished.

    Raises:
        RunError: settings that differ from the run's, no checkpoint, or a damaged one.
    """
    saved = folder.load("last.pt", WHOLE)
    check_settings(folder, config)
    state = {"stage": 1, "stage_start": 0, "losses": []} | saved["state"]
    whole = ("epoch", "step", "stage", "stage_start", "best_epoch")
    numbers = all(isinstance(state.get(key), int) for key in whole) and isinstance(state.get("best"), float)
    losses, seconds = state["losses"], state.get("seconds", 0.0)
    listed = isinstance(losses, list) and all(isinstance(value, int | float) for value in [*losses, seconds])
    path, planned = folder.path / "last.pt", stages(config)
    if not numbers or not listed or not 1 <= state["stage"] <= len(planned) or min(state["step"], state["epoch"]) < 0:
        raise RunError(f"{path} cannot be restored: its state has no step, epoch, losses or best value")
    if not isinstance(saved.get("data", {}), dict):
        raise RunError(f"{path} cannot be restored: what it says of its data has the wrong type")
    kept = saved.get("objectives")
    if kept is None:  # earlier versions kept only the state of this objective
        kept = {"ccl": saved["banks"]} if "banks" in saved else {}
    stage = planned[state["stage"] - 1]
    needed = [kind.name for kind in stage.objectives] if state["stage"] > 1 else []
    if not isinstance(kept, dict) or not all(isinstance(kept.get(name), dict) for name in needed):
        raise RunError(f"{path} cannot be restored: it lacks the state of {', '.join(needed)}")
    then = stages(folder.read_config())
    begun = max((number for number in range(state["stage"]) if planned[number].start_from), default=0)
    passed = {planned[number].key for number in range(begun, state["stage"] - 1)}
    for number in range(begun, state["stage"] - 1):
        key = planned[number].key
        if planned[number].epochs > then[number].epochs:
            rest = f"; {stage.key} may" if stage.key not in passed else ""
            raise RunError(f"{key} cannot rise: {folder.path} is past stage {number + 1}{rest}")
    # Not the saved value: the last checkpoint may precede the end of the run, and the run may have been extended since.
    state["finished"] = stage_is_over(state, config) and state["stage"] == len(planned)
    return saved | {"state": state, "objectives": kept}


def stage_is_over(state: dict[str, Any], config: Config) -> bool:
    """Whether the current stage has had its epochs, or no better epoch within the patience."""
    waited = state["epoch"] - max(state["best_epoch"], state["stage_start"])
    done = state["epoch"] - state["stage_start"]
    return done >= stages(config)[state["stage"] - 1].epochs or waited >= config.train.patience


def resumes(folder: RunFolder, resume: bool | str) -> bool:
    """Return whether a run goes on from its checkpoint.

    Args:
        folder: of the run.
        resume: whether it shall; "auto": if there is a checkpoint.

    Raises:
        ConfigError: another word.
    """
    if isinstance(resume, str) and resume != "auto":
        raise ConfigError(f"resume is {resume!r}; give True, False or 'auto'")
    return folder.started if resume == "auto" else bool(resume)


def nothing_left(folder: RunFolder, config: Config) -> str:
    """Return a line that a run is finished and evaluated; empty if something is left to do.

    Raises:
        RunError: see `load_whole`.
    """
    state = load_whole(folder, config)["state"]
    if not state["finished"] or not (folder.path / "results.json").is_file():
        return ""
    planned = stages(config)
    early = state["epoch"] - state["stage_start"] < planned[state["stage"] - 1].epochs
    keys = ["train.epochs", *(f"{name}.epochs" for name, kind in config.classes.items() if kind.follows)]
    before = {stage.key for stage in planned[:-1]}
    free = [key for key in keys[keys.index(planned[-1].key) :] if key not in before]
    raised = "train.patience, none of the last was better" if early else " or ".join(free)
    epochs = counted(state["epoch"], "epoch")
    go_on = f"; to go on, raise {raised}" if raised else ""
    return f"{folder.path} is finished, with its results, after {epochs}{go_on}"


def as_kept(value: Any) -> Any:
    """Return a value of the settings, a URL without what may differ when the same is fetched again."""
    return masked(identity(value)) if isinstance(value, str) else value
