import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_killed_processes_of_a_job_cost_nothing(tmp_path) -> None:
    command = [sys.executable, "-m", "benchmarks.kills", "--kills", "4", "--out", str(tmp_path / "kills.json")]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 kills of " in done.stdout
