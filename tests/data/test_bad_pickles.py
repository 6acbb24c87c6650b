"""Bad pickles: damaged ones end in a documented error, and nothing that they call is called."""

import pickle

import numpy as np
import pytest
from bad_inputs import damaged, read, refcoco, refs

from relgrounding.datasets import load_refcoco
from relgrounding.io import UnsafeFile, load_charades_glove, load_plain_pickle


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
