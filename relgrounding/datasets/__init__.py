"""Data sets: sentences and what they refer to."""

from relgrounding.datasets import demo as demo  # registers itself, as the data sets below do
from relgrounding.datasets._dataset import (
    DATASETS,
    Annotations,
    Check,
    DataConfig,
    Dataset,
    Published,
    Query,
    data_root,
    find_file,
    register_dataset,
)
from relgrounding.datasets._stream import columns
from relgrounding.datasets.activitynet_captions import load_activitynet, load_activitynet_durations
from relgrounding.datasets.charades_sta import ActionInterval, load_actions, load_charades, load_durations
from relgrounding.datasets.flickr30k import load_flickr30k
from relgrounding.datasets.own import OwnQueries, load_own, stream_own
from relgrounding.datasets.refcoco import ImageObjects, Instances, load_instances, load_refcoco

__all__ = [
    "DATASETS",
    "ActionInterval",
    "Annotations",
    "Check",
    "DataConfig",
    "Dataset",
    "ImageObjects",
    "Instances",
    "OwnQueries",
    "Published",
    "Query",
    "columns",
    "data_root",
    "find_file",
    "load_actions",
    "load_activitynet",
    "load_activitynet_durations",
    "load_charades",
    "load_durations",
    "load_flickr30k",
    "load_instances",
    "load_own",
    "load_refcoco",
    "register_dataset",
    "stream_own",
]
