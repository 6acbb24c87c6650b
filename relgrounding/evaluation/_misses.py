"""How the first answers to moment queries miss: too short, too long, shifted, elsewhere."""

from collections.abc import Sequence
from enum import Enum

import numpy as np

from relgrounding.evaluation._arrays import as_decimals, check_lengths, join, row_overlaps
from relgrounding.evaluation._video import VideoEvaluator
from relgrounding.graphs import temporal_iou


class Miss(Enum):
    """How an answer misses its target; `NONE`: it is correct."""

    NONE = "right"
    SHORT = "too short"
    LONG = "too long"
    SHIFTED = "shifted"
    ELSEWHERE = "elsewhere"


def name_misses(
    choices: Sequence, targets: Sequence, iou: float = 0.7, share: float = 0.8, reversed_targets: bool = False
) -> list[Miss]:
    """Name how each chosen moment misses the right moment that it overlaps most.

    Right: IoU >= `iou`. Otherwise, elsewhere: no overlap; too short: more than `share` of the choice lies in the target
    and covers at most `share` of it; too long: the reverse; shifted: everything else.

    Args:
        choices: for each query (start, end) in seconds.
        targets: for each query the right moment, or several, as for `VideoEvaluator`.
        iou: smallest IoU of a correct choice, in (0, 1].
        share: from 0 to 1.
        reversed_targets: as for `VideoEvaluator`.

    Raises:
        ValueError: as `VideoEvaluator` does.

    >>> [miss.value for miss in name_misses([(0, 4), (0, 20), (4, 14), (10, 12)], [(0, 10)] * 4)]
    ['too short', 'too long', 'shifted', 'elsewhere']
    """
    check_lengths("choices", len(choices), "targets", len(targets))
    chosen = join([np.asarray(c)[None] for c in choices], 2, "choices").values
    several = VideoEvaluator(reversed_targets=reversed_targets).moments(targets)
    # Sorted by time, so that ties do not depend on the order of the list.
    order = np.lexsort((several[..., 1], several[..., 0]), axis=1)
    several = np.take_along_axis(several, order[..., None], axis=1)
    ious = row_overlaps(temporal_iou, chosen, several)
    best = ious.argmax(axis=1)
    rows = np.arange(len(chosen))
    wanted, reach = several[rows, best], np.abs(np.stack([chosen, several[rows, best]])).max(axis=(0, 2))
    both = np.minimum(chosen[:, 1], wanted[:, 1]) - np.maximum(chosen[:, 0], wanted[:, 0])
    both = both.clip(min=0)
    length, target = chosen[:, 1] - chosen[:, 0], wanted[:, 1] - wanted[:, 0]
    fits, covers = (as_decimals(both / np.where(both > 0, x, 1), reach, x) > share for x in (length, target))
    conditions = [ious[rows, best] >= iou, both == 0, fits & ~covers, covers & ~fits]
    kinds = [Miss.NONE, Miss.ELSEWHERE, Miss.SHORT, Miss.LONG]
    number = np.select(conditions, list(range(4)), 4)
    return [[*kinds, Miss.SHIFTED][k] for k in number]
