"""Batches made of blocks of similar queries, from which hard negatives are drawn."""

from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from relgrounding.datasets import Query, columns
from relgrounding.features import parts_of_speech, tokenize
from relgrounding.modalities._batches import BatchSampler, Drawn, identities, inverse
from relgrounding.modalities._modality import Modality

CHUNK = 2**22
DrawKeys = Callable[[torch.Generator], Int[Tensor, " queries"]]
"""Draws the key of each query for an epoch: queries of one key are similar; -1: similar to no other."""


def training_batches(queries: Sequence[Query], store: Any, modality: Modality, data: Any, seed: int) -> BatchSampler:
    """Return the batches of training queries, in blocks if `data.block_by` says so.

    Args:
        queries: to train on.
        store: features of their items.
        modality: of the items.
        data: the section `data`.
        seed: of the run.
    """
    _, _, group = identities(queries)
    if not data.block_by:
        return BatchSampler(group, data.batch_size, seed)
    if data.block_by == "category":
        categories = modality.categories(queries, store, data)
        return BlockSampler(group, data.batch_size, seed, lambda generator: categories, data.block_size)
    draw_keys = _sentence_keys(columns(queries).words(), data.block_size)
    return BlockSampler(group, data.batch_size, seed, draw_keys, data.block_size)


def proposal_counter(queries: Sequence[Query], store: Any, modality: Modality) -> Callable[[int], int] | None:
    """Return a function from the index of a query to the number of its item's proposals, see `Modality.counter`."""
    count = modality.counter(store)
    return None if count is None else lambda index: count(queries[index].item)


def sentence_keys(texts: Sequence[str], least: int) -> DrawKeys:
    """Return a function that draws a content word of each sentence so that similar sentences often get the same one.

    A draw gives each word w a time e_w / idf_w, with e_w ~ Exp(1) and idf_w = log(N / n_w) for a word of n_w of the N
    sentences. The key of a sentence is its word with the least time. Sentences with the words A and B then share their
    key with probability

        sum of idf over the words in A and B  /  sum of idf over the words in A or B,

    which is their weighted Jaccard similarity. Words are nouns, verbs, adjectives and adverbs (`parts_of_speech`).

    Args:
        texts: the sentences.
        least: words of fewer sentences are left out, as they cannot fill a block.

    Returns:
        The function: (sentences,) numbers of words in order of their first use; -1 for a sentence without one.

    Source: Manasse, McSherry and Talwar, Consistent Weighted Sampling, 2010.
    """
    return _sentence_keys(map(tokenize, texts), least)


def _sentence_keys(sentences: Iterable[list[str]], least: int) -> DrawKeys:
    known: dict[str, int] = {}
    number, length = array("i"), array("i")  # of 10,000,000 sentences, lists would not fit into memory
    for sentence in sentences:
        words = _content_words(sentence)
        number.extend([known.setdefault(word, len(known)) for word in words])
        length.append(len(words))
    total, word = len(length), torch.from_numpy(np.array(number, dtype=np.int32))
    owner = torch.from_numpy(np.repeat(np.arange(total, dtype=np.int32), np.array(length, dtype=np.int32)))
    count = word.bincount()
    idf = (total / count.double()).log()
    kept = ((count >= least) & (idf > 0))[word]
    word, owner = word[kept], owner[kept]

    def draw(generator: torch.Generator) -> Int[Tensor, " sentences"]:
        time = -torch.log1p(-torch.rand(len(count), dtype=torch.float64, generator=generator)) / idf
        order = time.argsort()
        rank, first = inverse(order), torch.full((total,), len(order))
        for some_words, some_owners in zip(word.split(CHUNK), owner.split(CHUNK), strict=True):
            first.scatter_reduce_(0, some_owners.long(), rank[some_words], "amin")
        return torch.cat([order, torch.tensor([-1])])[first]

    return draw


def _content_words(words: list[str]) -> list[str]:
    tags = parts_of_speech(words)
    return list(dict.fromkeys(word for word, tag in zip(words, tags, strict=True) if tag != "OTHER"))


class BlockSampler(BatchSampler):
    """Shuffled batches of blocks of queries with the same key; the queries of a group stay together.

    Blocks are drawn anew for every epoch and have `block_size` queries; one smaller block per key takes the rest.
    Batches are filled with whole blocks first, so that none of these is cut if the batch size is a multiple of theirs,
    and then shuffled. A group of queries with different keys is in no block.

    Args:
        groups: see `BatchSampler`.
        batch_size: likewise.
        seed: likewise.
        draw_keys: draws the keys of an epoch.
        block_size: queries per block; a group that begins in a block is in it as a whole.
    """

    def __init__(
        self, groups: Int[Tensor, " queries"], batch_size: int, seed: int, draw_keys: DrawKeys, block_size: int
    ) -> None:
        super().__init__(groups, batch_size, seed)
        self._draw_keys, self._block_size = draw_keys, block_size

    def _draw(self, generator: torch.Generator) -> Drawn:
        key, unit, size = self._unit_keys(self._draw_keys(generator)), self._unit, self._unit.bincount()
        order = torch.randperm(len(size), generator=generator)
        order = order[key[order].argsort(stable=True)]
        block = self._cut(order, key, size)[unit]
        length = block.bincount()
        place = torch.randperm(len(length), generator=generator) + len(length) * (length < self._block_size)
        queries = inverse(order)[unit].argsort(stable=True)
        queries = queries[place[block[queries]].argsort(stable=True)]
        batches = torch.randperm(-(-len(queries) // self.batch_size), generator=generator)
        return Drawn(queries, batches, torch.where((key[unit] >= 0) & (length[block] > 1), block, -1))

    def _unit_keys(self, key: Int[Tensor, " queries"]) -> Int[Tensor, " units"]:
        """Return the key that all queries of a unit share, -1 where they differ."""
        empty = key.new_zeros(int(self._unit.max()) + 1)
        least = empty.scatter_reduce(0, self._unit, key, "amin", include_self=False)
        most = empty.scatter_reduce(0, self._unit, key, "amax", include_self=False)
        return torch.where(least == most, least, -1)

    def _cut(
        self, order: Int[Tensor, " units"], key: Int[Tensor, " units"], size: Int[Tensor, " units"]
    ) -> Int[Tensor, " units"]:
        """Return the number of each unit's block: units of one key in their order; a unit without one is alone."""
        keys, before = key[order], size[order].cumsum(0) - size[order]
        whole_blocks = (before - before[torch.searchsorted(keys, keys)]) // self._block_size
        part = torch.where(keys < 0, torch.arange(len(order)), whole_blocks)
        # Keys do not fall along the order, nor do parts within a key.
        begins = torch.ones(len(order), dtype=torch.bool)
        begins[1:] = (keys[1:] != keys[:-1]) | (part[1:] != part[:-1])
        return (begins.cumsum(0) - 1)[inverse(order)]
