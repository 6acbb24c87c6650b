"""Moved names: each works for one more release, with a `DeprecationWarning` that states its new home."""

import importlib
import sys
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from relgrounding._urls import masked

_IO = "BadAnnotation BadFeatures CharadesGlove DataError MissingFeatures MissingFile Problems UnsafeFile"
_DATASETS = "ActionInterval ImageObjects Instances OwnQueries Query load_actions load_activitynet"
_FEATURES = "ClipFeatures RegionFeatures Regions Vocabulary load_word_vectors tokenize write_clip_features"
_DATA = {
    "relgrounding.io": f"{_IO} load_charades_glove load_plain_pickle",
    "relgrounding.datasets": f"{_DATASETS} load_activitynet_durations load_charades load_durations load_flickr30k "
    "load_instances load_own load_refcoco",
    "relgrounding.features": f"{_FEATURES} write_region_features",
}
NAMES = {"relgrounding.data": {name: home for home, names in _DATA.items() for name in names.split()}}
NAMES["relgrounding.inference"] = dict.fromkeys(("Answer", "Grounder"), "relgrounding.predictor")
MODULES = {
    "relgrounding.data.activitynet": "relgrounding.datasets.activitynet_captions",
    "relgrounding.data.batches": "relgrounding.modalities",
    "relgrounding.data.charades": "relgrounding.datasets.charades_sta",
    "relgrounding.data.datasets": "relgrounding.datasets",
    "relgrounding.data.convert": "relgrounding.features.convert",
    "relgrounding.data.extraction": "relgrounding.features.extraction",
    "relgrounding.data.feature_writers": "relgrounding.features",
    "relgrounding.data.features": "relgrounding.features",
    "relgrounding.data.flickr30k": "relgrounding.datasets.flickr30k",
    "relgrounding.data.own": "relgrounding.datasets.own",
    "relgrounding.data.refcoco": "relgrounding.datasets.refcoco",
    "relgrounding.data.scenes": "relgrounding.datasets.demo",
    "relgrounding.data.verify": "relgrounding.datasets",
    "relgrounding.data.vocabulary": "relgrounding.features",
}

PACKAGES = tuple(name.removeprefix("relgrounding.") for name in NAMES)


class _Moved(ModuleType):
    """Takes the place of a former module and forwards its attributes to their new home."""

    def __getattr__(self, name: str) -> Any:
        old = f"{self.__name__}.{name}"
        if old in MODULES:
            return sys.modules[old]
        if name == "__all__" and self.__name__ in MODULES:
            return importlib.import_module(MODULES[self.__name__]).__all__
        home = NAMES.get(self.__name__, {}).get(name) or MODULES.get(self.__name__)
        if home is None or name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(home), name)
        warnings.warn(f"{old} is now {home}.{name}", DeprecationWarning, stacklevel=2)
        return value


def install() -> None:
    """Make the old modules importable."""
    for name in (*NAMES, *MODULES):
        module = _Moved(name, f"Moved; see {MODULES.get(name, 'its attributes')}.")
        module.__path__ = []  # so that modules can be imported from below it
        if name in NAMES:
            module.__all__ = sorted(NAMES[name])  # type: ignore[attr-defined]
        sys.modules[name] = module


SETTINGS = {
    f"train.{name}": f"mil.{name}" for name in ("loss", "margin", "temperature", "negatives", "message_dropout")
}


def rename_word(word: str) -> str:
    """Return a word such as `train.negatives=2` with the current name of its setting."""
    key, equals, value = word.partition("=")
    if key not in SETTINGS:
        return word
    _warn_setting(key, repr(masked(word)[:80]))
    return SETTINGS[key] + equals + value


def rename_settings(settings: Any, where: str, silent: bool = False) -> Any:
    """Return nested settings under their current names.

    Args:
        settings: as read; not modified.
        where: their source, for the warning.
        silent: do not warn, as for the file of a run, which is not to be edited.
    """
    if not isinstance(settings, Mapping):
        return settings
    renamed = dict(settings)
    for old, new in SETTINGS.items():
        (section, key), (new_section, new_key) = old.split("."), new.split(".")
        given = renamed.get(section)
        if isinstance(given, Mapping) and key in given:
            if not silent:
                _warn_setting(old, where)
            renamed[section] = {name: value for name, value in given.items() if name != key}
            target = renamed.get(new_section, {})
            if isinstance(target, Mapping):  # what is not is an error in its own right
                if new_key in target:
                    from relgrounding._settings import ConfigError  # `import relgrounding` is to be quick

                    raise ConfigError(f"{where}: {old} is an old name of {new}, and both are given; leave {old} out")
                renamed[new_section] = {**target, new_key: given[key]}
    return renamed


def _warn_setting(old: str, where: str) -> None:
    # Not a DeprecationWarning, which is for those who write code, and hidden from those who write settings.
    warnings.warn(f"{where}: {old} is now {SETTINGS[old]}", FutureWarning, stacklevel=4)
