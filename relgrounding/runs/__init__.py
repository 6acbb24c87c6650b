"""Run folders: settings, log, checkpoints, results, and locks on them."""

from relgrounding.runs._address import address, addressed_folders, flat, name_with_address
from relgrounding.runs._folder import TRAINED, WHOLE, RunError, RunFolder
from relgrounding.runs._locks import RunInUse, check_free, hold_run, run_files
from relgrounding.runs._log import Record

__all__ = [
    "TRAINED",
    "WHOLE",
    "Record",
    "RunError",
    "RunFolder",
    "RunInUse",
    "address",
    "addressed_folders",
    "check_free",
    "flat",
    "hold_run",
    "name_with_address",
    "run_files",
]
