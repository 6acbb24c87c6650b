"""Systems under torch.compile; what is compared is in `compiled_systems`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from relgrounding.config import ConfigError, load_config

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_compiled_steps_are_those_of_eager_in_one_graph_per_piece():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "tests.models.compiled_systems"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert [line.rpartition(" ")[0] for line in lines if not line.startswith("refused")] == [
        *(f"{name} aot_eager" for name in ("ign graph", "vgn graph", "vgn contrast", "scn", "ign graph")),
        "training aot_eager",
        "vgn contrast inductor",
    ]
    (refused,) = (line for line in lines if line.startswith("refused"))
    assert refused.startswith("refused: train.compile: Counting.score_pairs cannot be compiled whole: ")
    assert refused.endswith("; use train.compile=false")


def test_a_system_without_pieces_says_so():
    with pytest.raises(ConfigError, match=r"train\.compile: arn names no pieces that torch\.compile can take whole"):
        load_config("refcoco_arn", ["train.compile=true"])
