import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"]


def commands() -> list[str]:
    """Every line of the pages' blocks of shell commands that runs Python, and every command in running text."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = re.findall(r"^```(?:bash|)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
        lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
        lines += re.findall(r"`((?:python|tools/)[^`\n]*)`", text)
        found += [line for line in lines if re.match(r"(python (tools/|-m )|tools/)", line)]
    return sorted(set(found))


@functools.cache
def help_of(*words: str) -> str:
    done = subprocess.run([sys.executable, *words, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(words)} --help: {done.stderr}"
    return done.stdout


def test_there_are_commands_and_their_files_exist():
    lines = commands()
    assert len(lines) > 40
    for line in lines:
        names = re.findall(r"tools/\w+\.py|configs/[\w/]+\.yaml", line)
        assert all((ROOT / name).is_file() for name in names), line
        for module in re.findall(r"python -m ([a-z][\w.]+)", line):
            path = ROOT.joinpath(*module.split("."))
            known = module in ("pytest", "venv", "pip")
            assert known or path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), line


@pytest.mark.slow
def test_every_option_of_the_documented_commands_exists():
    for line in commands():
        words = shlex.split(line.removeprefix("python "), comments=True)
        if not words[0].startswith("tools/") or "*" in words[0]:
            continue
        options = [word.partition("=")[0] for word in words[1:] if word.startswith("--")]
        text = help_of(words[0])
        if len(words) > 1 and re.search(rf"[{{,]{re.escape(words[1])}[,}}]", text):
            text = help_of(words[0], words[1])
        assert all(re.search(rf"{option}\b", text) for option in options), line
