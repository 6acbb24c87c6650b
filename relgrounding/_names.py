"""Checks that names of files and folders are names, not paths."""

import re
import unicodedata

from relgrounding._settings import ConfigError

MOST_BYTES = 120
"""Of a name in UTF-8: file systems take 255, and files next to a run add to its name."""
JOINERS = "\u200c\u200d"
"""Invisible, but part of words (Persian, the languages of India) and of emoji."""
BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and symbols, by Unicode category, that are invisible."""
_PLAIN = re.compile("[A-Za-z0-9_-]+")


def check_name(value: object, what: str) -> str:
    """Return the name of a file or folder if it is valid.

    Args:
        value: the name.
        what: what it names, for the message.

    Raises:
        ConfigError: it is not text of 1 to 120 bytes, could be read as a path, starts or ends with a blank, or holds
            characters that are not printable.
    """
    reason = name_fault(value)
    if reason:
        raise ConfigError(f"{what}: {str(value)[:40]!a} {reason}; it names a file or a folder: choose a plain name")
    return str(value)


def name_fault(value: object, most_bytes: int = MOST_BYTES) -> str:
    """Return why a text is not a valid name; empty if it is.

    Emoji and all scripts are admitted. Names are checked both as given and in Unicode's NFKC form.
    """
    if not isinstance(value, str):
        return "is not text"
    if _PLAIN.fullmatch(value) and len(value) <= most_bytes:  # most of millions of ids
        return ""
    size = len(value.encode("utf-8", "surrogatepass"))
    if size > most_bytes:
        return f"has {size} bytes of UTF-8, more than {most_bytes}"
    seen = unicodedata.normalize("NFKC", value).strip(BLANK_LETTERS).strip()
    if not seen:
        return "is empty or blank"
    if seen in (".", ".."):
        return "means a folder"
    if "/" in seen or "\\" in seen:
        return "holds a separator of paths"
    if "${" in seen:
        return "refers to something else with ${...}"
    if value != value.strip():
        return "has a blank at an end"
    odd = next((c for c in value if not _is_printable(c)), "")
    return f"holds the character U+{ord(odd):04X}, which cannot be seen" if odd else ""


def _is_printable(character: str) -> bool:
    number, category = ord(character), unicodedata.category(character)
    if category == "Cn":  # emoji newer than Python's tables, but not noncharacters
        return number >= 0x10000 and number & 0xFFFE != 0xFFFE
    if category == "Cf":
        return character in JOINERS or 0xE0020 <= number <= 0xE007F  # the latter spell the flags of regions
    return category not in ("Cc", "Cs", "Co", "Zl", "Zp") and (category != "Zs" or character == " ")
