"""Pickles of plain data come back; those that call something, or are damaged, end in a documented error."""

import collections
import pickle
import pickletools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relgrounding.datasets import load_refcoco
from relgrounding.io import UnsafeFile, load_charades_glove, load_plain_pickle
from tests.io.bad_inputs import damaged, read, refcoco, refs

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner, max_size=3)
        | st.sets(st.integers())
    ),
    max_leaves=8,
)


class Harmful:
    def __reduce__(self):
        return (print, ("this must not run",))


@given(PLAIN, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_data_comes_back_under_every_protocol(tmp_path_factory, value, protocol):
    path = tmp_path_factory.mktemp("plain") / "x.p"
    path.write_bytes(pickle.dumps(value, protocol))
    assert load_plain_pickle(path) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("load", [load_plain_pickle, load_charades_glove])
def test_code_is_refused_and_named(tmp_path, capsys, load, protocol):
    path = tmp_path / "x.p"
    path.write_bytes(pickle.dumps({"a": [Harmful()]}, protocol))
    with pytest.raises(
        pickle.UnpicklingError, match=r"x\.p asks for (builtins|__builtin__)\.print, which is not plain"
    ):
        load(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("value", [collections.OrderedDict(a=1), np.zeros(2), collections.Counter("ab"), 1j, dict])
def test_plain_loader_refuses_what_is_not_plain(tmp_path, value):
    (tmp_path / "x.p").write_bytes(pickle.dumps(value))
    with pytest.raises(pickle.UnpicklingError, match="not plain data"):
        load_plain_pickle(tmp_path / "x.p")


@pytest.mark.parametrize(
    ("name", "attribute"),
    [(b"collections\nCounter", b"most_common"), (b"_codecs\nencode", b"__defaults__"), (b"numpy\ndtype", b"__new__")],
)
def test_a_pickle_cannot_change_what_it_may_call(tmp_path, name, attribute):
    before = collections.Counter.most_common
    # GLOBAL, then BUILD with the state (None, {attribute: ()}), which Python's own unpickler sets on the class
    (tmp_path / "x.p").write_bytes(b"\x80\x02c" + name + b"\nN}U" + bytes([len(attribute)]) + attribute + b")s\x86b.")
    with pytest.raises(pickle.UnpicklingError, match=r"x\.p is not a pickle .*: it changes a class or function"):
        load_charades_glove(tmp_path / "x.p")
    assert collections.Counter.most_common is before


@pytest.mark.parametrize("load", [load_plain_pickle, load_charades_glove])
@pytest.mark.parametrize("content", [b"", b"abc", b"<html>", pickle.dumps({"a": [1, 2, 3]})[:-4]])
def test_a_damaged_pickle_is_named(tmp_path, load, content):
    (tmp_path / "x.p").write_bytes(content)
    with pytest.raises(
        pickle.UnpicklingError, match=r"x\.p is not a pickle of plain data, or damaged: .*download it again"
    ):
        load(tmp_path / "x.p")


def test_python_2_strings_are_text(tmp_path):
    (tmp_path / "x.p").write_bytes(b"(lp0\nS'caf\\xc3\\xa9'\np1\naV\\u00e9\np2\na.")
    assert load_plain_pickle(tmp_path / "x.p") == ["caf\u00e9", "\u00e9"]


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["<f4", ">f8"])
def test_glove_tables_come_back(tmp_path, protocol, dtype):
    vectors = np.arange(6, dtype=dtype).reshape(2, 3)
    content = {"w2id": {"a": 0, "b": 1}, "id2vec": list(vectors), "counter": collections.Counter(a=2)}
    (tmp_path / "x.p").write_bytes(pickle.dumps(content, protocol))
    words, table, counts = load_charades_glove(tmp_path / "x.p")
    np.testing.assert_array_equal(table, vectors)
    assert table.dtype == np.float32
    assert (words, counts) == ({"a": 0, "b": 1}, collections.Counter(a=2))


@pytest.mark.parametrize(
    "array", [np.array(["a"], dtype=object), np.array([1]), np.array([1j]), np.zeros(1, dtype=[("x", "f4")])]
)
def test_glove_loader_refuses_arrays_of_anything_but_floats(tmp_path, array):
    content = {"w2id": {"a": 0}, "id2vec": [array], "counter": collections.Counter()}
    (tmp_path / "x.p").write_bytes(pickle.dumps(content, 2))
    with pytest.raises(pickle.UnpicklingError, match="expected numbers"):
        load_charades_glove(tmp_path / "x.p")


def test_glove_loader_names_another_file(tmp_path):
    (tmp_path / "x.p").write_bytes(pickle.dumps({"w2id": {}}))
    with pytest.raises(ValueError, match="not a dict of w2id, id2vec, counter"):
        load_charades_glove(tmp_path / "x.p")
    (tmp_path / "x.p").write_bytes(pickle.dumps({"w2id": {"a": 0}, "id2vec": [], "counter": collections.Counter()}))
    with pytest.raises(ValueError, match="w2id has 1 words and id2vec 0 entries"):
        load_charades_glove(tmp_path / "x.p")
    (tmp_path / "x.p").write_bytes(pickle.dumps({"w2id": 3, "id2vec": [], "counter": {}}))
    with pytest.raises(ValueError, match="expected a dict w2id, a list id2vec and a Counter counter"):
        load_charades_glove(tmp_path / "x.p")


def test_real_glove_file(data_root):
    path = data_root / "word_vectors" / "charades_glove.pkl"
    words, vectors, counts = load_charades_glove(path)
    assert vectors.shape == (1146, 300)
    assert sorted(words.values()) == list(range(1146))
    assert counts["person"] == 13717
    names = {arg for op, arg, _ in pickletools.genops(path.read_bytes()) if op.name == "GLOBAL"}
    assert "collections Counter" in names  # the file is worth being careful with
    with pytest.raises(pickle.UnpicklingError, match="not plain data"):
        load_plain_pickle(path)


class Attack:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_damaged_pickles(tmp_path):
    random = np.random.default_rng(3)
    for protocol in (0, 2, 4):
        content = pickle.dumps(refs(), protocol)
        for _ in range(100):
            refcoco(tmp_path, damaged(content, random))
            read(load_refcoco, tmp_path, "refcoco", "val")


def test_damaged_instances(tmp_path):
    random = np.random.default_rng(4)
    content = refcoco(tmp_path, pickle.dumps(refs()))
    for _ in range(150):
        refcoco(tmp_path, pickle.dumps(refs()), damaged(content, random))
        read(load_refcoco, tmp_path, "refcoco", "val")


CALLS = [("os", "system"), ("builtins", "eval"), ("subprocess", "Popen"), ("shutil", "rmtree"), ("numpy", "load")]
CALLS += [("builtins", name) for name in ("exec", "open", "getattr", "__import__", "compile", "input")]
CALLS += [("pathlib", "Path"), ("relgrounding.features", "write_clip_features"), ("torch", "load"), ("pickle", "loads")]


@pytest.mark.parametrize("load", [load_plain_pickle, load_charades_glove])
def test_pickles_that_call_something(tmp_path, load):
    path, target = tmp_path / "bad.p", tmp_path / "written"
    path.write_bytes(pickle.dumps({"w2id": Attack(target)}))
    with pytest.raises(UnsafeFile, match="asks for "):
        load(path)
    for module, name in CALLS:
        for shape in (b"c%s\n%s\n(S'%s'\ntR.", b"(c%s\n%s\nS'%s'\no.", b"(lc%s\n%s\n(S'%s'\ntRa."):
            path.write_bytes(shape % (module.encode(), name.encode(), str(target).encode()))
            assert read(load, path)
    path.write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")  # a memo of 16 GB
    with pytest.raises(UnsafeFile, match="wants a table of 2147483647 places"):
        load(path)
    assert not target.exists()
