"""From queries and features to batches of tensors and graph structures."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from relgrounding._host import to_device
from relgrounding._signals import ignore_signals
from relgrounding.datasets import Query, columns
from relgrounding.datasets._stream import CHUNK, first_rows, numbered
from relgrounding.features import Vocabulary, tokenize, word_importance
from relgrounding.graphs import GraphStructure

B = TypeVar("B", bound="Batch")
KEPT_TEXTS = 2**16
"""Sentences whose token ids a collator keeps."""


@dataclasses.dataclass
class Batch:
    """Fields of every batch; all tensors move between devices together.

    Attributes:
        structure: proposal graphs of the items.
        words: (items, length) word ids, 0 at padding.
        word_lengths: (items,) from 1.
        importance: (items, length) of the words, see `relgrounding.features.word_importance`; 0 at padding.
        item: (items,) id of the image or video.
        text: (items,) id of the sentence.
        group: (items,) id of the group of queries, -1 for none.
        block: (items,) id of the block of similar queries that hard negatives are drawn from, -1 for none.
        queries: index of each query in its dataset.
        counts: number of items in the batch of each process, if negatives come from all of them, else empty.
    """

    structure: GraphStructure
    words: Int[Tensor, "items length"]
    word_lengths: Int[Tensor, " items"]
    importance: Float[Tensor, "items length"]
    item: Int[Tensor, " items"]
    text: Int[Tensor, " items"]
    group: Int[Tensor, " items"]
    block: Int[Tensor, " items"]
    queries: list[int]
    counts: tuple[int, ...] = dataclasses.field(default=(), kw_only=True)

    def _mapped(self: B, function: Callable[[Any], Any]) -> B:
        return type(self)(**{field.name: function(getattr(self, field.name)) for field in dataclasses.fields(self)})

    def to(self: B, device: torch.device | str) -> B:
        """Return the batch on another device.

        Copies to CUDA do not wait for it, and the host goes on knowing whole numbers, such as lengths.
        """

        def there(value: Any) -> Any:
            if isinstance(value, Tensor):
                return to_device(value, device)
            return value.to(device, non_blocking=True) if hasattr(value, "to") else value

        return self._mapped(there)

    def pin_memory(self: B) -> B:
        """Return the batch in page-locked memory, from which it is copied to a GPU faster."""
        return self._mapped(lambda value: value.pin_memory() if hasattr(value, "pin_memory") else value)

    def __len__(self) -> int:
        return len(self.queries)


@runtime_checkable
class Collator(Protocol):
    """Makes batches."""

    queries: Sequence[Query]
    group: Int[Tensor, " queries"]

    def __call__(self, indices: Sequence[int]) -> Batch:
        """Return the batch of the queries with these indices."""


class Texts:
    """Ids of item, text and group of queries, computed once, and the token ids of those of a batch."""

    def __init__(self, queries: Sequence[Query], vocabulary: Vocabulary, max_words: int) -> None:
        self.item, self.text, self.group = identities(queries)
        self._keep(vocabulary, max_words)

    def _keep(self, vocabulary: Vocabulary, max_words: int) -> None:
        self._made_of = vocabulary, max_words
        self._tokens = lru_cache(KEPT_TEXTS)(lambda text: vocabulary.encode(text)[:max_words])
        self._importance = lru_cache(KEPT_TEXTS)(lambda text: word_importance(tokenize(text))[:max_words])

    def __getstate__(self) -> tuple[Any, ...]:
        # Loading processes that are not forked start with nothing kept.
        return (self.item, self.text, self.group), self._made_of

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        (self.item, self.text, self.group), made_of = state
        self._keep(*made_of)

    def batch(self, queries: Sequence[Query], indices: Sequence[int]) -> dict[str, Any]:
        """Return the fields of `Batch` that do not depend on the item.

        Args:
            queries: of the batch.
            indices: theirs.
        """
        tokens = [self._tokens(query.text) for query in queries]
        index = torch.tensor(indices)
        return {
            "words": _padded(tokens),
            "word_lengths": torch.tensor([len(t) for t in tokens]),
            "importance": _padded([self._importance(query.text) for query in queries]).float(),
            "item": self.item[index].long(),
            "text": self.text[index].long(),
            "group": self.group[index],
            "block": torch.full_like(index, -1),
            "queries": list(indices),
        }


def _padded(rows: Sequence[list[int] | list[float]]) -> Tensor:
    """Return rows of numbers as a matrix, with zeros behind the shorter ones."""
    length = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])


def identities(queries: Sequence[Query]) -> tuple[Int[Tensor, " queries"], ...]:
    """Return the ids `item`, `text` and `group` of `Batch` for each query."""
    known = columns(queries)
    groups = known.groups()
    group = torch.full((1,), -1).expand(len(queries)) if groups is None else torch.from_numpy(groups)
    return torch.from_numpy(known.items()[1]), torch.from_numpy(known.texts()), group


def numbers(names: Iterable[str]) -> Int[Tensor, " names"]:
    """Return names as numbers from 0 in order of their first use."""
    return torch.from_numpy(numbered(names)[1])


class Drawn(NamedTuple):
    """What an epoch consists of.

    Attributes:
        order: (queries,) their indices; batch n has those from n times the batch size on.
        batches: number of each batch, in the order in which they come.
        block: (queries,) id of the block of each query, -1 for none.
    """

    order: Int[Tensor, " queries"]
    batches: Int[Tensor, " batches"]
    block: Int[Tensor, " queries"]


class BatchSampler:
    """Shuffled batches that keep the queries of a group together.

    The order depends only on the seed and the epoch, so that a resumed run sees the batches of an uninterrupted one.

    Args:
        groups: (queries,) id of the group that each query belongs to, -1 for none.
        batch_size: queries per batch; the last batch of an epoch may be smaller, but never a single query.
        seed: of the run.
    """

    def __init__(self, groups: Int[Tensor, " queries"], batch_size: int, seed: int) -> None:
        self.batch_size, self.seed = batch_size, seed
        self.epoch = 0
        self.start = 0
        self._size, self._groups = len(groups), groups if bool((groups >= 0).any()) else None
        self._drawn: tuple[int, Drawn] | None = None

    @cached_property
    def _unit(self) -> Int[Tensor, " queries"]:
        """Number that the queries of a group share."""
        if self._groups is None:
            return torch.arange(self._size)
        alone = torch.arange(self._size) + self._groups.max() + 1
        return torch.unique(torch.where(self._groups >= 0, self._groups, alone), return_inverse=True)[1]

    def __iter__(self) -> Iterator[list[int]]:
        drawn, size = self._epoch(), self.batch_size
        numbers = drawn.batches[drawn.batches * size < self._size - 1]
        return (drawn.order[n * size : (n + 1) * size].tolist() for n in numbers[self.start :].tolist())

    def block(self, indices: Sequence[int]) -> Int[Tensor, " indices"]:
        """Return the id of the block that each of these queries is in during this epoch, -1 for none."""
        return self._epoch().block[torch.tensor(indices)]

    def units(self, indices: Sequence[int]) -> Int[Tensor, " indices"]:
        """Return a number for each of these queries that those of a group share."""
        return torch.tensor(indices) if self._groups is None else self._unit[torch.tensor(indices)]

    def _epoch(self) -> Drawn:
        """Return what this epoch consists of."""
        if self._drawn is None or self._drawn[0] != self.epoch:
            self._drawn = None  # not kept beside the next one
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
            self._drawn = self.epoch, self._draw(generator)
        return self._drawn[1]

    def _draw(self, generator: torch.Generator) -> Drawn:
        if self._groups is None:
            order = inverse(torch.randperm(self._size, generator=generator, dtype=_index_type(self._size)))
        else:
            rank = torch.randperm(int(self._unit.max()) + 1, generator=generator)
            order = torch.argsort(rank[self._unit], stable=True)
        batches = torch.arange(-(-self._size // self.batch_size))
        return Drawn(order, batches, torch.full((1,), -1).expand(self._size))

    def __len__(self) -> int:
        full, rest = divmod(self._size, self.batch_size)
        return full + (rest > 1) - self.start


def _index_type(size: int) -> torch.dtype:
    return torch.int32 if size < 2**31 else torch.int64


def inverse(order: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Return the place of each number in a permutation."""
    inverse, start = torch.empty_like(order), 0
    for part in order.split(CHUNK):
        inverse[part.long()] = torch.arange(start, start + len(part), dtype=order.dtype)
        start += len(part)
    return inverse


class OrderedBatches:
    """Batches in the order of the dataset, for evaluation."""

    def __init__(self, size: int, batch_size: int) -> None:
        self.size, self.batch_size = size, batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, self.size, self.batch_size):
            yield list(range(start, min(start + self.batch_size, self.size)))

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)


class _Indices(torch.utils.data.Dataset):
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return index


class OneQueryPerItem:
    """Batches in which every item comes once, with the first of its queries.

    Args:
        queries: of a split.
        batch_size: items per batch.
    """

    def __init__(self, queries: Sequence[Query], batch_size: int) -> None:
        items, item = columns(queries).items()
        first, last = first_rows(item, len(items)), len(item) - 1 - first_rows(item[::-1], len(items))
        self._indices: list[int] = first[np.argsort(last)].tolist()
        self._batches = OrderedBatches(len(self._indices), batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._batches:
            yield [self._indices[i] for i in batch]

    def __len__(self) -> int:
        return len(self._batches)


def make_loader(collator: Collator, batches: Iterable[list[int]], workers: int = 0) -> torch.utils.data.DataLoader:
    """Return a loader of batches, in page-locked memory if CUDA is available.

    Args:
        collator: makes the batches.
        batches: indices of the queries of each batch.
        workers: number of loading processes; 0 loads in this process.
    """
    return torch.utils.data.DataLoader(
        _Indices(len(collator.queries)),
        batch_sampler=batches,
        collate_fn=collator,
        num_workers=workers,
        worker_init_fn=ignore_signals,
        pin_memory=torch.cuda.is_available(),
        # Without its own generator each pass would draw from the global one, and a resumed run would differ.
        generator=torch.Generator(),
    )
