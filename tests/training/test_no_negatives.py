"""One or two videos: after the hold-out no query has another video to be contrasted with."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from relgrounding.config import ConfigError, load_config
from relgrounding.training import make_task
from tests.cases import no_negatives

TRAIN = Path(__file__).parents[2] / "tools" / "train.py"


@pytest.mark.parametrize(("count", "queries", "left"), [(1, 0, 0), (2, 20, 1)])
def test_training_says_why_before_the_first_step(case, count, queries, left):
    case(no_negatives)
    with pytest.raises(ConfigError, match=r"^no batch has a negative, which is another video with another") as caught:
        make_task(load_config(f"own{count}.yaml"))
    text = str(caught.value)
    assert f"{queries} training queries with {left} different videos and {queries} different sentences are left" in text
    assert text.endswith("beside 1 held out for validation (data.validation); add videos and sentences")


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_the_command_ends_before_the_first_step(case, count):
    folder = case(no_negatives)
    done = subprocess.run([sys.executable, TRAIN, "--config", f"own{count}.yaml"], capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"error: no batch has a negative.*\n", done.stderr)
    assert not list((folder / "runs").iterdir())
