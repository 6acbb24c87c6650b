"""What one line or panel of a figure shows."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Shown:
    """Proposals with a name.

    Args:
        name: of who answers: "ground truth", a model.
        proposals: (start, end) in seconds or (x1, y1, x2, y2) in pixels.
        note: short text beside the name, such as "IoU 0.71".
        labels: one per proposal; none: they are drawn without.
        truth: whether it is the ground truth, which has a colour of its own.
        colour: empty: that of the ground truth, or the next one of the models.
    """

    name: str
    proposals: Sequence[Sequence[float | int]]
    note: str = ""
    labels: Sequence[str] = field(default_factory=tuple)
    truth: bool = False
    colour: str = ""
