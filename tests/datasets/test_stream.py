"""Queries that stay in their file are those of the list, whatever is asked of them and whatever is wrong with lines."""

import json
import logging
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relgrounding.datasets import _stream, columns, load_own, stream_own
from relgrounding.datasets._fingerprint import queries_digest
from relgrounding.datasets._stream import IndexedQueries, SeenIds, _index, first_rows
from relgrounding.io import BadAnnotation, DataError, Problems
from relgrounding.io._lines import read_lines
from relgrounding.modalities._batches import OneQueryPerItem, identities
from relgrounding.training._task import hold_out

WORDS = ["Straße", "red", "RED", "door", "café", "the", "person", "opens", "人", "a"]
LINE = {"video": "v1", "duration": 10.0, "query": "the red door", "segment": [1, 3]}


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RELGROUNDING_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def indexes():
    return sorted(p for p in (Path(os.environ["RELGROUNDING_CACHE"]) / "queries").iterdir() if p.is_dir())


sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
good = st.fixed_dictionaries(
    {"video": st.sampled_from(["v1", "v2", "v3"]), "duration": st.just(10.0), "query": sentences},
    optional={
        "id": st.sampled_from(["x", "y", "3", 4]),
        "segment": st.sampled_from([[1, 3], [8, 11.5], [2, 2]]),
        "segments": st.sampled_from([[], [[0, 1], [2, 12]]]),
        "kind": st.sampled_from(["", "door"]),
        "split": st.sampled_from(["train", "test"]),
        "image": st.just("i"),
    },
)
bad = st.sampled_from(
    ['{"video": ', "[1]", "", "  ", '{"video": "v1", "duration": 9.0, "query": "a"}', '{"video": "v9"}']
)
lines_of_files = st.lists(st.one_of(good.map(json.dumps), bad), max_size=12)


def outcome(load, path, split, on_error):
    """All that loading does: what it returns or raises, what it leaves out and what it notes."""
    problems = Problems(on_error)
    try:
        found = load(path, "video", split, problems)
    except DataError as error:
        return type(error), str(error)
    return list(found.queries), found.durations, found.sizes, problems.counts, problems.notes


@settings(max_examples=20)
@given(
    lines_of_files, st.sampled_from([None, "train"]), st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "\ufeff"])
)
def test_the_same_as_the_list(lines, split, end, mark):
    path = Path(os.environ["RELGROUNDING_CACHE"]) / "q.jsonl"
    path.write_bytes((mark + end.join(lines)).encode())
    for on_error in ("skip", "stop", "skip"):  # made, stopped or found, found
        assert outcome(stream_own, path, split, on_error) == outcome(load_own, path, split, on_error)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.sampled_from("abc"), sentences, st.booleans()), min_size=1, max_size=12), st.data())
def test_columns_of_any_part_are_those_of_the_list(facts, data):
    path = Path(os.environ["RELGROUNDING_CACHE"]) / "q.jsonl"
    write(
        path,
        *({"image": item, "query": text} | ({"box": [0, 0, 1, 1]} if answer else {}) for item, text, answer in facts),
    )
    listed, streamed = (load(path, "image").queries for load in (load_own, stream_own))
    rows = np.array(data.draw(st.lists(st.integers(0, len(facts) - 1), unique=True)), dtype=np.int64)
    for part, other in ((listed, streamed), (columns(listed).take(rows), streamed.take(rows))):
        assert list(other) == list(part) == [other[i] for i in range(len(other))]
        one, two = columns(part), columns(other)
        assert list(two.words()) == list(one.words())
        assert two.word_counts() == one.word_counts()
        for name in ("lengths", "answered", "texts"):
            assert getattr(two, name)().tolist() == getattr(one, name)().tolist(), name
        for name in ("items", "units"):
            (names, number), (others, places) = getattr(one, name)(), getattr(two, name)()
            assert (others, places.tolist()) == (names, number.tolist())
        assert [t.tolist() for t in identities(other)] == [t.tolist() for t in identities(part)]
        assert queries_digest([other, streamed], {}) == queries_digest([part, listed], {})
        # By their definitions: every item once, by its last use, with the first of its queries.
        ids = {query.item: i for i, query in reversed(list(enumerate(part)))}
        assert [i for batch in OneQueryPerItem(other, 2) for i in batch] == list(ids.values())[::-1]
        halves = hold_out(part, 0.4, 1)
        assert [list(half) for half in hold_out(other, 0.4, 1)] == list(halves)
        assert not {q.item for q in halves[0]} & {q.item for q in halves[1]}


def test_many_queries_with_few_in_memory_at_a_time(tmp_path, monkeypatch):
    """Buffers and chunks smaller than the file: what is joined is whole."""
    monkeypatch.setattr(_index, "BUFFER", 7)
    monkeypatch.setattr(_index, "RECENT", 5)
    monkeypatch.setattr(_index, "SHARE", 6)
    monkeypatch.setattr("relgrounding.datasets._stream._queries.CHUNK", 10)
    monkeypatch.setattr("relgrounding.datasets._stream._queries.LINE", 16)
    lines = [LINE | {"id": f"q{i % 45}", "query": " ".join(WORDS[: 1 + i % 9]) + f" {i % 13}"} for i in range(50)]
    path = write(tmp_path / "q.jsonl", *lines)
    assert outcome(stream_own, path, None, "skip") == outcome(load_own, path, None, "skip")
    listed, streamed = (
        load_own(path, "video", problems=Problems("skip")),
        stream_own(path, "video", problems=Problems("skip")),
    )
    assert len(streamed.queries) == 45
    for part, other in ((listed.queries, streamed.queries), (listed.queries[30:4:-3], streamed.queries[30:4:-3])):
        assert list(other.words()) == list(columns(part).words())
        assert other.texts().tolist() == columns(part).texts().tolist()
        assert (other.items()[0], other.items()[1].tolist()) == (["v1"], [0] * len(part))
    assert list(pickle.loads(pickle.dumps(streamed.queries[3:40:2]))) == listed.queries[3:40:2]


def test_ids_are_seen_as_in_a_set(monkeypatch):
    monkeypatch.setattr(_index, "RECENT", 4)
    drawn, seen, known = np.random.default_rng(0).integers(0, 60, 200).astype(str).tolist(), SeenIds(), set()
    for name in drawn:
        assert (name in seen) == (name in known)
        seen.add(name)
        known.add(name)


def test_an_interrupted_index_starts_over_and_a_damaged_one_is_made_again(tmp_path, monkeypatch):
    path, before = write(tmp_path / "q.jsonl", LINE, LINE), indexes()
    add = _stream.IndexWriter.add

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(_stream.IndexWriter, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        stream_own(path, "video")
    assert indexes() == before
    monkeypatch.setattr(_stream.IndexWriter, "add", add)
    wanted = load_own(path, "video").queries
    assert list(stream_own(path, "video").queries) == wanted
    (index,) = set(indexes()) - set(before)
    (index.parent / f".{index.name}.12345678.part").mkdir()  # of a process that was killed
    (index / "begin").write_bytes(b"short")
    assert list(stream_own(path, "video").queries) == wanted
    (index / "facts.json").unlink()
    assert list(stream_own(path, "video").queries) == wanted
    assert set(indexes()) - set(before) == {index}


@pytest.mark.parametrize("name", [*_index.COLUMNS, "facts.json", "sums.json"])
def test_a_damaged_index_is_named_and_made_again(tmp_path, caplog, name):
    """Whatever is in it, and though it is as long as it should be."""
    path, before = write(tmp_path / "q.jsonl", LINE, LINE | {"query": "another one"}, {"id": name} | LINE), indexes()
    wanted = load_own(path, "video").queries
    assert list(stream_own(path, "video").queries) == wanted
    assert not caplog.messages
    (index,) = set(indexes()) - set(before)
    whole = (index / name).read_bytes()
    for content in (b"\xff" * len(whole), whole[:-1], b"", bytes([whole[0] ^ 1]) + whole[1:], None):
        caplog.clear()
        (index / name).write_bytes(content) if content is not None else (index / name).unlink()
        streamed = stream_own(path, "video").queries
        assert (list(streamed), list(streamed.words())) == (wanted, list(columns(wanted).words()))
        assert len(caplog.messages) == 1
        assert re.search(rf"{index}: .*; it is the index of {path}, and is made again", caplog.messages[0])
        assert (index / name).read_bytes() == whole


def test_a_damaged_line_that_is_kept_is_made_again(tmp_path):
    path, before = write(tmp_path / "q.jsonl", LINE), indexes()
    digest = queries_digest([stream_own(path, "video").queries], {})
    (index,) = set(indexes()) - set(before)
    (kept,) = index.glob("*.txt")
    kept.write_text(kept.read_text().replace(digest[0], "f" if digest[0] != "f" else "e", 1))
    assert queries_digest([stream_own(path, "video").queries], {}) == digest


def test_a_file_that_changes_is_noticed(tmp_path):
    path = write(tmp_path / "q.jsonl", LINE, LINE | {"video": "v2"})
    first, copied = stream_own(path, "video").queries, None
    copied = pickle.dumps(first)
    assert first[1].item == "v2"
    whole = path.read_text()
    path.write_text(whole.replace("red", "odd"))  # in place: as long as before, with the same items
    os.utime(path, (1, 1))
    with pytest.raises(BadAnnotation, match=r"q\.jsonl: changed since it was opened; start again"):
        first[0]
    write(path, LINE | {"video": "v2"}, LINE)
    with pytest.raises(BadAnnotation, match=r"q\.jsonl: changed since it was opened; start again"):
        pickle.loads(copied)[0]
    assert [query.item for query in stream_own(path, "video").queries] == ["v2", "v1"]


def test_what_was_left_out_is_said_again_by_a_kept_index(tmp_path, caplog):
    path = write(tmp_path / "q.jsonl", *[{"video": "v"}] * 14, LINE, LINE | {"segment": [8, 11]})
    said = []
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            problems = Problems("skip")
            assert len(stream_own(path, "video", problems=problems).queries) == 2
        said.append([record.message for record in caplog.records])
        assert problems.counts == {"BadAnnotation": 14}
    assert said[0] == said[1]
    assert len(said[0]) == 12
    assert "line 10" in said[0][9]
    assert "segments cut" in said[0][-1]


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path):
    path = tmp_path / "q.jsonl"
    for content in (b'{"video": "v1", "duration": 9.0, "query": "a"}\n\xff\n', "x".encode("utf-16")):
        path.write_bytes(content)
        assert outcome(stream_own, path, None, "skip") == outcome(load_own, path, None, "skip")


def test_lines_without_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("relgrounding.io._lines.LONGEST", 20)
    (tmp_path / "q.jsonl").write_text("{}\n" + "x" * 30)
    with pytest.raises(BadAnnotation, match="line 2: longer than 20 bytes; write one object per line"):
        list(read_lines(tmp_path / "q.jsonl"))


def test_first_rows():
    assert first_rows(np.array([2, 0, 2, 0]), 4).tolist() == [1, 4, 0, 4]
    number = np.random.default_rng(0).integers(0, 90_000, 150_000)  # of more than one chunk
    found, first = np.unique(number, return_index=True)
    expected = np.full(90_000, len(number))
    expected[found] = first
    assert (first_rows(number, 90_000) == expected).all()


def test_a_large_file_streams_by_itself(tmp_path, monkeypatch):
    from relgrounding.datasets.own import Own

    write(tmp_path / "q.jsonl", LINE)
    kinds = {}
    for stream in ("auto", "true", "false"):
        own = Own(Own.Config(queries=str(tmp_path / "q.jsonl"), stream=stream), item="video")
        write(tmp_path / "q.jsonl", LINE | {"split": "train"})
        kinds[stream] = [isinstance(own.read("train").queries, IndexedQueries)]
        monkeypatch.setattr("relgrounding.datasets.own.STREAMED_FROM", 10)
        kinds[stream] += [isinstance(own.read("train").queries, IndexedQueries)]
        monkeypatch.undo()
    assert kinds == {"auto": [False, True], "true": [True, True], "false": [False, False]}
