"""Words of sentences as numbers, and their pretrained vectors."""

import contextlib
import hashlib
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import regex
import torch
from jaxtyping import Float
from torch import Tensor

from relgrounding._files import replacing
from relgrounding._signals import look

__all__ = ["Vocabulary", "load_word_vectors", "tokenize"]

PADDING, UNKNOWN = 0, 1
LARGEST_OFFSET = 100
_DAMAGED = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile)
# Chinese and Japanese are written without spaces: each of their characters is a word.
_EACH = r"\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}"
# GloVe and spaCy know "n't" words whole, but no possessives: the clitic becomes a word of its own.
_WORD = regex.compile(
    rf"""(?xV1)'s\b
    |[[\p{{L}}\p{{N}}]--[{_EACH}]] [[\p{{L}}\p{{N}}\p{{Mn}}\p{{Mc}}]--[{_EACH}]]*+
        (?:'(?!s\b) [[\p{{L}}\p{{Mn}}\p{{Mc}}]--[{_EACH}]]++)*
    |[[\p{{L}}\p{{N}}]&&[{_EACH}]] [\p{{Mn}}\p{{Mc}}]*"""
)
# Soft hyphens, joiners and variation selectors change how a word looks, not which word it is.
INVISIBLE = regex.compile(r"[\u00AD\u200C\u200D\uFE00-\uFE0F\U000E0100-\U000E01EF]")


def tokenize(text: str) -> list[str]:
    """Split a sentence into lower-case words of any script, in Unicode's form NFC, without punctuation.

    A word is letters, their marks, and digits; a Chinese or Japanese character is one. Emoji are none.

    >>> tokenize("The man's T-shirt doesn't fit, café!")
    ['the', 'man', "'s", 't', 'shirt', "doesn't", 'fit', 'café']
    >>> tokenize("Der Hund auf der STRASSE, Straße 7"), tokenize("человек открывает дверь")
    (['der', 'hund', 'auf', 'der', 'strasse', 'straße', '7'], ['человек', 'открывает', 'дверь'])
    >>> tokenize("人がドアを開ける"), tokenize("🎬 !")
    (['人', 'が', 'ド', 'ア', 'を', '開', 'け', 'る'], [])
    """
    text = text.replace("\u2019", "'").lower()
    if not text.isascii():
        text = unicodedata.normalize("NFC", INVISIBLE.sub("", text))
    return _WORD.findall(text)


def _plain(word: str) -> str:
    """Return a word without accents: the form in which many files of vectors, and older checkpoints, know it."""
    return "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))


class Vocabulary:
    """Numbers of words: 0 is padding, 1 stands for every unknown word, known words follow.

    A word that is known only without its accents is that one.

    Args:
        words: known words, all different, in the order of their numbers from 2 on.

    Raises:
        ValueError: a word comes twice.

    >>> vocabulary = Vocabulary.from_texts(["a red box", "a blue box"])
    >>> len(vocabulary), vocabulary.encode("a green box")
    (6, [2, 1, 3])
    >>> Vocabulary(["cafe"]).encode("the café")
    [1, 2]
    """

    def __init__(self, words: Iterable[str] = ()) -> None:
        self._words = tuple(words)
        self._number = {word: number for number, word in enumerate(self._words, start=UNKNOWN + 1)}
        if len(self._number) != len(self._words):
            repeated = next(word for word, count in Counter(self._words).items() if count > 1)
            raise ValueError(f"word {repeated!r} comes twice; give each word once")

    @classmethod
    def from_texts(cls, texts: Iterable[str], min_count: int = 1) -> "Vocabulary":
        """Return the words that occur `min_count` times or more, the most frequent first, equals by alphabet."""
        return cls.from_counts(Counter(word for text in texts for word in tokenize(text)), min_count)

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], min_count: int = 1) -> "Vocabulary":
        """Return what `from_texts` does, given how often each word occurs."""
        kept = (word for word, count in counts.items() if count >= min_count)
        return cls(sorted(kept, key=lambda word: (-counts[word], word)))

    @classmethod
    def from_list(cls, words: Sequence[str]) -> "Vocabulary":
        """Return the vocabulary that `to_list` was taken from."""
        return cls(words)

    def to_list(self) -> list[str]:
        """Return the known words in the order of their numbers, for checkpoints."""
        return list(self._words)

    def encode(self, text: str) -> list[int]:
        """Return the number of each word of a sentence.

        Raises:
            ValueError: the text holds no word.
        """
        words = tokenize(text)
        if not words:
            raise ValueError(f"text {text!r} holds no word; drop it or give it one")
        return [self._number.get(word) or self._number.get(_plain(word), UNKNOWN) for word in words]

    def __len__(self) -> int:
        """Return how many numbers there are, padding and unknown included."""
        return len(self._words) + UNKNOWN + 1

    def __contains__(self, word: object) -> bool:
        return word in self._number or (isinstance(word, str) and _plain(word) in self._number)

    def __eq__(self, other: object) -> bool:
        return self._words == other._words if isinstance(other, Vocabulary) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self._words)} words)"


def load_word_vectors(
    path: str | Path, vocabulary: Vocabulary, cache: str | Path | None = None, offset: float = 0.0
) -> tuple[Vocabulary, Float[Tensor, "words dim"]]:
    """Load the vectors of a vocabulary's words; words without one leave it, and so share the number of unknown words.

    A word that the file holds only without its accents has the vector of that one. Some files were pruned, and give
    many words the vector of another: "first" and "second" are then the same to a model. An offset tells them apart,

        v_w + offset * std(v_w) * n_w

    with the standard deviation of the numbers of v_w, and n_w of N(0, 1), drawn by the word alone.

    Args:
        path: text file, one line per word: the word, then its numbers, all separated by one space (GloVe's format).
        vocabulary: words whose vectors are wanted.
        cache: folder that keeps what was read as .npz, named by the file's path, size and time and the vocabulary.
        offset: size of the offsets, from 0 (the vectors of the file) to 100.

    Returns:
        The words that have a vector, in their order, and the (number of words, dim) float32 table of that vocabulary.
        Row 0 (padding) is zero, row 1 (unknown) the mean of the other rows.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no word has a vector, the line of a word does not hold its numbers, or an offset out of its range.
    """
    if not 0 <= offset <= LARGEST_OFFSET:
        raise ValueError(f"offset is {offset}; give a number from 0 to {LARGEST_OFFSET}")
    wanted = vocabulary.to_list()
    found, vectors = _read_cached(
        Path(path), [*wanted, *(_plain(word) for word in wanted if not word.isascii())], cache
    )
    row = {word: number for number, word in enumerate(found)}
    row |= {word: row[_plain(word)] for word in wanted if word not in row and _plain(word) in row}
    words = [word for word in wanted if word in row]
    known = Vocabulary(words)
    if not words:
        raise ValueError(
            f"{path} has a vector for none of the {len(wanted)} words of the vocabulary; "
            "expected one line per word, the word and its numbers separated by spaces"
        )
    table = torch.zeros(len(known), vectors.shape[1])
    vectors = vectors[[row[word] for word in words]]
    if offset:
        own = np.stack([_drawn(word, vectors.shape[1]) for word in words])
        vectors = vectors + np.float32(offset) * vectors.std(1, keepdims=True) * own
    table[UNKNOWN + 1 :] = torch.from_numpy(vectors)
    table[UNKNOWN] = table[UNKNOWN + 1 :].mean(0)
    return known, table


def _drawn(word: str, dim: int) -> np.ndarray:
    """Return numbers of N(0, 1) that depend on a word alone."""
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(dim, dtype=np.float32)


def words_that_share(vocabulary: Vocabulary, vectors: Float[Tensor, "words dim"]) -> list[list[str]]:
    """Return the groups of two words or more that have the same vector."""
    groups: dict[bytes, list[str]] = {}
    for word, vector in zip(vocabulary.to_list(), vectors[UNKNOWN + 1 :].numpy(), strict=True):
        groups.setdefault(vector.tobytes(), []).append(word)
    return [words for words in groups.values() if len(words) > 1]


def _read_cached(path: Path, words: Sequence[str], cache: str | Path | None) -> tuple[list[str], np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(
            f"word vectors {path} not found; any file in GloVe's text format does, such as "
            "glove.840B.300d.txt from https://nlp.stanford.edu/projects/glove"
        )
    if cache is None:
        return _read(path, frozenset(words))
    stat = path.stat()
    identity = "\n".join([str(path.resolve()), str(stat.st_size), str(stat.st_mtime_ns), *sorted(words)])
    kept = Path(cache) / f"vectors-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.npz"
    # Missing or damaged: made again.
    with contextlib.suppress(*_DAMAGED), np.load(kept, allow_pickle=False) as arrays:
        return arrays["words"].tolist(), arrays["vectors"]
    found, vectors = _read(path, frozenset(words))
    with contextlib.suppress(OSError):  # a full disk: read again next time
        _save(kept, found, vectors)
    return found, vectors


def _save(path: Path, words: list[str], vectors: np.ndarray) -> None:
    with replacing(path) as beside, beside.open("wb") as file:
        np.savez(file, words=np.asarray(words, dtype=np.str_), vectors=vectors)


def _read(path: Path, wanted: frozenset[str]) -> tuple[list[str], np.ndarray]:
    """Return the wanted words that the file holds, in its order, and their vectors; the first of equal words counts."""
    found: dict[str, np.ndarray] = {}
    dim = 0
    for number, word, rest in _lines(path):
        dim = dim or rest.count(" ") + 1
        # Some files have words with spaces in them; tokenize makes none such.
        if word not in wanted or word in found or rest.count(" ") >= dim:
            continue
        try:
            vector = np.array(rest.split(" "), dtype=np.float32)
        except ValueError:
            vector = np.empty(0, dtype=np.float32)
        if len(vector) != dim or not np.isfinite(vector).all():
            raise ValueError(f"{path}, line {number}: expected {word!r} and {dim} finite numbers after it")
        found[word] = vector
    return list(found), np.stack(list(found.values())) if found else np.zeros((0, dim), dtype=np.float32)


def _lines(path: Path) -> Iterator[tuple[int, str, str]]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            look()
            word, _, rest = line.rstrip().partition(" ")
            if number == 1 and " " not in rest:
                continue  # word2vec's text format begins with the number of words and their width
            if rest:
                yield number, word, rest
