"""The commands: `relgrounding COMMAND`, `python -m relgrounding COMMAND`, and tools/COMMAND.py of a clone.

A file of this package is a command. Its docstring explains it, `add_arguments(parser)` says what it takes, and
`run(arguments)` does it and returns the exit status (None is 0). What takes long to import is imported in these two.
"""

import argparse
import contextlib
import functools
import importlib
import itertools
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from relgrounding import __version__, _signals
from relgrounding._files import local_only
from relgrounding._printing import printable, show_error
from relgrounding._ranks import RankError, check_job, is_told, rank, world_size
from relgrounding._settings import ConfigError
from relgrounding._urls import masked, with_urls

COMMANDS = ("train", "evaluate", "ground", "prepare", "extract", "ablate", "compare", "figures", "report", "misses",
            "env", "configs", "settings")  # fmt: skip

MOST_SHARDS = 99_999


class Parser(argparse.ArgumentParser):
    """Explains with a docstring, and shows no control characters of the words that it was given."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"formatter_class": argparse.RawDescriptionHelpFormatter, **options})

    def error(self, message: str) -> NoReturn:  # noqa: D102 as argparse's
        super().error(printable(masked(message)))


def main(words: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 (its own), 2 (an error), or 128 + the number of a signal."""
    words = sys.argv[1:] if words is None else list(words)
    if os.getcwd() not in sys.path:  # as `python -m` does: modules of your own beside which a command is run
        sys.path.append(os.getcwd())
    if words and words[0] in COMMANDS:
        return run(words[0], words[1:])
    parser = make_parser(full=any(word.startswith("--print-completion") for word in words))
    parser.parse_args(words)
    parser.print_help()
    return 0


def main_process() -> NoReturn:
    """Run a command as the whole of a process."""
    _signals.run_command(main)


def at_least(kind: type, least: int | float) -> Callable[[str], Any]:
    """Return what reads a finite number with a lower bound."""

    def number(text: str) -> Any:
        if not least <= (value := kind(text)) < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is less than {least} or not finite")
        return value

    return number


def local(text: str) -> Path:
    """Read the path of a file or a folder, which has to be on this machine."""
    try:
        return local_only(text, "it")
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def shard_number(text: str) -> tuple[int, int]:
    """Read the value of --shard, such as 3/8: the third of eight."""
    number, _, count = text.partition("/")
    if not (is_whole(number) and is_whole(count) and 1 <= int(number) <= int(count) <= MOST_SHARDS):
        raise argparse.ArgumentTypeError(f"{text} is not of the form i/n with i from 1 to n, such as 3/8")
    return int(number), int(count)


def is_whole(text: str) -> bool:
    """Whether a text is a whole number in the digits 0 to 9."""
    return text.isascii() and text.isdecimal()


def own_shard(given: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return which of how many shards this process makes: that of --shard, or else that of its rank; None: neither.

    Raises:
        ConfigError: the processes of a job would all make the same one.
    """
    if world_size() == 1:
        return given
    if given is not None:
        raise ConfigError("--shard is for processes started by hand; under torchrun each makes the shard of its rank")
    return rank() + 1, world_size()


def tool(name: str) -> Callable[[Sequence[str] | None], int]:
    """Return the `main` of tools/NAME.py."""
    return functools.partial(run, name, program=f"python tools/{name}.py")


def run(name: str, words: Sequence[str] | None = None, program: str = "") -> int:
    """Run a command.

    Args:
        name: of the command.
        words: its arguments; None: those of the process.
        program: what it is called, for its help.
    """
    module = importlib.import_module(f"{__name__}.{name}")
    parser = Parser(prog=program or f"relgrounding {name}", description=_explained(module, name, program))
    module.add_arguments(parser)
    # Settings and options may come in any order; argparse knows that of commands without commands of their own alone.
    parse = parser.parse_args if parser._subparsers else parser.parse_intermixed_args
    arguments = parse(_bare_options_last(parser, sys.argv[1:] if words is None else words))
    arguments.left = lambda: getattr(module, "LEFT", "")
    # A command that looks for signals where nothing is half done says what it leaves; others end at once.
    looks = hasattr(module, "LEFT")
    with _signals.caught(module.LEFT) if looks else _signals.uncaught():
        try:
            check_job()
            return module.run(arguments) or 0
        except KeyboardInterrupt as stop:
            return _signals.ended(stop, arguments.left() or "the same command starts it")
        except Exception as error:
            if isinstance(error, RankError) and (number := _signals.pending()):  # it came to all, in other places
                return _signals.ended(_signals.Interrupted(number), arguments.left())
            if not isinstance(error, _expected(module)):
                raise
            said = _in_words(error)
            # The system's own errors; those of loading processes come without their numbers.
            failed = isinstance(error, OSError) and (error.errno is not None or said != str(error))
            left = arguments.left() if failed else ""
            if not is_told(error):
                show_error(f"{printable(with_urls(said))}{left and '; '}{left}", error)
            return 2


def _bare_options_last(parser: Parser, words: Sequence[str]) -> list[str]:
    """Return words in which an option without its optional value is not followed by what argparse would take for it."""
    optional = {o: action for action in parser._actions if action.nargs == "?" for o in action.option_strings}
    end = words.index("--") if "--" in words else len(words)
    kept: list[str] = []
    bare: list[str] = []
    for word, value in itertools.zip_longest(words[:end], words[1:end]):
        alone = word in optional and value not in (optional[word].choices or ())
        (bare if alone else kept).append(word)
    return [*kept, *bare, *words[end:]]


def _expected(module: ModuleType) -> tuple[type[Exception], ...]:
    """Return the errors that say what to do, in one line; others are faults of the program."""
    known: tuple[type[Exception], ...] = (ConfigError, OSError, ImportError, RankError, *getattr(module, "ERRORS", ()))
    with contextlib.suppress(ImportError):  # DGL is missing or broken, which is the error
        from relgrounding.io import DataError
        from relgrounding.runs import RunError

        known += (DataError, RunError)
    return known


def _in_words(error: Exception) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    first, *lines = text.splitlines() or [""]
    if not (first.startswith("Caught ") and "in DataLoader worker process" in first):
        return text
    # A loading process tells its error below a traceback, whose lines are indented, and by the name of its class.
    place = max((i for i, line in enumerate(lines, 1) if line.startswith("  ")), default=0)
    return "\n".join(lines[place:]).partition(": ")[2] or text


def _explained(module: ModuleType, name: str, program: str) -> str:
    text = module.__doc__ or ""
    return text.replace(f"relgrounding {name}", program) if program else text


def make_parser(full: bool = False) -> Parser:
    """Return the parser of all commands.

    Args:
        full: with the arguments of each, which take seconds to import.
    """
    parser = Parser(prog="relgrounding", description="Graph learning for vision-language grounding.")
    parser.add_argument("--version", action="version", version=f"relgrounding {__version__}")
    if full:
        import shtab

        shtab.add_argument_to(parser, "--print-completion", help="print the completion of a shell")
    else:
        parser.add_argument("--print-completion", metavar="SHELL", help="print the completion of bash, zsh or tcsh")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"{__name__}.{name}")
        line = (module.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(name, help=line, description=line)
        if full:
            module.add_arguments(command)
    return parser
