"""Addresses of runs by content: a hash of the settings, which the name of the run's folder ends with."""

import dataclasses
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from relgrounding._names import MOST_BYTES

DIGITS = 10
_NAME = re.compile(rf".*-([0-9a-f]{{{DIGITS}}})")


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their full names, such as {"train.epochs": 3}."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def address(settings: dict[str, Any], kind: type | None = None) -> str:
    """Return the hash of settings: that of those which differ from the defaults, or of all.

    A setting that a later version adds does not change the former, nor does a default that it changes.

    Args:
        settings: flat ones on which the results of a run depend.
        kind: class of the configuration, which has the defaults; None: all settings count.
    """
    usual = {} if kind is None else _defaults(kind)
    own = {key: value for key, value in settings.items() if key not in usual or usual[key] != value}
    names = [settings[key] if kind is None else usual[key] for key in ("model.name", "data.dataset")]
    text = json.dumps([*names, own], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


def name_with_address(name: str, known: str) -> str:
    """Return the name of a run's folder: what it is called, shortened to what a name may have, and its address."""
    room = MOST_BYTES - DIGITS - 1
    return f"{name.encode()[:room].decode(errors='ignore').rstrip()}-{known}"


def addressed_folders(runs: str | os.PathLike) -> dict[str, str]:
    """Return the names of the folders that carry an address, by address."""
    names = sorted(os.listdir(runs), reverse=True) if os.path.isdir(runs) else []
    found = {match[1]: name for name in names if (match := _NAME.fullmatch(name)) and not name.startswith(".")}
    return {known: name for known, name in found.items() if (Path(runs) / name).is_dir()}


def _defaults(kind: type) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        made = field.default_factory
        values[field.name] = field.default if made is dataclasses.MISSING else dataclasses.asdict(made())
    return flat(values)
