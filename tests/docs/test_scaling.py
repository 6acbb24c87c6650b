"""The Slurm script and the Kubernetes manifest of docs/scaling.md name only what exists."""

import os
import re
import shlex
import signal
import subprocess
import textwrap
import time
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from relgrounding.cli import main
from relgrounding.config import load_config

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
SLURM = next(block for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) if "#SBATCH" in block)
MANIFEST = list(yaml.safe_load_all(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1]))


def _commands() -> dict[str, list[str]]:
    """The words after torchrun, of each example."""
    line = next(part for part in SLURM.replace("\\\n", " ").splitlines() if part.startswith("srun "))
    return {
        "slurm": shlex.split(line.partition(" torchrun ")[2].removesuffix("&")),
        "kubernetes": MANIFEST[1]["spec"]["template"]["spec"]["containers"][0]["command"][1:],
    }


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_torchrun_and_relgrounding_know_every_word(name, capsys):
    words = _commands()[name]
    launched = get_args_parser().parse_args([*words[: words.index("-m")], "-m", "relgrounding"])
    assert launched.module
    assert launched.rdzv_backend == "c10d"
    assert words[words.index("-m") + 1 :][:2] == ["relgrounding", "train"]
    own = words[words.index("train") + 1 :]
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    text = capsys.readouterr().out
    options = [word.partition("=")[0] for word in own if word.startswith("--")]
    assert len(options) == 2
    assert all(re.search(rf"{option}\b", text) for option in options)
    values = {own[i + 1] for i, word in enumerate(own[:-1]) if word.startswith("--") and "=" not in word}
    named = [word for word in own if not word.startswith("--") and word not in values]
    load_config(named[0], named[1:])


STAND_INS = {
    "srun": """
        echo "$$" > srun.pid; echo started >> said
        trap 'sleep 0.3; echo the state is kept >> said; exit 143' TERM
        while [ ! -e end ]; do sleep 0.05; done
        exit 7
    """,
    "scancel": 'echo "scancel $*" >> said; kill -TERM "$(cat srun.pid)"',
    "scontrol": """
        if [ "$1" = show ]; then echo "first"; echo second; else echo "$*" >> said; fi
    """,
}
"""What the programs of Slurm do, as far as the script can tell."""


@pytest.mark.parametrize("told", [True, False])
def test_the_script_keeps_the_state_before_it_is_queued_again(tmp_path, told):
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").touch()
    for name, text in STAND_INS.items():
        (tmp_path / name).write_text("#!/bin/bash\n" + textwrap.dedent(text))
        (tmp_path / name).chmod(0o755)
    facts = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "n", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "4"}
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **facts}
    script, said = subprocess.Popen(["bash", "-c", SLURM], cwd=tmp_path, env=environment), tmp_path / "said"
    until = time.monotonic() + 30
    while not said.is_file() and time.monotonic() < until:
        time.sleep(0.02)
    if told:
        script.send_signal(signal.SIGUSR1)
    else:
        (tmp_path / "end").touch()
    assert script.wait(30) == (0 if told else 7)
    queued = ["scancel --signal=TERM 17", "the state is kept", "requeue 17"]
    assert said.read_text().splitlines() == ["started", *(queued if told else [])]


def test_the_script_can_be_parsed_and_the_manifest_agrees_with_itself():
    subprocess.run(["bash", "-n"], input=SLURM, text=True, check=True)
    service, job = MANIFEST
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    pods, name = job["spec"]["template"]["spec"], job["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert pods["subdomain"] == service["metadata"]["name"]
    command = _commands()["kubernetes"]
    assert f"--nnodes={job['spec']['completions']}" in command
    assert f"--rdzv-endpoint={name}-0.{pods['subdomain']}:29500" in command
    assert f"--nproc-per-node={pods['containers'][0]['resources']['limits']['nvidia.com/gpu']}" in command
    assert {mount["name"] for mount in pods["containers"][0]["volumeMounts"]} == {v["name"] for v in pods["volumes"]}
