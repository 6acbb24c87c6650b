from relgrounding import data

PUBLIC = [
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


def test_public_names_are_these() -> None:
    assert data.__all__ == PUBLIC
    assert all(hasattr(data, name) and getattr(data, name).__doc__ for name in PUBLIC)
