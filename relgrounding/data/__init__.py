"""Annotations, features, words and batches."""

from relgrounding.data._errors import (
    BadAnnotation,
    BadFeatures,
    DataError,
    MissingFeatures,
    MissingFile,
    Problems,
    UnsafeFile,
)
from relgrounding.data._pickle import CharadesGlove, load_charades_glove, load_plain_pickle
from relgrounding.data._query import Query
from relgrounding.data.activitynet import load_activitynet, load_activitynet_durations
from relgrounding.data.charades import ActionInterval, load_actions, load_charades, load_durations
from relgrounding.data.feature_writers import write_clip_features, write_region_features
from relgrounding.data.features import ClipFeatures, RegionFeatures, Regions
from relgrounding.data.flickr30k import load_flickr30k
from relgrounding.data.own import OwnQueries, load_own
from relgrounding.data.refcoco import ImageObjects, Instances, load_instances, load_refcoco
from relgrounding.data.vocabulary import Vocabulary, load_word_vectors, tokenize

__all__ = [
    "ActionInterval",
    "BadAnnotation",
    "BadFeatures",
    "CharadesGlove",
    "ClipFeatures",
    "DataError",
    "ImageObjects",
    "Instances",
    "MissingFeatures",
    "MissingFile",
    "OwnQueries",
    "Problems",
    "Query",
    "RegionFeatures",
    "Regions",
    "UnsafeFile",
    "Vocabulary",
    "load_actions",
    "load_activitynet",
    "load_activitynet_durations",
    "load_charades",
    "load_charades_glove",
    "load_durations",
    "load_flickr30k",
    "load_instances",
    "load_own",
    "load_plain_pickle",
    "load_refcoco",
    "load_word_vectors",
    "tokenize",
    "write_clip_features",
    "write_region_features",
]
