"""The queries that a configuration names, whatever their data set."""

from typing import Any

from relgrounding.datasets._dataset import DATASETS, Annotations
from relgrounding.io._errors import Problems

__all__ = ["Annotations", "read_annotations"]


def read_annotations(settings: Any, split: str, video: bool = False, problems: Problems | None = None) -> Annotations:
    """Read a split of the data set that the section `data` names; see `Dataset.read`."""
    return DATASETS.get(settings.dataset)(settings, item="video" if video else "image").read(split, problems)
