"""One rule for the ids of videos and images: what names the same item in annotations and in feature files."""

import difflib
import re
from collections.abc import Collection, Iterable

from relgrounding._printing import brief
from relgrounding.io._errors import BadFeatures

_PICTURES = "jpg jpeg png bmp gif tif tiff webp"
_VIDEOS = "mp4 mkv avi webm mov m4v mpg mpeg ogv flv wmv 3gp"
_ENDING = re.compile(rf"\.(?:{'|'.join(f'{_PICTURES} {_VIDEOS} npy npz pt h5 hdf5'.split())})$", re.IGNORECASE)
_COCO = re.compile(r"COCO_\w+_([0-9]{12})")
_MOST_COMPARED = 20_000


def canonical_id(text: str) -> str:
    """Return an id without the endings of files, COCO's prefix and the zeros before a number.

    >>> [canonical_id(name) for name in ("COCO_train2014_000000581857.jpg", "000000581857", "s13-d21.avi", "v_1.5")]
    ['581857', '581857', 's13-d21', 'v_1.5']
    """
    name = check_id(text)
    while (match := _ENDING.search(name)) and match.start():
        name = name[: match.start()]
    if match := _COCO.fullmatch(name):
        name = match[1]
    return name.lstrip("0") or "0" if name.isascii() and name.isdigit() else name


def check_id(key: object) -> str:
    """Return what an item is asked for by.

    Raises:
        TypeError: it is not text, such as COCO's number of an image, or the 0 that a loop over a store begins with.
    """
    if not isinstance(key, str):
        kind = type(key).__name__
        raise TypeError(f"an id is text, such as '581857', not {brief(key)} ({kind}); the attribute ids lists them all")
    return key


class Spellings:
    """The ids of one file, found by any of their spellings; an exact match comes first.

    Args:
        ids: as the file has them.
        where: the file, for messages.
    """

    def __init__(self, ids: Iterable[str], where: str) -> None:
        self._place = where
        self._exact = set(ids)
        self._alike: dict[str, list[str]] = {}
        for name in sorted(self._exact):
            self._alike.setdefault(canonical_id(name), []).append(name)

    def find(self, key: str) -> str | None:
        """Return the file's own spelling of an id, or None.

        Raises:
            BadFeatures: several ids of the file are spellings of it, none of them exact.
        """
        if key in self._exact:
            return key
        alike = self._alike.get(canonical_id(key), [])
        if len(alike) > 1:
            raise BadFeatures(
                f"{self._place}: {key!r} may be {alike[0]!r} or {alike[1]!r}; ask by one of these, or rename one"
            )
        return alike[0] if alike else None


def near_id(key: str, known: Collection[str]) -> str | None:
    """Return the id that most looks like one that is not there, or None."""
    name, folded = canonical_id(key), canonical_id(key).lower()
    candidates = sorted(known)[:_MOST_COMPARED]
    for other in candidates:
        plain = canonical_id(other).lower()
        if min(len(plain), len(folded)) > 2 and (plain in folded or folded in plain):
            return other
    return next(iter(difflib.get_close_matches(name, candidates, 1, 0.75)), None)


def did_you_mean(key: str, known: Collection[str]) -> str:
    """Return what is added to a message about an id that is not there."""
    near = near_id(key, known)
    return f"; did you mean {near!r}?" if near else ""
