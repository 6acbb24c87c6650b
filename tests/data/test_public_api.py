from relgrounding import data

PUBLIC = [
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


def test_public_names_are_these() -> None:
    assert data.__all__ == PUBLIC
    assert all(hasattr(data, name) and getattr(data, name).__doc__ for name in PUBLIC)
