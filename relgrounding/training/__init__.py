"""Training, evaluation of runs, run folders."""

from relgrounding.training._evaluate import evaluate_run, evaluate_split, validation_metrics
from relgrounding.training._runs import RunError, RunFolder
from relgrounding.training._step import align_pairings, learning_rate_factor, mil_step
from relgrounding.training._task import Split, Task, build_model, hold_out, make_task
from relgrounding.training._trainer import Trainer

__all__ = [
    "RunError",
    "RunFolder",
    "Split",
    "Task",
    "Trainer",
    "align_pairings",
    "build_model",
    "evaluate_run",
    "evaluate_split",
    "hold_out",
    "learning_rate_factor",
    "make_task",
    "mil_step",
    "validation_metrics",
]
