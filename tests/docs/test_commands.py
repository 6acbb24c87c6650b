import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from relgrounding import cli
from relgrounding._settings import packaged_configs

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"]


def commands() -> list[str]:
    """Every line of the pages' blocks of shell commands that runs Python, and every command in running text."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = re.findall(r"^```(?:bash|)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
        lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
        lines += re.findall(r"`((?:python|tools/|relgrounding )[^`\n]*)`", text)
        found += [line for line in lines if re.match(r"(python (tools/|-m )|tools/|relgrounding )", line)]
    return sorted(set(found))


def help_of(*words: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit, match="0"):
        cli.main([*words, "--help"])
    return printed.getvalue()


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


def test_every_command_and_option_of_the_documented_commands_exists():
    checked = 0
    for line in commands():
        words = shlex.split(line.removeprefix("python "), comments=True)
        name = re.fullmatch(r"relgrounding|tools/(\w+)\.py", words[0])
        if not name or words[1:2] == ["COMMAND"]:
            continue
        words = [name[1], *words[1:]] if name[1] else words[1:]
        options = [word.partition("=")[0] for word in words[1:] if word.startswith("--")]
        text = help_of(words[0]) if words[0] in cli.COMMANDS else help_of()
        assert words[0] in (*cli.COMMANDS, "--help", "--version", "--print-completion"), line
        if len(words) > 1 and re.search(rf"[{{,]{re.escape(words[1])}[,}}]", text):
            text = help_of(words[0], words[1])
        assert all(re.search(rf"{option}\b", text) for option in options), line
        if words[0] == "train":
            named = [word for word in words[1:2] if "=" not in word and not word.startswith("-") and word.islower()]
            assert all(word in packaged_configs() for word in named), line
        checked += 1
    assert checked > 30
