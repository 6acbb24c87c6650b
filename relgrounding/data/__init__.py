"""Annotations, features, words and batches."""

from relgrounding.data._pickle import CharadesGlove, load_charades_glove, load_plain_pickle
from relgrounding.data._query import Query
from relgrounding.data.charades import ActionInterval, load_actions, load_charades, load_durations
from relgrounding.data.features import (
    ClipFeatures,
    RegionFeatures,
    Regions,
    write_clip_features,
    write_region_features,
)
from relgrounding.data.flickr30k import load_flickr30k
from relgrounding.data.refcoco import ImageObjects, Instances, load_instances, load_refcoco
from relgrounding.data.vocabulary import Vocabulary, load_word_vectors, tokenize

__all__ = [
    "ActionInterval",
    "CharadesGlove",
    "ClipFeatures",
    "ImageObjects",
    "Instances",
    "Query",
    "RegionFeatures",
    "Regions",
    "Vocabulary",
    "load_actions",
    "load_charades",
    "load_charades_glove",
    "load_durations",
    "load_flickr30k",
    "load_instances",
    "load_plain_pickle",
    "load_refcoco",
    "load_word_vectors",
    "tokenize",
    "write_clip_features",
    "write_region_features",
]
