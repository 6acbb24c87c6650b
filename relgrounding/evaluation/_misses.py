"""How first choices of moments go wrong: too short, too long, shifted, elsewhere."""

from collections.abc import Sequence
from enum import Enum

import numpy as np

from relgrounding.evaluation._arrays import check_lengths
from relgrounding.evaluation._video import target_segments


class Miss(Enum):
    """What became of a choice; `NONE`: it is right."""

    NONE = "right"
    SHORT = "too short"
    LONG = "too long"
    SHIFTED = "shifted"
    ELSEWHERE = "elsewhere"


def name_misses(choices: Sequence, targets: Sequence, iou: float = 0.7, share: float = 0.8) -> list[Miss]:
    """Name what is wrong with each chosen moment.

    Right: IoU >= `iou`. Else elsewhere: nothing in common; too short: more than `share` of the choice lies in the
    target, of which it covers no more than that; too long: the other way round; shifted: all others.

    Args:
        choices: for each query (start, end) in seconds.
        targets: the same.
        iou: from which a choice is right, in (0, 1].
        share: from 0 to 1.

    Raises:
        ValueError: lists of different lengths.

    >>> [miss.value for miss in name_misses([(0, 4), (0, 20), (4, 14), (10, 12)], [(0, 10)] * 4)]
    ['too short', 'too long', 'shifted', 'elsewhere']
    """
    check_lengths("choices", len(choices), "targets", len(targets))
    chosen, wanted = target_segments(choices), target_segments(targets)
    both = np.minimum(chosen[:, 1], wanted[:, 1]) - np.maximum(chosen[:, 0], wanted[:, 0])
    both = both.clip(min=0)
    length, target = chosen[:, 1] - chosen[:, 0], wanted[:, 1] - wanted[:, 0]
    fits, covers = both > share * length, both > share * target
    right = (both > 0) & (both >= iou * (length + target - both))
    conditions = [right, both == 0, fits & ~covers, covers & ~fits]
    kinds = [Miss.NONE, Miss.ELSEWHERE, Miss.SHORT, Miss.LONG]
    number = np.select(conditions, list(range(4)), 4)
    return [[*kinds, Miss.SHIFTED][k] for k in number]
