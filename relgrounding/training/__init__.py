"""Training and evaluation of runs."""

from relgrounding.training._ablation import Cell, Column, Experiment, Grid, Job, Row, read_grid, run_name
from relgrounding.training._ablation import cells as grid_cells
from relgrounding.training._ablation import is_done as job_is_done
from relgrounding.training._ablation import jobs as grid_jobs
from relgrounding.training._ablation import measured as grid_results
from relgrounding.training._ablation import table as grid_table
from relgrounding.training._evaluate import (
    evaluate_run,
    evaluate_split,
    protocols,
    score_run,
    score_split,
    validation_metrics,
)
from relgrounding.training._resume import nothing_left, resumes
from relgrounding.training._run import TrainedRun, config_for_all, evaluate, train, train_run
from relgrounding.training._schedule import Stage, learning_rate_factor, stages
from relgrounding.training._task import (
    Split,
    Task,
    build_model,
    hold_out,
    make_task,
    make_test_task,
    with_data,
    words_of_start,
)
from relgrounding.training._trainer import Trainer

__all__ = [
    "Cell",
    "Column",
    "Experiment",
    "Grid",
    "Job",
    "Row",
    "Split",
    "Stage",
    "Task",
    "TrainedRun",
    "Trainer",
    "build_model",
    "config_for_all",
    "evaluate",
    "evaluate_run",
    "evaluate_split",
    "grid_cells",
    "grid_jobs",
    "grid_results",
    "grid_table",
    "hold_out",
    "job_is_done",
    "learning_rate_factor",
    "make_task",
    "make_test_task",
    "nothing_left",
    "protocols",
    "read_grid",
    "resumes",
    "run_name",
    "score_run",
    "score_split",
    "stages",
    "train",
    "train_run",
    "validation_metrics",
    "with_data",
    "words_of_start",
]
