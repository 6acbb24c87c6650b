"""A folder of shards reads as one file does, whatever is asked of it, and says what is wrong with it."""

import json
import os
import pickle
import re
import shutil

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from relgrounding.features import (
    ClipFeatures,
    RegionFeatures,
    Regions,
    index_shards,
    open_features,
    write_region_features,
)
from relgrounding.features._stores import _Store
from relgrounding.features.shards import read_index, shard_name
from relgrounding.features.shards._lookup import tables
from relgrounding.io import BadFeatures, DataError, MissingFeatures, MissingFile, UnsafeFile

READERS = {"clips": ClipFeatures, "regions": RegionFeatures}
KINDS = pytest.mark.parametrize("kind", READERS)
ASKED = [
    "7",
    "07",
    "007",
    "7.jpg",
    "a",
    "a.avi",
    "a.mp4",
    "b",
    "COCO_val2014_000000000007",
    "",
    "/",
    ".",
    "é",
    "nobody",
]


def write(path, kind, items, attributes):
    """Write items, (id, seed), with features that depend on the seed."""
    if kind == "regions":
        write_region_features(path, [(key, image(seed)) for key, seed in items], attributes)
        return
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        for key, seed in items:
            file[key] = np.random.default_rng(seed).standard_normal((1 + seed % 3, 4)).astype(np.float16)
            if seed % 2:
                file[key].attrs["duration"] = float(seed)


def image(seed):
    draw = np.random.default_rng(seed)
    corner = draw.integers(0, 50, (2, 2))
    boxes = np.concatenate([corner, corner + 5 * (np.arange(2)[:, None] != seed % 3)], 1)  # some have no area
    return Regions(draw.standard_normal((2, 4)).astype(np.float16), boxes.astype(np.float32), (60 + seed, 70))


def write_store(folder, kind, parts, attributes=None):
    folder.mkdir()
    for number, items in enumerate(parts, 1):
        write(folder / shard_name(number, len(parts)), kind, items, attributes or {})
    index_shards(folder)
    return folder


@pytest.fixture(params=READERS)
def folder(request, tmp_path):
    parts = [[(f"v{i}", i) for i in range(4)], [(f"w{i}", i) for i in range(3)]]
    return write_store(tmp_path / "store", request.param, parts, {"description": "x"})


def answer(ask):
    try:
        return ask()
    except DataError as error:
        return type(error)


def answers(store):
    """Return everything that can be asked of a store, in an order that does not depend on that of its items."""
    found = {"ids": sorted(store.ids), "facts": (store.dim, len(store), store.attributes)}
    for key in ASKED:
        asked = (
            store.find,
            store.__getitem__,
            store.__contains__,
            getattr(store, "duration", getattr(store, "size", 0)),
        )
        found[key] = pickle.dumps([answer(lambda: ask(key)) for ask in asked])  # noqa: B023 - called at once
    if isinstance(store, RegionFeatures):
        found["counts"], found["left out"] = sorted(store.counts()), store.left_out
    return found


@KINDS
@settings(
    max_examples=8,
    phases=[phase for phase in Phase if phase != Phase.shrink],  # files are made for every example
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)
@example(ids=["7", "007"], homes=[0, 1], shards=2)
@example(ids=["07", "a.avi", "COCO_val2014_000000000007", "a.mp4"], homes=[2, 0, 1, 1], shards=3)
@given(
    ids=st.lists(st.sampled_from([key for key in ASKED if len(key) > 1 or key.isalnum()]), min_size=1, unique=True),
    homes=st.lists(st.integers(0, 3), min_size=14, max_size=14),
    shards=st.integers(1, 4),
)
def test_any_split_into_shards_reads_as_one_file_does(tmp_path, kind, ids, homes, shards):
    items = [(key, seed) for seed, key in enumerate(ids)]
    parts = [[item for item, home in zip(items, homes, strict=False) if home % shards == n] for n in range(shards)]
    parts = [part for part in parts if part]
    one, folder = tmp_path / "one.h5", tmp_path / "many"
    shutil.rmtree(folder, ignore_errors=True)
    write(one, kind, items, {"description": "é", "seed": 3})
    write_store(folder, kind, parts, {"description": "é", "seed": 3})
    store, expected = open_features(folder), answers(READERS[kind](one))
    assert isinstance(store, READERS[kind])
    assert answers(store) == expected
    assert answers(pickle.loads(pickle.dumps(store))) == expected


def changed(folder, change):
    """Change the index of a store."""
    content = json.loads((folder / "index.json").read_text())
    change(content)
    (folder / "index.json").write_text(json.dumps(content))


def set_shard(**values):
    return lambda content: content["shards"][1].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="zip"), "is not the index of a feature store"),
        (lambda c: c.update(version=2), "is of version 2, this release reads 1"),
        (lambda c: c.update(kind="words"), "its kind is words, expected clips or regions"),
        (lambda c: c.update(dim=10**30), "the index has dim '10{30}', expected a whole number"),
        *((lambda c, dim=dim: c.update(dim=dim), f"the index has dim '{re.escape(str(dim))}', expected a whole number")
          for dim in (True, -1, 4.0, "4", None, [4])),
        (lambda c: c.update(dim=0, kind="clips"), "the index has dim '0', expected a whole number from 1"),
        (lambda c: c.update(version=True), "is of version True, this release reads 1"),
        (lambda c: c.update(attributes=[1]), r"its attributes are '\[1\]', expected an object"),
        (lambda c: c.update(attributes={"source": [1]}), r"its attribute source is '\[1\]', expected text or a number"),
        (lambda c: c.update(items=8), "its ids are not ids.txt and ids.idx of 8 items"),
        (lambda c: c.update(shards={}), "its shards are not a list of files, but '{}'"),
        (lambda c: c["shards"].append(c["shards"][0]), "lists shard-00001-of-00002.h5 twice"),
        (lambda c: c["shards"].pop(), "its shards hold 4 items, not 7"),
        (set_shard(file="../other.h5"), "'../other.h5' is not the name of one of its shards"),
        (set_shard(file="/etc/passwd.h5"), "is not the name of one of its shards: it holds a separator"),
        (set_shard(file="ids.txt"), "'ids.txt' is not the name"),
        (set_shard(file=7), "'7' is not the name of one of its shards: it is not text"),
        (set_shard(items=-1), "has items '-1', expected a whole number"),
        (set_shard(bytes=1e300), "has bytes '1e[+]300', expected a whole number"),
        (set_shard(sha256="0"), "has the sha256 '0', expected 64 digits"),
        (set_shard(bytes=7), r"[\d,]+ bytes, by index.json it should have 7: it is half-written or another one"),
    ],
)  # fmt: skip
def test_an_index_that_cannot_be_used_says_why(folder, change, message):
    changed(folder, change)
    with pytest.raises(BadFeatures, match=message) as error:
        open_features(folder)
    assert f"relgrounding prepare index {folder} makes it again" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 10**5, "nested too deeply"),
        ('{"items": ' + "9" * 5000 + "}", "a number has thousands of digits"),
        ('{"items": 1, "items": 2}', "key 'items' comes twice"),
        ('{"format": ', "is not JSON, or cut off"),
        ("\xff", "is not UTF-8"),
        (" " * (2**24 + 1), "bytes, more than any index"),
    ],
    ids=["deep", "digits", "twice", "cut", "bytes", "long"],
)
def test_an_index_that_is_not_json_is_named(folder, text, message):
    (folder / "index.json").write_bytes(text.encode("latin1"))
    with pytest.raises(BadFeatures, match=message):
        open_features(folder)


@pytest.mark.parametrize("name", ["index.json", "ids.txt", "ids.idx", "shard-00002-of-00002.h5"])
def test_only_regular_files_of_the_folder_are_read(folder, name):
    (folder.parent / "elsewhere").mkdir()
    outside = folder.parent / "elsewhere" / name
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(UnsafeFile, match=f"{name} is a link out of its folder"):
        open_features(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(UnsafeFile, match=f"{name} is a FIFO, not a regular file"):
        open_features(folder)
    (folder / name).unlink()
    with pytest.raises(MissingFile, match=f"{name} is missing, and index.json" if name != "index.json" else "no index"):
        open_features(folder)


def test_shards_that_are_missing_or_half_written_are_named(folder):
    name, reader = shard_name(2, 2), open_features(folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(BadFeatures, match=f"{name} has .* it is half-written or another one; copy or make it again"):
        open_features(folder)
    with pytest.raises(BadFeatures, match=name):
        _ = [reader[key] for key in reader.ids]
    with pytest.raises(BadFeatures, match=f"{name} is damaged, cut off or not HDF5"):
        index_shards(folder)
    (folder / name).unlink()
    with pytest.raises(MissingFile, match=rf"{name} is missing, and index\.json names it; copy it, or make it again"):
        open_features(folder)
    with pytest.raises(MissingFile, match="holds 1 of 2 shards; number 2 is missing: make it with --shard 2/2"):
        index_shards(folder)
    (folder / f"{name}.part").touch()
    (folder / name).write_bytes(content)
    with pytest.raises(BadFeatures, match=rf"{name}\.part is what an interruption left: {name} is unfinished"):
        index_shards(folder)


def test_an_item_in_two_shards_is_named_with_both(folder):
    kind = read_index(folder).kind
    write(folder / shard_name(2, 2), kind, [("v1", 1), ("w1", 5), ("w2", 2)], {"description": "x"})
    first, second = shard_name(1, 2), shard_name(2, 2)
    message = f"'v1' is in {first} and {second}; each item belongs in one shard: make one of them again without it"
    with pytest.raises(BadFeatures, match=message):
        index_shards(folder)
    names = (folder / "ids.txt").read_text().replace("w0", "v1").split()
    retable(folder, names)
    with pytest.raises(BadFeatures, match=message):
        open_features(folder)["v1"]
    (folder / second).unlink()
    (folder / first).rename(folder / shard_name(1, 3))
    write(folder / shard_name(2, 4), kind, [("x", 1)], {})
    with pytest.raises(BadFeatures, match="holds shards of 3 and of 4; remove those that do not belong to it"):
        index_shards(folder)


def retable(folder, names):
    """Let the index have other ids than the shards, consistently."""
    contents = dict(zip(("ids.txt", "ids.idx"), tables(names), strict=True))
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    files = [(path.name, path.stat().st_size) for path in folder.iterdir()]
    changed(folder, lambda c: [f.update(bytes=s) for f in c["ids"] + c["shards"] for n, s in files if n == f["file"]])


def test_what_the_table_says_is_compared_with_the_shard(folder):
    names = (folder / "ids.txt").read_text().split()
    names[0], names[-1], names[2] = names[-1], names[0], "other"
    retable(folder, names)
    store = open_features(folder)
    for key in ("v0", "w2", "other"):
        with pytest.raises(BadFeatures, match=f"relgrounding prepare index {folder} makes the index again"):
            store[key]
    assert len(store["v1"]) > 0


def test_damaged_tables_and_shards_never_answer_wrongly(folder):
    draw = np.random.default_rng(0)
    expected = {
        key: pickle.dumps(value) for key, value in ((k, open_features(folder)[k]) for k in open_features(folder).ids)
    }
    for name in ("ids.idx", "ids.txt", "index.json"):
        whole = (folder / name).read_bytes()
        for _ in range(25):
            content = bytearray(whole)
            for place in draw.integers(0, len(content), draw.integers(1, 4)):
                content[place] = draw.choice([0, 1, 255, content[place] ^ 1 << draw.integers(8)])
            (folder / name).write_bytes(content)
            store = answer(lambda: open_features(folder))
            for key, value in expected.items() if isinstance(store, _Store) else ():
                found = answer(lambda: pickle.dumps(store[key]))  # noqa: B023 - called at once
                assert found == value or isinstance(found, type)
        (folder / name).write_bytes(whole)


@pytest.mark.parametrize("name", ["ids.idx", "ids.txt"])
def test_an_id_that_a_damaged_table_does_not_lead_to_is_not_said_to_be_missing(folder, name):
    with pytest.raises(MissingFeatures, match="no features of 'x7'"):
        open_features(folder)["x7"]
    (folder / name).write_bytes(b"\xff" * (folder / name).stat().st_size)
    store = open_features(folder)
    for key in ("v0", "x7"):
        with pytest.raises(
            BadFeatures, match=f"{name} is damaged: .*; relgrounding prepare index {folder} makes it again"
        ):
            store[key]


def test_a_store_of_another_kind_or_width_is_refused(folder):
    kind = read_index(folder).kind
    other = next(name for name in READERS if name != kind)
    with pytest.raises(BadFeatures, match=f"holds features of {kind}, expected {other}; name another store"):
        open_features(folder, other)
    with pytest.raises(DataError, match=r"is a folder, not a regular file; features\.open_features reads a folder"):
        READERS[kind](folder)
    for dim in (5, 0) if kind == "regions" else (5,):
        changed(folder, lambda content: content.update(dim=dim))  # noqa: B023 - called at once
        store = open_features(folder)
        for ask in (lambda: store["v0"], lambda: store.dim, lambda: store["v0"]):  # noqa: B023 - called at once
            with pytest.raises(
                BadFeatures,
                match=rf"{shard_name(1, 2)} has features of width 4, and dim is {dim} in .*{folder}/index\.json",
            ):
                ask()
    write(folder / shard_name(2, 2), other, [("x", 1)], {})
    with pytest.raises(
        BadFeatures, match=f"{shard_name(2, 2)} holds {other} of width 4, .* {kind} of width 4; one store"
    ):
        index_shards(folder)
    with pytest.raises(MissingFile, match="holds no shards, files such as"):
        index_shards(folder.parent)


# what Python 3.12 warns of is what is tested: a process with threads that forks
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_used_store_survives_a_fork_and_opens_a_few_shards_at_once(folder, monkeypatch):
    monkeypatch.setattr("relgrounding.features.shards._stores.MOST_OPEN", 1)
    store = open_features(folder)
    expected = [pickle.dumps(store[key]) for key in store.ids]
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, bytes([[pickle.dumps(store[key]) for key in store.ids] == expected]))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1) == b"\1"
    assert len(store._shards) == 1
    assert len(pickle.dumps(store)) < 2000
