"""Settings from YAML files, with errors that say where they are and what is meant."""

import difflib
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which key and what to do."""


def _known_keys(config: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    # Without resolving: a value that must be given has none yet.
    for key, value in config.items_ex(resolve=False):
        name = prefix + str(key)
        keys.append(name)
        if isinstance(value, DictConfig):
            keys.extend(_known_keys(value, name + "."))
    return keys


def merge_settings(base: DictConfig, update: Any, where: str) -> DictConfig:
    """Return settings with others laid over them.

    Args:
        base: structured, so that keys and types are known.
        update: what is given.
        where: it comes from, for the error.

    Raises:
        ConfigError: an unknown key (the nearest valid one is named), or a value of the wrong type.
    """
    try:
        return OmegaConf.merge(base, update)  # type: ignore[return-value]
    except ConfigKeyError as error:
        key = str(getattr(error, "full_key", None) or error)
        near = difflib.get_close_matches(key, _known_keys(base), n=1, cutoff=0.0)
        raise ConfigError(f"{where}: there is no key '{key}'; the nearest one is '{near[0]}'") from None
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        raise ConfigError(f"{where}: {key}: {str(error).splitlines()[0]}") from None


def read_yaml(path: str | os.PathLike) -> DictConfig:
    """Read a YAML file of keys and values.

    Raises:
        ConfigError: it is not there, cannot be parsed, or holds something else.
    """
    try:
        loaded = OmegaConf.load(Path(path))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; configs/ holds the ones that come with the project") from None
    except Exception as error:  # OmegaConf passes on whatever its YAML parser raises
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{path}: holds no mapping of keys to values")
    return loaded


def with_bases(path: Path) -> list[tuple[Path, DictConfig]]:
    """Return a file and those it builds on, the last of them first."""
    found: list[tuple[Path, DictConfig]] = []
    name: Any = path.name
    while name is not None:
        path = path.parent / str(name)
        if any(path == other for other, _ in found):
            raise ConfigError(f"{path}: builds on itself; look at the base: lines of {found[-1][0]} and its bases")
        settings = read_yaml(path)
        name = settings.pop("base", None)
        found.append((path, settings))
    return found[::-1]
