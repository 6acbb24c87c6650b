"""How large the data sets are, as published, and what is known to be odd about them."""

from typing import NamedTuple


class Published(NamedTuple):
    """Sizes of a data set.

    Args:
        queries: sentences a split.
        items: videos or images a split, where published or counted on the official files.
        objects: different objects asked for in all splits; 0: not published.
        images: of all splits together; 0: not published.
        train: splits that are learnt from.
    """

    queries: dict[str, int]
    items: dict[str, int]
    objects: int = 0
    images: int = 0
    train: tuple[str, ...] = ("train",)


PUBLISHED = {
    "charades_sta": Published({"train": 12408, "test": 3720}, {"train": 5338, "test": 1334}),
    "activitynet_captions": Published(
        {"train": 37417, "val_1": 17505, "val_2": 17031}, {"train": 10009, "val_1": 4917, "val_2": 4885}
    ),
    "refcoco": Published({"train": 120624, "val": 10834, "testA": 5657, "testB": 5095}, {}, 50000, 19994),
    "refcoco+": Published({"train": 120191, "val": 10758, "testA": 5726, "testB": 4889}, {}, 49856, 19992),
    # the test split is what the published total, 95,010, leaves
    "refcocog": Published({"train": 80512, "val": 4896, "test": 9602}, {}, 49822, 25799),
    "flickr30k": Published({"train": 0, "val": 0, "test": 0}, {}),
}

REDUCED = {"train": 10602, "test": 3158}
"""Charades-STA, protocol "reduced"."""

KNOWN = {
    ("activitynet_captions", "train", "queries", 37421): (
        "four training segments do not start before they end; without them it is the published figure"
    ),
    ("activitynet_captions", "train", "segments without length", 4): "the same four",
    ("charades_sta", "train", "segments without length", 4): "so in the official file; protocol 'reduced' drops them",
    ("charades_sta", "train", "segments after the end", 1803): "so in the official file; 'reduced' drops them",
    ("charades_sta", "test", "segments after the end", 561): "so in the official file; 'reduced' drops them",
}
