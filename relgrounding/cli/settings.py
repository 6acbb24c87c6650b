"""Explain the settings of a run: each with its meaning, type, range and default.

    relgrounding settings
    relgrounding settings train
    relgrounding settings learning_rate

The settings are those of everything that is registered: systems, data sets, modalities and objectives, plugins too.
"""

import argparse
import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

import relgrounding
from relgrounding._printing import show
from relgrounding._settings import ConfigError, range_in_words

WIDTH = 118
PAGE = """# Settings

Every setting of a run, as `relgrounding settings` prints them (`relgrounding settings WORD`: those of a section, or
those with the word in their name). They are given in a YAML file, as words after a command (`train.epochs=3`), or in
Python (`relgrounding.train("demo", **{"train.epochs": 3})`). The sections `model`, `data` and `eval` have what is
common and what the chosen system, data set and modality add."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("words", nargs="*", metavar="WORD", help="a section, such as train, or part of a name")
    parser.add_argument("--page", action="store_true", help="print docs/settings.md")


def run(arguments: argparse.Namespace) -> None:
    """Print the explanations."""
    if arguments.page:
        show(page(), end="")
        return
    found = [section.matching(word) for section in sections() for word in arguments.words or [""]]
    text = "\n\n".join(str(section) for section in found if section.settings)
    if not text:
        raise ConfigError(f"no setting is called {arguments.words[0]!r}; `relgrounding settings` prints all")
    show(text)


def page() -> str:
    """Return docs/settings.md."""
    return "\n\n".join([PAGE, *(str(section) for section in sections(plugins=False))]) + "\n"


class Setting(NamedTuple):
    """A setting and its explanation."""

    key: str
    facts: str
    meaning: str

    def __str__(self) -> str:
        text = f"- `{self.key}` ({self.facts}): {self.meaning}"
        return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


class Section(NamedTuple):
    """Settings of one class."""

    title: str
    note: str
    settings: list[Setting]

    def matching(self, word: str) -> "Section":
        """Return the section with the settings that a word is about: all of them where it names the section."""
        whole = word in ("", *self.title.split(), *(setting.key.partition(".")[0] for setting in self.settings[:1]))
        return (
            self
            if whole
            else self._replace(
                settings=[s for s in self.settings if word in s.key.partition(".")[2] or s.key.startswith(word)]
            )
        )

    def __str__(self) -> str:
        return "\n\n".join([f"## {self.title}", self.note, "\n".join(map(str, self.settings))])


def sections(plugins: bool = True) -> Iterator[Section]:
    """Yield the settings of everything that is registered; what several share comes once, before the others.

    Args:
        plugins: with what others than this package have registered.
    """
    from relgrounding.config import Config, EvalConfig, TrainConfig
    from relgrounding.datasets import DATASETS, DataConfig
    from relgrounding.modalities import MODALITIES
    from relgrounding.models import MODELS, ModelConfig
    from relgrounding.objectives import OBJECTIVES

    def known(registry: Any) -> list[str]:
        home = relgrounding.__name__ + "."
        return [name for name in registry if plugins or registry.get(name).__module__.startswith(home)]

    yield section("run", "", Config)
    yield section("train", "train.", TrainConfig)
    for name in known(OBJECTIVES):
        yield section(f"{name} (objective)", f"{name}.", OBJECTIVES.get(name).Config)
    yield section("model", "model.", ModelConfig)
    yield from _of_each(MODELS, known(MODELS), "model", ModelConfig)
    yield section("data", "data.", DataConfig)
    yield from _of_each(DATASETS, known(DATASETS), "data", DataConfig)
    yield from _of_each(MODALITIES, known(MODALITIES), "data", DataConfig, "DataConfig")
    yield section("eval", "eval.", EvalConfig)
    yield from _of_each(MODALITIES, known(MODALITIES), "eval", EvalConfig, "EvalConfig")


def _of_each(
    registry: Any, chosen: list[str], prefix: str, shared: type, attribute: str = "Config"
) -> Iterator[Section]:
    """Yield the settings that the classes of a registry have in addition to shared ones, each class once."""
    names: dict[type, list[str]] = {}
    for name in chosen:
        names.setdefault(getattr(registry.get(name), attribute), []).append(name)
    common = {field.name for field in dataclasses.fields(shared)}
    for kind, owners in names.items():
        inherited = common if issubclass(kind, shared) else {"name"}
        found = section(f"{prefix} of {', '.join(owners)} ({registry.kind})", f"{prefix}.", kind, inherited)
        if found.settings:
            yield found


def section(title: str, prefix: str, kind: type, without: set[str] = frozenset()) -> Section:  # type: ignore[assignment]
    """Return the settings of a dataclass.

    Args:
        title: of the section.
        prefix: of the keys.
        kind: the dataclass.
        without: fields to leave out.
    """
    hints, meanings = typing.get_type_hints(kind), field_docs(kind)
    settings = [
        Setting(prefix + field.name, _facts(hints[field.name], field), meanings.get(field.name, ""))
        for field in dataclasses.fields(kind)
        if field.name not in without and not dataclasses.is_dataclass(hints[field.name])
    ]
    note = textwrap.fill(" ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split()), WIDTH)
    return Section(title, note, settings)


def field_docs(kind: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass, as one line, from the source."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError):  # made at run time
            continue
        definition = tree.body[0]
        assert isinstance(definition, ast.ClassDef)  # narrows the type for mypy
        for statement, after in zip(definition.body, definition.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                value = after.value if isinstance(after, ast.Expr) else None
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    found[statement.target.id] = " ".join(value.value.split())
    return found


def _facts(hint: Any, field: dataclasses.Field) -> str:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    limits = field.metadata.get("limits", {})
    facts = [_type_in_words(hint), *([range_in_words(limits)] if limits else [])]
    shown = f"[{', '.join(map(str, default))}]" if isinstance(default, list) else str(default)
    shown = {"True": "true", "False": "false", "": "empty"}.get(shown, f"`{shown}`")
    return f"{', '.join(facts)}; default {shown}"


def _type_in_words(hint: Any) -> str:
    origin, given = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in given)
    if origin is list:
        return f"list of {_type_in_words(given[0])}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join("nothing" if part is type(None) else _type_in_words(part) for part in given)
    return {str: "text", int: "integer", float: "number", bool: "true or false"}.get(hint, str(hint))
