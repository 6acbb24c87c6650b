"""Features and annotations that state different lengths of the same videos."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from relgrounding.config import load_config
from relgrounding.io import BadFeatures
from relgrounding.training import make_task
from tests.cases import disagree
from tests.datasets.checking import verify_config

TOOLS = Path(__file__).parents[2] / "tools"
BOTH = r"'v\d+' is 62\.4 s long in the features and 31\.2 s in the annotations"


def test_verify_and_training_name_both_lengths(case):
    case(disagree)
    config = load_config("own.yaml")
    (row,) = [row for row in verify_config(config) if row.status == "DIFFERS"]
    assert (row.check, row.expected, row.found) == ("features: durations", "as annotated", "12 differ")
    assert re.match(BOTH + ": extract the features from the videos that were annotated", row.meaning)
    with pytest.raises(BadFeatures, match=r"^clips\.h5 and the annotations disagree about 10 of 10 videos: " + BOTH):
        make_task(config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "status"), [(["prepare.py", "verify", "own.yaml"], 1), (["train.py", "--config", "own.yaml"], 2)]
)
def test_the_commands_end_with_their_status(case, command, status):
    case(disagree)
    done = subprocess.run([sys.executable, TOOLS / command[0], *command[1:]], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert re.search(BOTH, " ".join((done.stdout + done.stderr).split()))
    assert "Traceback" not in done.stderr
