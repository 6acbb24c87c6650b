import os
import unicodedata

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relgrounding.datasets import load_charades, load_flickr30k, load_refcoco
from relgrounding.features import Vocabulary, load_word_vectors, tokenize
from relgrounding.features.vocabulary import words_that_share

LINES = "the 1 2\nred 3 4\nbox 5 7\n. . . 0 0\nred 9 9\n"


@pytest.fixture
def vectors(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text(LINES)
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Person turns a light on.", ["person", "turns", "a", "light", "on"]),
        ("the man's dog", ["the", "man", "'s", "dog"]),
        ("the man\u2019s dog doesn\u2019t", ["the", "man", "'s", "dog", "doesn't"]),
        ("2nd from left,3rd row", ["2nd", "from", "left", "3rd", "row"]),
        ("'sit' o'clock", ["sit", "o'clock"]),
        ("d'oeuvre's", ["d'oeuvre", "'s"]),
        ("Cafe\u0301 caf\u00e9", ["caf\u00e9", "caf\u00e9"]),
        (" .,! ", []),
        ("ein Mann auf der Straße", ["ein", "mann", "auf", "der", "straße"]),
        ("человек открывает дверь", ["человек", "открывает", "дверь"]),
        ("人がドアを開ける。カー", [*"人がドアを開けるカー"]),
        ("T恤３枚", ["t", *"恤３枚"]),
        ("कुत्ता दौड़ता है", unicodedata.normalize("NFC", "कुत्ता दौड़ता है").split()),
        ("الرَّجُل يفتح البابَ ٣", ["الرَّجُل", "يفتح", "البابَ", "٣"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("남자가 문을 연다", ["남자가", "문을", "연다"]),
        ("คน\u200bเปิด", ["คน", "เปิด"]),
        ("м’яч snake_case well-known", ["м'яч", "snake", "case", "well", "known"]),
        ("🎬 👩\u200d🚀 ❤\ufe0f \u0301", []),
    ],
)
def test_tokenize(text, words):
    assert tokenize(text) == words


@given(st.text())
def test_tokens_stay_tokens(text):
    words = tokenize(text)
    assert tokenize(" ".join(words)) == words


@given(st.lists(st.text(alphabet="abc '", max_size=8), max_size=5), st.integers(1, 3))
def test_vocabulary_knows_frequent_words_and_no_others(texts, min_count):
    vocabulary = Vocabulary.from_texts(texts, min_count)
    words = [word for text in texts for word in tokenize(text)]
    assert set(vocabulary.to_list()) == {word for word in words if words.count(word) >= min_count}
    assert Vocabulary.from_list(vocabulary.to_list()) == vocabulary
    assert vocabulary == Vocabulary.from_texts(texts[::-1], min_count)
    for number, word in enumerate(vocabulary.to_list(), start=2):
        assert vocabulary.encode(word) == [number]
    assert vocabulary.encode("zebra") == [1]
    assert len(vocabulary) == len(vocabulary.to_list()) + 2


def test_words_of_older_vocabularies_and_files_are_found_without_their_accents(tmp_path):
    assert Vocabulary(["cafe", "red"]).encode("the red CAFÉ") == [1, 3, 2]
    assert Vocabulary(["cafe", "café"]).encode("café cafe") == [3, 2]
    assert "café" in Vocabulary(["cafe"])
    assert "cafe" not in Vocabulary(["café"])
    (tmp_path / "v.txt").write_text("cafe 1 2\npinata 5 6\npiñata 3 4\n", encoding="utf-8-sig")
    for _ in range(2):
        words = Vocabulary(["café", "piñata", "cafe", "no\u0308"])
        known, table = load_word_vectors(tmp_path / "v.txt", words, tmp_path / "cache")
        assert known.to_list() == ["café", "piñata", "cafe"]
        assert table[2:].tolist() == [[1, 2], [3, 4], [1, 2]]


def test_text_without_words_is_refused():
    with pytest.raises(ValueError, match=r"text ' \.' holds no word"):
        Vocabulary().encode(" .")
    with pytest.raises(ValueError, match="word 'a' comes twice"):
        Vocabulary(["a", "b", "a"])


@pytest.mark.parametrize("cached", [True, False])
def test_word_vectors(vectors, tmp_path, cached):
    cache = tmp_path / "cache" if cached else None
    vocabulary = Vocabulary(["zebra", "box", "red", "."])
    for _ in range(2):
        known, table = load_word_vectors(vectors, vocabulary, cache)
        assert known.to_list() == ["box", "red"]
        assert known.encode("the red zebra") == [1, 3, 1]
        torch.testing.assert_close(table, torch.tensor([[0.0, 0], [4, 5.5], [5, 7], [3, 4]]))


def test_cache_is_read_and_follows_file_and_vocabulary(vectors, tmp_path):
    cache = tmp_path / "cache"
    vocabulary = Vocabulary(["red"])
    load_word_vectors(vectors, vocabulary, cache)
    (kept,) = cache.iterdir()
    np.savez(kept, words=np.array(["red"]), vectors=np.array([[8, 8]], dtype=np.float32))
    assert load_word_vectors(vectors, vocabulary, cache)[1][2].tolist() == [8, 8]
    assert load_word_vectors(vectors, Vocabulary(["box"]), cache)[1][2].tolist() == [5, 7]
    os.utime(vectors, (1, 1))
    assert load_word_vectors(vectors, vocabulary, cache)[1][2].tolist() == [3, 4]


@pytest.mark.parametrize("damage", [b"", b"PK", b"text", None])
def test_a_damaged_cache_is_made_again_and_one_that_cannot_be_written_is_done_without(vectors, tmp_path, damage):
    cache, vocabulary = tmp_path / "cache", Vocabulary(["red"])
    expected = load_word_vectors(vectors, vocabulary, cache)[1]
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    if damage is None:
        kept.unlink()
        kept.mkdir()
    else:
        kept.write_bytes(damage)
    assert load_word_vectors(vectors, vocabulary, cache)[1].equal(expected)
    assert kept.is_dir() if damage is None else len(kept.read_bytes()) == len(whole)


def test_header_of_word2vec_is_skipped(tmp_path):
    (tmp_path / "v.txt").write_text("2 2\nred 3 4\nbox 5 7\n")
    _, table = load_word_vectors(tmp_path / "v.txt", Vocabulary(["red", "2"]))
    assert table[2:].tolist() == [[3, 4]]


def test_an_offset_tells_words_with_one_vector_apart_by_the_word_alone(tmp_path):
    rng = np.random.default_rng(0)
    one, other = (rng.standard_normal(400).astype(np.float32) * size + 3 for size in (1, 5))
    rows = {"first": one, "second": one, "box": other, "third": one}
    (tmp_path / "v.txt").write_text("".join(f"{w} {' '.join(map(str, v))}\n" for w, v in rows.items()))
    words, plain = load_word_vectors(tmp_path / "v.txt", Vocabulary(list(rows)))
    assert words_that_share(words, plain) == [["first", "second", "third"]]
    words, table = load_word_vectors(tmp_path / "v.txt", Vocabulary(list(rows)), offset=0.5)
    assert words_that_share(words, table) == []
    noise = (table[2:] - plain[2:]) / (0.5 * plain[2:].std(1, correction=0, keepdim=True))
    assert noise.mean(1).abs().max() < 0.15
    torch.testing.assert_close(noise.std(1), torch.ones(4), atol=0.1, rtol=0)
    assert torch.corrcoef(noise).fill_diagonal_(0).abs().max() < 0.2
    torch.testing.assert_close(table[1], table[2:].mean(0))
    for offset in (-1.0, 1e4, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"offset is {offset}; give a number from 0 to 100"):
            load_word_vectors(tmp_path / "v.txt", Vocabulary(list(rows)), offset=offset)
    fewer, again = load_word_vectors(tmp_path / "v.txt", Vocabulary(["third", "first"]), tmp_path, offset=0.5)
    for word in fewer.to_list():
        assert again[fewer.encode(word)].equal(table[words.encode(word)])


@pytest.mark.parametrize("line", ["red 1", "red 1 x", "red 1 nan"])
def test_bad_vector_is_named(tmp_path, line):
    (tmp_path / "v.txt").write_text(f"the 1 2\n{line}\n")
    with pytest.raises(ValueError, match=r"v\.txt, line 2: expected 'red' and 2 finite numbers after it"):
        load_word_vectors(tmp_path / "v.txt", Vocabulary(["red"]))


def test_missing_file_and_no_match_say_what_to_do(vectors):
    with pytest.raises(FileNotFoundError, match="any file in GloVe's text format does"):
        load_word_vectors(vectors.parent / "x.txt", Vocabulary(["red"]))
    with pytest.raises(ValueError, match="a vector for none of the 1 words"):
        load_word_vectors(vectors, Vocabulary(["zebra"]))


@pytest.mark.slow
def test_real_vectors_cover_the_training_splits(data_root, tmp_path):
    path = data_root / "word_vectors" / "vectors.300d.txt"
    vectors = [line.partition(" ")[2] for line in path.read_text().splitlines()]
    assert (len(vectors), len(set(vectors))) == (15840, 2675)
    splits = {
        "charades": load_charades(data_root / "charades_sta", "train"),
        "refcoco": load_refcoco(data_root / "refcoco", "refcoco", "train"),
        "flickr30k": load_flickr30k(data_root / "flickr30k_entities", "train"),
    }
    for name, queries in splits.items():
        texts = [query.text for query in queries]
        known, table = load_word_vectors(path, Vocabulary.from_texts(texts), tmp_path)
        assert table.shape == (len(known), 300)
        assert not table[0].any()
        numbers = np.concatenate([known.encode(text) for text in texts])
        assert (numbers == 1).mean() < 0.02, name
