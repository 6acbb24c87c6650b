"""Registries of the classes that a configuration selects by name; other packages can add to them."""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import metadata
from typing import Generic, TypeVar

from relgrounding._printing import get_logger
from relgrounding._settings import ConfigError

T = TypeVar("T")
logger = get_logger("relgrounding.plugins")
PLUGINS = "relgrounding.plugins"
"""Entry points of this group are imported before a name is rejected as unknown; importing them registers classes."""


class Registry(Generic[T]):
    """Classes by name.

    Args:
        kind: word for the classes in error messages, such as "model".
        room: package whose import registers the built-in classes.
        others: names that are valid without being registered, for error messages.
        base: what every such class is derived from.
    """

    def __init__(self, kind: str, room: str, others: tuple[str, ...] = (), base: type = object) -> None:
        self.kind, self.room, self.others, self.base = kind, room, others, base
        self._known: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Return a decorator that registers a class under a name and sets its attribute `name`.

        Raises:
            ValueError: another class has that name.
        """

        def decorate(cls: type[T]) -> type[T]:
            before = self._known.get(name)
            if before is not None and (before.__module__, before.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(f"{self.kind} {name!r} is {before.__module__}.{before.__qualname__} already")
            cls.name = name  # type: ignore[attr-defined]
            self._known[name] = cls
            return cls

        return decorate

    def get(self, name: str) -> type[T]:
        """Return the class registered under a name, or the class that `package.module:Name` refers to.

        Raises:
            ConfigError: the name is unknown; the message suggests the nearest one.
        """
        if ":" in name:
            return self._imported(name)
        if name not in self._known:
            self._load()
        if name not in self._known:
            names = (*self.others, *self._known)
            near = difflib.get_close_matches(name, names, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"there is no {self.kind} {name[:60]!r}; there is {', '.join(names)}, or give your own as "
                f"package.module:Name{meant}"
            )
        return self._known[name]

    def __contains__(self, name: str) -> bool:
        self._load()
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        """Iterate over all names, including those of plugins."""
        self._load()
        return iter(tuple(self._known))

    def _load(self) -> None:
        room = importlib.import_module(self.room)
        for module in pkgutil.iter_modules(room.__path__, f"{self.room}."):
            if not module.name.rpartition(".")[2].startswith("_"):
                importlib.import_module(module.name)
        load_plugins()

    def _imported(self, name: str) -> type[T]:
        module, _, attribute = name.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:  # the code of a user may do anything
            hint = "; is the folder of its file on PYTHONPATH?" if isinstance(error, ModuleNotFoundError) else ""
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ConfigError(f"{self.kind} {name[:80]!r} cannot be imported: {reason}{hint}") from None
        if not isinstance(found, type) or not issubclass(found, self.base):
            raise ConfigError(f"{self.kind} {name[:80]!r} is not a class derived from {self.base.__qualname__}")
        if "name" not in vars(found):
            found.name = attribute  # type: ignore[attr-defined]
        return found  # type: ignore[return-value]


@lru_cache(maxsize=1)
def load_plugins() -> None:
    """Import all plugins, once; one that cannot be imported is named in one line, and the rest works without it."""
    for entry in metadata.entry_points(group=PLUGINS):
        try:
            entry.load()
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            logger.warning("the plugin %s (%s) cannot be imported: %s", entry.name, entry.value, reason)
