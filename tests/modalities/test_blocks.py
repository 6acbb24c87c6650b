"""Laws of batches made of blocks."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relgrounding.config import ConfigError, load_config
from relgrounding.datasets import Query
from relgrounding.features import Regions
from relgrounding.modalities import BatchSampler, BlockSampler, Image, training_batches
from relgrounding.modalities._blocks import sentence_keys

KEYS = st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 5)), min_size=1, max_size=60)


def _sampler(keys_and_groups, batch_size=8, block_size=4, seed=0):
    keys, groups = (torch.tensor(column) for column in zip(*keys_and_groups, strict=True))
    return BlockSampler(groups, batch_size, seed, lambda generator: keys, block_size), keys, groups


@given(KEYS, st.integers(2, 9), st.integers(2, 9), st.integers(0, 3))
def test_an_epoch_holds_every_query_once_and_keeps_groups_together(rows, batch_size, block_size, epoch):
    sampler, _, groups = _sampler(rows, batch_size, block_size)
    sampler.epoch = epoch
    batches = list(sampler)
    seen = [i for batch in batches for i in batch]
    assert len(seen) == len(set(seen)) >= len(rows) - 1  # a query that would be alone in a batch is left out
    assert len(batches) == len(sampler)
    assert sorted(map(len, batches), reverse=True)[:-1] == [batch_size] * (len(batches) - 1)
    # In the order before batches are cut and shuffled, a group is one run.
    order = sampler._epoch().order
    runs = [group for group, _ in itertools.groupby(groups[order].tolist()) if group >= 0]
    assert len(runs) <= len(set(runs)) + len(batches)


@given(KEYS, st.integers(2, 9), st.integers(0, 3))
def test_the_queries_of_a_block_share_their_key(rows, block_size, epoch):
    sampler, keys, groups = _sampler(rows, 8, block_size)
    sampler.epoch = epoch
    block = sampler.block(range(len(rows)))
    largest = int(groups[groups >= 0].bincount().max()) if (groups >= 0).any() else 1
    for number in set(block.tolist()) - {-1}:
        members = keys[block == number]
        assert (members == members[0]).all()
        assert members[0] >= 0
        assert 2 <= len(members) < block_size + largest
    for group in set(groups.tolist()) - {-1}:
        assert len(set(block[groups == group].tolist())) == 1
    # Only what is left of a key, or a group of several keys, is in a smaller block or in none.
    for key in set(keys.tolist()) - {-1}:
        alone = (keys == key) & (groups < 0)
        if not ((keys == key) & (groups >= 0)).any():
            assert len(set(block[alone].tolist())) == math.ceil(int(alone.sum()) / block_size)


def test_batches_hold_whole_blocks():
    sampler, _, _ = _sampler([(i % 3, -1) for i in range(70)], 8, 4)
    whole = [batch for batch in sampler if (sampler.block(batch).bincount() % 4 == 0).all()]
    assert len(whole) >= 70 // 8 - 1
    orders = []
    for sampler.epoch in (0, 1, 0):
        orders.append(list(sampler))
    assert orders[0] == orders[2] != orders[1]
    sampler.start = 3
    assert list(sampler) == orders[0][3:]


SIZED = ("big red", "small blue", "big green")
TEXTS = [f"the {first} {thing}" for first in SIZED for thing in ("box", "ball", "cup", "hat")] + ["the odd one"]
WORDS = [text.split()[1:] for text in TEXTS[:-1]]


def test_the_key_of_a_sentence_is_a_content_word_that_other_sentences_have():
    names = list(dict.fromkeys([word for words in WORDS for word in words] + ["odd"]))
    key = sentence_keys(TEXTS, 2)(torch.Generator().manual_seed(0)).tolist()
    assert all(names[k] in words for k, words in zip(key[:-1], WORDS, strict=True))
    assert key[-1] == -1
    assert set(sentence_keys(TEXTS, 5)(torch.Generator()).tolist()) == {names.index("big"), -1}
    assert sentence_keys(["red", "red"], 2)(torch.Generator()).tolist() == [-1, -1]  # a word of all tells nothing


def test_sentences_share_their_key_as_often_as_their_words_weigh():
    draw, generator = sentence_keys(TEXTS, 2), torch.Generator().manual_seed(0)
    keys = torch.stack([draw(generator) for _ in range(4000)])
    idf = {word: math.log(len(TEXTS) / sum(word in words for words in WORDS)) for words in WORDS for word in words}
    for i, j in itertools.combinations(range(len(WORDS)), 2):
        common, all_words = set(WORDS[i]) & set(WORDS[j]), set(WORDS[i]) | set(WORDS[j])
        expected = sum(map(idf.get, common)) / sum(map(idf.get, all_words))
        assert abs((keys[:, i] == keys[:, j]).double().mean().item() - expected) < 0.04


class _Store(dict):
    dim = 4


def test_an_image_has_the_category_of_most_regions():
    content = {"one": [2, 2, 0], "tie": [1, 0, 1, 0], "other": [1]}
    box = np.array([[0, 0, 1, 1]], np.float32)
    store = _Store(
        {k: Regions(np.eye(4, dtype=np.float16)[v], box.repeat(len(v), 0), (9, 9)) for k, v in content.items()}
    )
    queries = [Query(name, name, "text", ()) for name in ("tie", "one", "other", "one")]
    assert Image().categories(queries, store, SimpleNamespace(category_columns=3)).tolist() == [0, 2, 1, 2]
    assert Image().categories(queries, store, SimpleNamespace(category_columns=0)).tolist() == [-1] * 4
    config = load_config(None, ["data.category_columns=3", "data.block_by=category", "data.block_size=2"])
    sampler = training_batches(queries, store, config.modality, config.data, 0)
    assert (sampler.block(range(4)) >= 0).tolist() == [False, True, False, True]


def test_without_blocks_batches_are_as_before():
    queries = [Query(str(i), str(i), f"text {i % 5}", ()) for i in range(40)]
    config = load_config(None, ["data.batch_size=8"])
    sampler = training_batches(queries, None, config.modality, config.data, 3)
    assert type(sampler) is BatchSampler
    generator = torch.Generator().manual_seed(3 * 1_000_003)
    rank = torch.randperm(40, generator=generator)
    assert list(sampler) == [b.tolist() for b in rank.argsort().split(8)]
    assert sampler.block([4, 2]).tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.block_by=category"], "data.block_by=category needs to know the categories"),
        (["mil.hard_negatives=1"], "mil draws hard negatives from blocks of similar queries; set data.block_by"),
        (["mil.hard_negatives=2", "data.block_by=sentence"], r"mil\.hard_negatives is 2, but mil\.negatives, which"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, words)


@pytest.mark.parametrize("size", [1, 2, 17, 70_000])
def test_without_groups_the_order_is_that_of_random_ranks(size):
    sampler = BatchSampler(torch.full((size,), -1), 4, 5)
    sampler.epoch = 2
    expected = torch.randperm(size, generator=torch.Generator().manual_seed(5_000_017)).argsort()
    assert list(sampler) == [batch.tolist() for batch in expected.split(4) if len(batch) > 1]
    assert len(sampler) == len(list(sampler))
