"""Run folders: settings, log, checkpoints, results, and locks on them."""

from relgrounding.runs._folder import TRAINED, WHOLE, RunError, RunFolder
from relgrounding.runs._locks import check_free, hold_run, run_files
from relgrounding.runs._log import Record

__all__ = ["TRAINED", "WHOLE", "Record", "RunError", "RunFolder", "check_free", "hold_run", "run_files"]
