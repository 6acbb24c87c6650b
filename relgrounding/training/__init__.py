"""Training, evaluation of runs, run folders."""

from relgrounding.training._ablation import Cell, Column, Experiment, Grid, Job, Row, read_grid
from relgrounding.training._ablation import cells as grid_cells
from relgrounding.training._ablation import is_done as job_is_done
from relgrounding.training._ablation import jobs as grid_jobs
from relgrounding.training._ablation import measured as grid_results
from relgrounding.training._ablation import table as grid_table
from relgrounding.training._ccl_step import CounterfactualStep
from relgrounding.training._evaluate import (
    evaluate_run,
    evaluate_split,
    protocols,
    score_split,
    select_top,
    validation_metrics,
)
from relgrounding.training._resume import nothing_left
from relgrounding.training._run_locks import check_free, hold_run, run_files
from relgrounding.training._runs import RunError, RunFolder
from relgrounding.training._step import align_pairings, learning_rate_factor, mil_step
from relgrounding.training._task import Split, Task, build_model, hold_out, make_task, make_test_task, with_data
from relgrounding.training._trainer import Trainer

__all__ = [
    "Cell",
    "Column",
    "CounterfactualStep",
    "Experiment",
    "Grid",
    "Job",
    "Row",
    "RunError",
    "RunFolder",
    "Split",
    "Task",
    "Trainer",
    "align_pairings",
    "build_model",
    "check_free",
    "evaluate_run",
    "evaluate_split",
    "grid_cells",
    "grid_jobs",
    "grid_results",
    "grid_table",
    "hold_out",
    "hold_run",
    "job_is_done",
    "learning_rate_factor",
    "make_task",
    "make_test_task",
    "mil_step",
    "nothing_left",
    "protocols",
    "read_grid",
    "run_files",
    "score_split",
    "select_top",
    "validation_metrics",
    "with_data",
]
