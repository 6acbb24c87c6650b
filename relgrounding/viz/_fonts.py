"""Fonts for the scripts of sentences: characters that matplotlib's own font lacks are drawn with an installed one."""

import os
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

from relgrounding._printing import get_logger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = get_logger("relgrounding.viz")

FAMILIES = (
    "Noto Sans", "Noto Emoji", "Noto", "Source Han Sans", "PingFang", "Hiragino", "Microsoft YaHei", "Yu Gothic",
    "Malgun Gothic", "WenQuanYi", "IPA", "Droid Sans Fallback", "Nirmala UI", "Leelawadee UI", "Segoe UI", "Symbola",
    "Arial", "Amiri", "Unifont",
)  # fmt: skip
"""Prefixes of the names of fonts to try, the best first."""
_mentioned: set[str] = set()


def add_fonts(figure: "Figure") -> None:
    """Let texts of a figure use installed fonts where their own lacks a character; warn once per script without any.

    Letters stand side by side from left to right: matplotlib neither joins nor reorders those of Arabic.
    """
    from matplotlib.font_manager import FontProperties, findfont
    from matplotlib.text import Text

    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    needed = {c for text in texts for c in text.get_text() if not c.isspace()}
    needed -= _characters(findfont(FontProperties()))
    chosen = []
    for name, path in _candidates() if needed else ():
        if found := needed & _characters(path):
            chosen.append(name)
            needed -= found
        if not needed:
            break
    if chosen:
        for text in texts:
            text.set_fontfamily([*text.get_fontfamily(), *chosen])
    scripts = {_script(character) for character in needed} - _mentioned
    if scripts:
        _mentioned.update(scripts)
        logger.warning(
            "figures: no font here has %s, boxes stand for it; install a Noto font for it", ", ".join(sorted(scripts))
        )


def _script(character: str) -> str:
    if unicodedata.category(character)[0] not in "LM":
        return "symbols such as emoji"
    return unicodedata.name(character, "a script").split()[0]


@lru_cache(maxsize=1)
def _candidates() -> list[tuple[str, str]]:
    """Return name and file of the installed fonts to try."""
    from matplotlib.font_manager import fontManager

    found = {font.name: font.fname for font in fontManager.ttflist if font.style == "normal" and font.weight == 400}
    ranked = [
        (next(k for k, family in enumerate(FAMILIES) if name.startswith(family)), name, path)
        for name, path in found.items()
        if name.startswith(FAMILIES)
    ]
    return [(name, path) for _, name, path in sorted(ranked)]


@lru_cache(maxsize=256)
def _characters(path: str | os.PathLike) -> frozenset[str]:
    """Return the characters of a font; none where it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(map(chr, FT2Font(os.fspath(path)).get_charmap()))
    except (OSError, RuntimeError):
        return frozenset()
