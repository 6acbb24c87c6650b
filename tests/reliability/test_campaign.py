import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_kills_and_signals_at_random_moments_cost_nothing() -> None:
    command = [sys.executable, "-m", "tests.reliability.campaign", "--kills", "12", "--signals", "12"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "faults: 0" in done.stdout
