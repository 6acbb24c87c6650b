"""Settings from YAML files and command-line words, with errors that state where they are and suggest a correction.

Values are read as text and converted to the type of their field: `no` and `2024_01_01` are text
where text is expected.
"""

import contextlib
import dataclasses
import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from relgrounding._urls import Masked, is_url, masked

DEEPEST, MOST_VALUES = 20, 100_000
LARGEST = 2**63 - 1
S = TypeVar("S")
TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}


class ConfigError(Masked, ValueError):
    """An invalid configuration; the message names the key and what to do."""


def number(default: Any, repeats: bool = False, **limits: int | float) -> Any:
    """Return a dataclass field for a number, or a list of numbers, with its range.

    Args:
        default: its default.
        repeats: whether a list may hold a number twice.
        limits: `least`, `above`, `most`, `below`. Numbers must always be finite.
    """
    metadata = {"limits": limits, "repeats": repeats}
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def entries(*default: str) -> Any:
    """Return a dataclass field for a list of text that may be empty."""
    return dataclasses.field(default_factory=lambda: list(default), metadata={"empty": True})


def check_values(settings: Any, prefix: str = "") -> None:
    """Check all values of a dataclass and of nested dataclasses against the ranges of their fields.

    Raises:
        ConfigError: a value is out of range, or a list is empty or holds a value twice where that is not allowed.
    """
    for field in dataclasses.fields(settings):
        key, value = prefix + field.name, getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            check_values(value, f"{key}.")
        elif isinstance(value, list):
            repeats, empty = field.metadata.get("repeats"), field.metadata.get("empty")
            if (not value and not empty) or (len(set(value)) < len(value) and not repeats):
                raise ConfigError(
                    f"{key} is {masked(str(value))[:80]}; it needs at least one entry, and each of them once"
                )
            for entry in value:
                _check_value(key, entry, field.metadata.get("limits", {}))
        else:
            _check_value(key, value, field.metadata.get("limits", {}))


def _check_value(key: str, value: Any, limits: Mapping[str, int | float]) -> None:
    if isinstance(value, str):
        check_text(value, key)
    elif isinstance(value, int | float) and not (
        limits.get("least", -LARGEST) <= value <= limits.get("most", LARGEST)
        and limits.get("above", -float("inf")) < value < limits.get("below", float("inf"))
    ):
        finite = "" if abs(value) <= LARGEST else " (and finite, at most 2^63 - 1)"
        raise ConfigError(f"{key} is {masked(str(value))[:40]}; it must be {range_in_words(limits)}{finite}")


def range_in_words(limits: Mapping[str, int | float]) -> str:
    """Return the range of a number, such as "from 1 to 100" or "above 0"."""
    if limits.keys() == {"least", "most"}:
        return f"from {limits['least']} to {limits['most']}"
    forms = {"least": "{} or more", "above": "above {}", "most": "{} or less", "below": "below {}"}
    return " and ".join(form.format(limits[name]) for name, form in forms.items() if name in limits) or "a number"


def check_text(value: str, key: str) -> str:
    """Return a text if it is literal and can be written to a file.

    Raises:
        ConfigError: it refers to other settings or to the environment, is OmegaConf's mark of a missing value, or holds
            NUL or an unpaired surrogate.
    """
    if "${" in value:
        raise ConfigError(
            f"{key}: {masked(value)[:60]!r} refers to something else with ${{...}}; write the value itself"
        )
    if value == "???":
        raise ConfigError(f"{key}: '???' stands for a value that is missing; give one")
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise ConfigError(f"{key}: {masked(value)[:60]!a} is not text: it holds NUL, or bytes that are not UTF-8")
    return value


def changed(settings: S, words: Sequence[str], where: str) -> S:
    """Return a dataclass of settings with some of them changed by words such as `dropout=0.1`.

    Raises:
        ConfigError: a word is not a setting of it, or its value is invalid.
    """
    merged = OmegaConf.structured(settings)
    for word in words:
        merged = merge_settings(merged, parse_word(word, type(settings)), f"{where}, {masked(word)[:80]!r}")
    result = OmegaConf.to_object(merged)
    check_values(result, f"{where}: ")
    return result  # type: ignore[return-value]


def _known_keys(config: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    # Without resolving: required values are still missing.
    for key, value in config.items_ex(resolve=False):
        name = prefix + str(key)
        keys.append(name)
        if isinstance(value, DictConfig):
            keys.extend(_known_keys(value, name + "."))
    return keys


def _nearest(key: str, known: Sequence[str]) -> str:
    """Say which keys may be meant: those of the same or a similar name, in the section first, or all of the section."""
    section, _, name = key.rpartition(".")
    names = [k.rpartition(".")[2] for k in known]
    meant = [name] if name in names else difflib.get_close_matches(name, names, n=1)
    near = [k for k, its_name in zip(known, names, strict=True) if its_name in meant]
    near = [k for k in near if k.rpartition(".")[0] == section] or near
    if len(near) == 1:
        return f"the nearest one is '{near[0]}'"
    if near:
        return f"the nearest ones are {', '.join(map(repr, near))}"
    beside = [k for k in known if k.rpartition(".")[0] == section] or [k for k in known if "." not in k]
    return f"there is {', '.join(beside)}"


def merge_settings(base: DictConfig, update: Any, where: str) -> DictConfig:
    """Merge settings into a structured configuration.

    Args:
        base: structured, so that keys and types are known; consumed.
        update: the settings.
        where: their source, for the error.

    Raises:
        ConfigError: an unknown key (the nearest valid one is named), or a value of the wrong type.
    """
    try:
        merged = OmegaConf.unsafe_merge(base, update)
        assert isinstance(merged, DictConfig)  # narrows the type for mypy
        _check_lists(merged, where)
        return merged
    except ConfigKeyError as error:
        full = getattr(error, "full_key", None)
        key = masked(str(error if full is None else full))[:80]
        raise ConfigError(f"{where}: there is no key {key!r}; {_nearest(key, _known_keys(base))}") from None
    except ConfigError:
        raise
    except (OmegaConfBaseException, TypeError, ValueError) as error:  # the latter two for incompatible types
        key = getattr(error, "full_key", None) or "?"
        reason = masked(str(error)).splitlines()[0][:200]
        if "not a ListConfig" in reason:
            reason = "it is a list, written as [a, b]"
        raise ConfigError(f"{where}: {key}: {reason}") from None


def _check_lists(config: DictConfig, where: str, prefix: str = "") -> None:
    """Reject mappings and lists within lists of plain values, which OmegaConf accepts."""
    for name, value in config.items_ex(resolve=False):
        if isinstance(value, DictConfig):
            _check_lists(value, where, f"{prefix}{name!s}.")
        elif isinstance(value, ListConfig) and value._metadata.element_type in (str, int, float):
            odd = [masked(str(entry))[:40] for entry in value if isinstance(entry, DictConfig | ListConfig)]
            if odd:
                raise ConfigError(f"{where}: {prefix}{name!s} holds {odd[0]}; its entries are plain values")


def packaged_configs(folder: str = "") -> dict[str, Path]:
    """Return the configurations that come with the package by name, or what a folder among them holds.

    They are beside the package in a clone and in it where it is installed.
    """
    package = Path(__file__).parent
    room = next((path for path in (package / "configs", package.parent / "configs") if path.is_dir()), package)
    return {path.stem: path for path in sorted((room / folder).glob("*.yaml"))}


def find_config(given: str | os.PathLike, folder: str = "") -> Path:
    """Return the YAML file of a configuration.

    Args:
        given: a file, or the name of one that comes with the package.
        folder: of the packaged ones, such as "ablations".

    Raises:
        ConfigError: a plain name that is neither, of which the message names the nearest; a URL.
    """
    path, packaged = Path(given), packaged_configs(folder)
    if is_url(given):
        raise ConfigError(f"{given} is a URL: a configuration has to be on this machine; copy it, and name the copy")
    if str(given) in packaged:
        return packaged[str(given)]
    if path.suffix in (".yaml", ".yml") or len(path.parts) != 1 or os.path.lexists(path):
        return path
    near = difflib.get_close_matches(str(given), packaged, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    what, own = ("grid", "") if folder else ("configuration", ", and settings as key=value")
    raise ConfigError(
        f"there is no {what} {masked(str(given))[:80]!r}: `relgrounding configs` lists those that come with the "
        f"package, a file of your own is given as FILE.yaml{own}{meant}"
    )


def read_yaml(path: str | os.PathLike) -> dict[str, Any]:
    """Read a YAML file of keys and values; values are text as written, or lists and mappings of text.

    Raises:
        ConfigError: the file is missing, cannot be parsed or is not a mapping, or a value refers to another one.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; `relgrounding configs` lists those that come with the package"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    loaded = parse_yaml(text, str(path))
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: holds no mapping of keys to values")
    return loaded


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML with all values as text; see `read_yaml`."""
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, IndexError, RecursionError) as error:  # the last three are bugs of PyYAML
        reason = " ".join(masked(str(error)).split())[:200]
        raise ConfigError(f"{where}: cannot be read as YAML: {reason}") from None
    return {} if node is None else _plain(node, where, "", [0])


def _plain(node: yaml.Node, where: str, key: str, count: list[int]) -> Any:
    """Return the content of a node; `count` bounds the expansion of aliases."""
    count[0] += 1
    if count[0] > MOST_VALUES or key.count(".") > DEEPEST:
        raise ConfigError(f"{where}, line {node.start_mark.line + 1}: holds too much, or too deep, to be settings")
    if node.tag not in TAGS:
        raise ConfigError(f"{where}: {key[1:80]}: {node.tag[:80]!r} is not a kind of setting; write a plain value")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, where, f"{key}.{index}", count) for index, child in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        value = node.value
        with contextlib.suppress(UnicodeDecodeError):  # JSON escapes some characters as surrogate pairs
            value = value.encode("utf-16", "surrogatepass").decode("utf-16")
        return check_text(value, f"{where}: {key[1:80]}")
    content: dict[str, Any] = {}
    for name, child in node.value:
        if not isinstance(name, yaml.ScalarNode) or name.value in content:
            shown = name.value if isinstance(name, yaml.ScalarNode) else name.id
            line = f"{where}, line {name.start_mark.line + 1}"
            raise ConfigError(f"{line}: {masked(str(shown))[:80]!r} comes twice, or cannot be a key")
        check_text(name.value, f"{where}: {key[1:80]}")
        content[name.value] = _plain(child, where, f"{key}.{name.value}", count)
    return content


def parse_word(word: str, kind: type) -> dict[str, Any]:
    """Return the setting that a word such as `train.epochs=3` gives, as nested mappings.

    If the field is text, everything after `=` is the value, without enclosing quotes.

    Raises:
        ConfigError: the word is not a setting, or its value is not YAML.
    """
    key, equals, text = word.partition("=")
    if not equals:
        raise ConfigError(f"{masked(word)[:80]!r}: settings are given as key=value, such as train.epochs=3")
    names = key.split(".", DEEPEST)
    hint: Any = kind
    for name in names:
        hint = get_type_hints(hint).get(name) if dataclasses.is_dataclass(hint) else None
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    if hint is str and not quoted:
        value: Any = check_text(text, key)
    else:
        value = parse_yaml(text, repr(masked(word)[:80])) if text else ""
    for name in reversed(names):
        value = {name: value}
    return value


def as_word(key: str, value: Any) -> str:
    """Return the word that gives a setting a value of Python's, for `parse_word`.

    Raises:
        ConfigError: it is neither text, a number, true or false, nor a list of these.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
        return f"{key}={json.dumps(value)}" if quoted else f"{key}={value}"
    try:
        if value is None:
            raise TypeError
        return f"{key}={json.dumps(list(value) if isinstance(value, tuple) else value)}"  # JSON is YAML
    except (TypeError, ValueError):
        raise ConfigError(f"{key} is a {type(value).__name__}; give text, a number, or a list of them") from None


def with_bases(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return a file and its bases, the deepest base first."""
    found: list[tuple[Path, dict[str, Any]]] = []
    name: Any = path.name
    while name is not None:
        if not isinstance(name, str):
            raise ConfigError(f"{path}: base: names one file beside this one; found {masked(str(name))[:40]}")
        path = path.parent / name
        if any(path == other for other, _ in found):
            raise ConfigError(f"{path}: builds on itself; look at the base: lines of {found[-1][0]} and its bases")
        settings = read_yaml(path)
        name = settings.pop("base", None)
        found.append((path, settings))
    return found[::-1]
