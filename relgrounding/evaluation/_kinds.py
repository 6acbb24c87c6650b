"""Kinds of queries: what a sentence tells the right answer by."""

import re

QUERY_KINDS = ("time", "order", "place", "relation", "other")
"""All kinds; a query is of the first one whose words it holds."""

_TIME = "before after then again until"
_ORDER = """
    first second third fourth fifth last 1st 2nd 3rd 4th 5th most leftmost rightmost closest nearest farthest furthest
    closer nearer farther further biggest bigger largest larger smallest smaller tallest taller shortest shorter
"""
_PLACE = """
    left lefty lft l right righty rt r top bottom upper lower middle mid center centre corner far front back foreground
    background side edge high low
"""
_RELATION = """
    next behind between beside besides near above below under underneath by over around inside
"""


def _any_of(words: str, *patterns: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join([*words.split(), *patterns])})\b")


# A place counts from somewhere ("second from the left"); a cup is taken from a table.
_FROM = rf"from (?:(?:the|our|very|far) )*(?:{'|'.join(_PLACE.split())}|end|rear|us|camera|viewer)"
_WITH_OTHERS = re.compile(r"\b(?:on top|in front) of\b")
_KINDS = {
    "time": _any_of(_TIME),
    "order": _any_of(_ORDER, r"\w+most", _FROM),
    "place": _any_of(_PLACE),
    "relation": _any_of(_RELATION, _WITH_OTHERS.pattern),
}


def query_kind(text: str) -> str:
    """Return the kind of a query by its words: "time", "order", "place", "relation" or "other".

    time: before, after, then, again, until. order: ordinal numbers, comparatives and superlatives of size and distance,
    places that are counted from. place: in the picture. relation: prepositions that need another thing. A query with
    words of several kinds is of the first one in this order.

    >>> [query_kind(text) for text in ("person then sits down", "second man from left", "left man", "cup by the plate")]
    ['time', 'order', 'place', 'relation']
    >>> query_kind("person takes a cup from a table")
    'other'
    """
    lowered = text.lower()
    # "in front of the bus" is not a place in the picture, although "in front" is.
    searched = {"place": _WITH_OTHERS.sub("", lowered)}
    return next((kind for kind, pattern in _KINDS.items() if pattern.search(searched.get(kind, lowered))), "other")
