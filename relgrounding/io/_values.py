"""Values in annotation files: JSON, texts, seconds."""

import json
import math
from typing import Any, TypeGuard

import numpy as np
from jaxtyping import Bool, Float

from relgrounding._printing import brief
from relgrounding.io._errors import BadAnnotation

LONGEST = 1e7
"""Seconds, four months: no video is longer."""
SHORTEST = 1e-3
"""Seconds: no video is shorter."""
LARGEST = 10**6
"""Pixels: no image is wider or higher."""


def parse_json(text: str, where: str, remedy: str) -> Any:
    """Return what JSON says; NaN and Infinity are left to who reads the numbers.

    Args:
        text: the JSON.
        where: where it stands, for the message.
        remedy: what to do where it is not JSON.

    Raises:
        BadAnnotation: not JSON, cut off, nested too deeply, a key that comes twice, a number of thousands of digits.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        reason = "its lists or objects are nested too deeply"
    except ValueError as error:
        reason = "a number has thousands of digits" if "int_max_str_digits" in str(error) else str(error)
    raise BadAnnotation(f"{where} is not JSON, or cut off: {reason}; {remedy}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)[:40]!r} comes twice")
    return found


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value read from JSON is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else value.bit_length() < 512


def check_choice(name: str, value: str, choices: tuple[str, ...], owner: str) -> None:
    """Raise BadAnnotation where a value is not one of the owner's choices; `name` says what it is."""
    if value not in choices:
        raise BadAnnotation(f"{name} {value!r} is not one of {owner}: {', '.join(choices)}")


def has_area(boxes: Float[np.ndarray, "boxes 4"]) -> Bool[np.ndarray, " boxes"]:
    """Whether each box x1, y1, x2, y2 is wider and higher than 0, also as float32, which feature files hold."""
    with np.errstate(over="ignore", invalid="ignore"):
        single = boxes.astype(np.float32)
        return (single[:, 2:] > single[:, :2]).all(1) & (np.abs(single) <= LARGEST).all(1)


def check_text(value: object, name: str, where: str) -> str:
    """Return a sentence, or another text that is not blank.

    Raises:
        BadAnnotation: it is blank, no text, or holds a half of a surrogate pair, which no file can be written with.
    """
    if not isinstance(value, str) or not value.strip():
        raise BadAnnotation(f"{where}: {name} {brief(value)!r} is empty or not text; write one or drop it")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise BadAnnotation(
            f"{where}: {name} {value[:40]!r} holds a lone surrogate, half of a character; write the text again"
        )
    return value


def check_seconds(value: object, name: str, where: str) -> float:
    """Return the length of a video.

    Raises:
        BadAnnotation: it is not a number, below 0.001, or above 10,000,000.
    """
    if not is_number(value) or not SHORTEST <= value <= LONGEST:
        given = repr(brief(value)) if isinstance(value, str) else brief(value)
        raise BadAnnotation(
            f"{where}: {name} is {given}; expected the seconds of the video, {SHORTEST} to {LONGEST:.0f}"
        )
    return float(value)
