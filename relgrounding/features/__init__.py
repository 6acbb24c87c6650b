"""Features of clips, regions and words: stores, writers, converters and extraction."""

from relgrounding.features._regions import RegionFeatures, Regions
from relgrounding.features._stores import ClipFeatures
from relgrounding.features._writers import write_clip_features, write_region_features
from relgrounding.features.shards import index_shards, open_features
from relgrounding.features.vocabulary import Vocabulary, load_word_vectors, tokenize
from relgrounding.features.words import attribute_words, parts_of_speech, word_importance

__all__ = [
    "ClipFeatures",
    "RegionFeatures",
    "Regions",
    "Vocabulary",
    "attribute_words",
    "index_shards",
    "load_word_vectors",
    "open_features",
    "parts_of_speech",
    "tokenize",
    "word_importance",
    "write_clip_features",
    "write_region_features",
]
