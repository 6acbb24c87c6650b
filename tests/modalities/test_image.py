"""Image batches against the regions that they were made of."""

import pickle

import numpy as np
import pytest
import torch

from relgrounding.config import ConfigError, load_config
from relgrounding.datasets import Query
from relgrounding.features import Regions, Vocabulary
from relgrounding.modalities import ImageCollator, OneQueryPerItem, VideoCollator


class _Store(dict):
    dim = 5


@pytest.fixture
def store():
    generator = np.random.default_rng(0)
    features = {f"i{n}": np.round(generator.random((n, 5)) * 3).astype(np.float16) for n in (1, 4, 7)}  # with ties
    boxes = {n: np.array([[1, 2, 3 + i, 9] for i in range(len(x))], np.float32) for n, x in features.items()}
    return _Store({name: Regions(x, boxes[name], (20, 10)) for name, x in features.items()})


def _collator(store, **options):
    queries = [Query(name, name, "red box", ()) for name in store]
    return ImageCollator(queries, store, Vocabulary.from_texts(["red box"]), **options)


@pytest.mark.parametrize("columns", [1, 3, 5])
def test_the_category_is_the_highest_of_the_first_columns(store, columns):
    batch = _collator(store, category_columns=columns)([2, 0, 1])
    rows = [row[:columns].tolist() for name in ("i7", "i1", "i4") for row in store[name].features]
    assert batch.categories.tolist() == [row.index(max(row)) for row in rows]
    assert batch.categories.dtype == torch.int64


def test_without_columns_categories_are_unknown(store):
    assert _collator(store)([0, 1]).categories.tolist() == [-1] * 5


def test_more_categories_than_columns_are_refused(store):
    with pytest.raises(ConfigError, match=r"^data\.category_columns is 6, but features have 5 columns"):
        _collator(store, category_columns=6)


def test_the_setting_reaches_the_collator(store):
    config = load_config(None, ["data.category_columns=3"])
    queries = [Query("i4", "i4", "red box", ())]
    collator = config.modality.collator(queries, store, Vocabulary.from_texts(["red"]), config.data)
    assert collator.category_columns == 3


def test_collators_go_to_processes_that_are_not_forked_and_make_the_same_batches(store):
    videos = _Store({name: regions.features for name, regions in store.items()})
    queries, vocabulary = [Query(name, name, "red box", ()) for name in videos], Vocabulary.from_texts(["red box"])
    for collator in (_collator(store), VideoCollator(queries, videos, vocabulary, widths=[2], stride=0.5)):
        here, there = (made([0, 2]) for made in (collator, pickle.loads(pickle.dumps(collator))))
        assert all(torch.equal(x, getattr(there, name)) for name, x in vars(here).items() if torch.is_tensor(x))
        assert torch.equal(here.structure.edge_index, there.structure.edge_index)


def test_columns_of_geometry_join_the_places(store):
    """The concatenation of both is the same, bit for bit."""
    plain = _collator(store)([2, 0, 1])
    whole = torch.cat([plain.regions, plain.places], 1)
    assert plain.places.shape[1] == 4
    for columns in (1, 5):
        batch = _collator(store, geometry_columns=columns)([2, 0, 1])
        assert batch.places.shape[1] == columns + 4
        assert torch.equal(torch.cat([batch.regions, batch.places], 1), whole)


def test_categories_and_geometry_share_the_columns(store):
    _collator(store, category_columns=3, geometry_columns=2)
    with pytest.raises(ConfigError, match=r"category_columns is 3 and data\.geometry_columns is 3, but .* 5 columns"):
        _collator(store, category_columns=3, geometry_columns=3)


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_one_query_per_item_is_its_first(size):
    queries = [Query(str(i), item, "red box", ()) for i, item in enumerate("baabcac")]
    batches = OneQueryPerItem(queries, size)
    assert [i for batch in batches for i in batch] == [0, 1, 4]
    assert len(batches) == len(list(batches)) == -(-3 // size)
