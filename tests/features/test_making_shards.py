"""Shards made by one process or by several, interrupted or not, hold each item once and become one store."""

import json
import re

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from relgrounding._settings import ConfigError
from relgrounding.datasets._fingerprint import file_digest
from relgrounding.features import ClipFeatures, index_shards, open_features
from relgrounding.features.convert import convert_features
from relgrounding.features.convert._output import Output
from relgrounding.features.shards import read_index, shard_name
from relgrounding.io import BadFeatures, DataError, MissingFile
from relgrounding.modalities._inputs import Stores
from tests.datasets.checking import verify_config
from tests.features.test_extract import Fake
from tests.features.test_shards import KINDS, READERS, write, write_store
from tests.training import own
from tests.training.test_own_data import run as train
from tools import extract as extract_tool
from tools import prepare

ATTRIBUTES = {"source": '{"model": "m"}', "warning": "random weights", "description": "x"}


def source(path, kind, count=7):
    write(path, kind, [(f"v{i:02}", i) for i in range(count)], ATTRIBUTES)
    return path


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same_items(store, other):
    """Whether two stores hold the same items in the same order, and say the same about them."""
    assert (store.ids, store.dim) == (other.ids, other.dim)
    for key in store.ids:
        np.testing.assert_equal(store[key], other[key])
        assert getattr(store, "duration", lambda _: 0)(key) == getattr(other, "duration", lambda _: 0)(key)


@KINDS
@settings(
    max_examples=6,
    phases=[phase for phase in Phase if phase != Phase.shrink],  # files are made for every example
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)
@given(count=st.integers(1, 8), again=st.integers(1, 8), shards=st.integers(1, 8))
def test_a_file_and_a_folder_of_shards_convert_into_each_other(tmp_path_factory, kind, count, again, shards):
    folder = tmp_path_factory.mktemp("convert")
    one, shards, again = source(folder / "one.h5", kind, count), min(shards, count), min(again, count)
    made = convert_features(one, folder / "many", shards=shards)
    assert (made.items, made.complete, len(read_index(folder / "many").shards)) == (count, True, shards)
    convert_features(folder / "many", folder / "others", shards=again)
    convert_features(folder / "others", folder / "back.h5")
    convert_features(one, folder / "directly.h5")
    expected = READERS[kind](folder / "directly.h5")
    for name in ("many", "others", "back.h5"):
        found = open_features(folder / name)
        same_items(found, expected)
        assert {key: found.attributes[key] for key in ("source", "warning")} == {
            key: ATTRIBUTES[key] for key in ("source", "warning")
        }
    assert min(shard.items for shard in read_index(folder / "many").shards) > 0


@KINDS
@pytest.mark.parametrize("stop_at", [0, 2, 5, 6])
def test_an_interrupted_conversion_to_shards_goes_on_and_ends_the_same(tmp_path, monkeypatch, kind, stop_at):
    one = source(tmp_path / "one.h5", kind)
    convert_features(one, tmp_path / "whole", shards=3)
    written = []

    def count(self, item, write=Output.write):
        if len(written) == stop_at:
            raise KeyboardInterrupt
        written.append(self.entries[self.done].id)
        write(self, item)

    with monkeypatch.context() as patch:
        patch.setattr(Output, "write", count)
        with pytest.raises(KeyboardInterrupt):
            convert_features(one, tmp_path / "many", shards=3)
    with pytest.raises(DataError, match=r"unfinished|missing|no shards"):
        open_features(tmp_path / "many")
    made = convert_features(one, tmp_path / "many", shards=3)
    assert made.resumed == stop_at
    assert content(tmp_path / "many") == content(tmp_path / "whole")
    convert_features(one, tmp_path / "many", shards=3, float16=kind == "regions")  # what is there, or all of it anew
    assert open_features(tmp_path / "many").ids == READERS[kind](one).ids


@KINDS
def test_shards_made_one_by_one_in_any_order_are_those_made_together(tmp_path, kind):
    one = source(tmp_path / "one.h5", kind)
    convert_features(one, tmp_path / "together", shards=3)
    for number, complete in ((3, False), (1, False), (3, False), (2, True), (2, True)):
        made = convert_features(one, tmp_path / "alone", shards=3, wanted=[number])
        assert (made.complete, (tmp_path / "alone" / "index.json").exists()) == (complete, complete)
    assert content(tmp_path / "alone") == content(tmp_path / "together")
    assert file_digest(tmp_path / "alone") == file_digest(tmp_path / "together")
    before = content(tmp_path / "alone")
    source(one, kind, 8)
    with pytest.raises(BadFeatures, match=r"alone was begun with items 7 of one\.h5, this call has 8 of one\.h5; give"):
        convert_features(one, tmp_path / "alone", shards=3, wanted=[1])
    assert content(tmp_path / "alone") == before
    assert not convert_features(one, tmp_path / "alone", shards=3, wanted=[1], replace=True).complete
    with pytest.raises(BadFeatures, match="were made of different files or with different settings; make one again"):
        index_shards(tmp_path / "alone")


def test_shards_of_other_settings_are_refused_before_the_first_is_complete(tmp_path, monkeypatch):
    one, store = source(tmp_path / "one.h5", "clips"), tmp_path / "store"
    pca = tmp_path / "new.pca.npz"
    convert_features(one, tmp_path / "new", shards=2, pca=2)
    with monkeypatch.context() as patch:
        patch.setattr(Output, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            convert_features(one, store, shards=2, wanted=[1], pca=pca)
    before = content(store)
    for number in (1, 2):
        with pytest.raises(BadFeatures, match="store was begun with pca 2 of 4, this call has none; give all"):
            convert_features(one, store, shards=2, wanted=[number])
    with pytest.raises(BadFeatures, match="begun with type float32, this call has float16"):
        convert_features(one, store, shards=2, wanted=[2], float16=True, pca=pca)
    assert content(store) == before
    convert_features(one, store, shards=2, wanted=[1], pca=pca)
    (store / "made_of.json").unlink()  # as where shards were copied without it
    with pytest.raises(BadFeatures, match=rf"{shard_name(1, 2)} was made of other files, or with other settings"):
        convert_features(one, store, shards=2, wanted=[2])
    texts = ("", "made_of.json"), ("}", "does not say what"), (', "facts": 1}', "does not say what")
    for text, reason in ((f'{{"made_of": "1"{end}', reason) for end, reason in texts):
        (store / "made_of.json").write_text(text)
        with pytest.raises(BadFeatures, match=f"{reason}.*remove it, and what was made so far"):
            convert_features(one, store, shards=2, wanted=[2])
    assert convert_features(one, store, shards=2).complete  # a call that makes all of them need not ask


def test_what_cannot_become_a_store_is_refused_before_the_work(tmp_path):
    one = source(tmp_path / "one.h5", "clips")
    store = write_store(tmp_path / "store", "clips", [[("a", 1)], [("b", 2)]])
    with pytest.raises(ConfigError, match=rf"store holds {shard_name(1, 2)}, which is not one of its 3 shards; remove"):
        convert_features(one, store, shards=3)
    with pytest.raises(ConfigError, match="is what is read"):
        convert_features(store, store, shards=2)
    with pytest.raises(ConfigError, match=r"one.h5 is not a directory"):
        convert_features(store, one, shards=2)
    with pytest.raises(ConfigError, match="store is a directory; name a file"):
        convert_features(one, store)
    with pytest.raises(BadFeatures, match="8 shards of 7 items; give at most 7"):
        convert_features(one, tmp_path / "new", shards=8)
    with pytest.raises(BadFeatures, match=r"components fitted on one shard .* --pca FILE\.pca\.npz"):
        convert_features(one, tmp_path / "new", shards=2, wanted=[1], pca=2)
    assert convert_features(one, tmp_path / "new", shards=2, pca=2).dim == 2
    assert sorted(read_index(store).attributes) == []


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/x", "/", "1/2/3", "1/999999", "²/3", "٣/٨", "1_0/20"])
def test_shards_that_do_not_exist_are_refused(text, capsys):
    for command in (["features", "a", "b"], ["videos", "a", "b"]):
        tool = prepare if command[0] == "features" else extract_tool
        with pytest.raises(SystemExit):
            tool.main([*command, "--shard", text])
        assert f"{text} is not of the form i/n with i from 1 to n" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "٣", "100000", "1.5", "x", ""])
def test_a_number_of_shards_is_one_or_more(text, capsys):
    with pytest.raises(SystemExit):
        prepare.main(["features", "a", "b", f"--shards={text}"])
    assert f"{text} is not a number of shards from 1 to 99,999" in capsys.readouterr().err


def test_numbers_of_shards_that_do_not_exist_are_refused(tmp_path):
    one = source(tmp_path / "one.h5", "clips")
    for words, message in (
        ({"shards": -1}, "-1 shards: expected 1 or more, or 0 for one file"),
        ({"shards": 3, "wanted": [2, 4]}, "shard 4 of 3: expected a number from 1 to 3"),
        ({"wanted": [1]}, "shard 1 of 0: it is one file; give the number of shards, too"),
    ):
        with pytest.raises(BadFeatures, match=message):
            convert_features(one, tmp_path / "store", **words)


class Extractor(Fake):
    def __init__(self, kind):
        super().__init__("clips" if kind == "videos" else "regions")
        self.source, self.stops = {"what": "a test", "weights": "none"}, True

    def __call__(self, key, path):
        return super().__call__(key if self.stops or key != "stop" else "stay", path)


@pytest.fixture(params=["videos", "images"])
def extract(request, tmp_path, monkeypatch):
    """Return a function that extracts, and the extractor, whose calls count."""
    ending = "mp4" if request.param == "videos" else "png"
    (tmp_path / "in").mkdir()
    for name in ("go", "stop", "three", "one", "a", "bad"):
        (tmp_path / "in" / f"{name}.{ending}").touch()
    extractor = Extractor(request.param)
    monkeypatch.setattr("relgrounding.cli.extract.make_extractor", lambda _: extractor)

    def call(*words, names=("in",)):
        words = [request.param, *(str(tmp_path / name) for name in names), str(tmp_path / "store"), *words]
        return extract_tool.main([*words, "--on-error", "skip"])

    call.ending = ending
    return call, extractor


@pytest.mark.parametrize("by_rank", [False, True])
def test_each_process_extracts_its_shard_and_each_item_once(extract, tmp_path, monkeypatch, capsys, by_rank):
    call, extractor = extract

    def shard(number):
        if not by_rank:
            return call("--shard", f"{number}/3")
        for name, value in {"RANK": number - 1, "WORLD_SIZE": 3, "MASTER_ADDR": "here", "MASTER_PORT": 1}.items():
            monkeypatch.setenv(name, str(value))
        return call()

    assert [shard(2), shard(1)] == [130, 0]  # "stop" is the fifth file by name, the second of the second shard
    extractor.stops = False
    assert not (tmp_path / "store" / "index.json").exists()
    assert [shard(2), shard(1), shard(3), shard(2)] == [0, 0, 0, 0]
    assert [name for name in sorted(extractor.calls) if name not in ("bad", "stop")] == [
        "a",
        "go",
        "one",
        "stay",
        "three",
    ]
    store = open_features(tmp_path / "store")
    assert sorted(store.ids) == ["a", "go", "one", "stop", "three"]
    assert json.loads(store.attributes["source"]) == extractor.source
    endings = [".h5"] * 3 + [".idx"] + [".json"] * 2 + [".sha256"] * 3 + [".txt"]
    assert sorted(p.suffix for p in (tmp_path / "store").iterdir()) == endings
    (tmp_path / "in" / f"new.{call.ending}").touch()
    capsys.readouterr()
    assert shard(2) == 2
    assert "store was begun with files 6, 'a' first" in (said := capsys.readouterr().err)
    assert "this call has 7, 'a' first" in said
    extractor.source = extractor.source | {"what": "another test"}
    assert shard(3) == 2
    assert "store was begun with what a test, this call has another test; give all" in capsys.readouterr().err
    if not by_rank:
        assert call("--shard", "3/3", "--overwrite") == 0
        assert f"{shard_name(1, 3)} was made of other files, or with other settings: make it again" in (
            capsys.readouterr().out
        )


def test_what_cannot_be_extracted_in_shards_is_refused(extract, tmp_path, monkeypatch, capsys):
    call, extractor = extract
    assert call("--shard", "1/2", "--pca", "2") == 2
    assert "components fitted on one shard would not be those of the others" in capsys.readouterr().err
    assert call("--shard", "7/7") == 2
    assert "7 shards of 6 files; give at most 6" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    assert call("--shard", "1/2") == 2
    assert "under torchrun each makes the shard of its rank" in capsys.readouterr().err
    assert extractor.calls == []


def test_a_shard_whose_files_are_all_bad_is_empty(extract, tmp_path):
    call, _ = extract
    for number in (1, 2):
        assert call("--shard", f"{number}/2", names=[f"in/a.{call.ending}", f"in/bad.{call.ending}"]) == 0
    store = open_features(tmp_path / "store")
    assert (store.ids, [shard.items for shard in store.index.shards]) == (["a"], [1, 0])


@pytest.mark.parametrize("model", ["vgn", "ign"])
def test_a_run_on_shards_is_that_on_one_file(tmp_path, model):
    folder = own.videos(tmp_path, True) if model == "vgn" else own.images(tmp_path)
    one = own.settings(folder, model)
    convert_features(folder / "features.h5", folder / "store", shards=3)
    many = own.settings(folder, model, f"data.features={folder}/store")
    table, lines, _ = train(one, tmp_path / "one")
    again, same, _ = train(many, tmp_path / "many")
    assert (table, lines) == (again, same)
    stores, key = Stores(many.modality), "v11" if model == "vgn" else "i11"
    np.testing.assert_equal(stores.read(folder / "store", key), stores.read(folder / "features.h5", key))
    assert stores.duration(folder / "store", key) is None


def rows(config):
    return {row.check: row for row in verify_config(config)}


def test_verify_checks_every_shard(tmp_path):
    folder = own.videos(tmp_path, True)
    config = own.settings(folder, "vgn", f"data.features={folder}/store")
    store = folder / "store"
    assert rows(config)["features: file"].status == "DIFFERS"
    convert_features(folder / "features.h5", store, shards=3)
    good = rows(config)
    assert {row.status for row in good.values()} == {"ok"}
    one = rows(own.settings(folder, "vgn"))
    more = {"features: SHA-256", "features: shards", "features: ids of shards"}
    assert {name: row for name, row in good.items() if name not in more} == one
    write(store / "more.h5", "clips", [("more", 1)], {})
    assert "more.h5: not read" in rows(config)["features: files not indexed"].meaning
    (store / "more.h5").unlink()
    path = store / shard_name(2, 3)
    with h5py.File(path, "a") as file:
        name = sorted(file)[0]
        file[name][0, 0] += 1
    found = rows(config)["features: SHA-256"]
    assert (found.found, found.status) == ("1 differ", "DIFFERS")
    assert path.name in found.meaning
    with h5py.File(path, "a") as file:
        file.move(name, name[:-1] + "x")
    changed = rows(config)
    assert changed["features: ids of shards"].meaning == "ids.txt does not have the ids of the shards"
    assert "was it made again?" in changed["features: shape, box or damage"].meaning
    path.write_bytes(path.read_bytes()[:-1])
    assert "it is half-written or another one" in rows(config)["features: file"].meaning


def test_a_process_of_a_job_says_that_the_other_shards_are_made_by_others(tmp_path, monkeypatch, capsys):
    one = source(tmp_path / "one.h5", "clips")
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "here", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    assert prepare.main(["features", str(one), str(tmp_path / "s"), "--shards", "2"]) == 0
    assert "1 of 2 shards, the others by other processes of the job; whichever shard is last makes" in (
        capsys.readouterr().out
    )


def test_commands_make_and_index_a_store(tmp_path, capsys):
    one = source(tmp_path / "one.h5", "clips")
    assert prepare.main(["features", str(one), str(tmp_path / "s"), "--shards", "2"]) == 0
    assert "7 videos" in (said := capsys.readouterr().out)
    assert "2 of 2 shards" in said
    assert prepare.main(["features", str(one), str(tmp_path / "t"), "--shard", "2/2"]) == 0
    assert "1 of 2 shards; whichever shard is last makes the index" in capsys.readouterr().out
    assert prepare.main(["index", str(tmp_path / "t")]) == 2
    assert "holds 1 of 2 shards; number 1 is missing: make it with --shard 1/2" in capsys.readouterr().err
    (tmp_path / "s" / "index.json").unlink()
    assert prepare.main(["index", str(tmp_path / "s")]) == 0
    assert "2 shards, 7 videos, width 4" in capsys.readouterr().out
    # Whatever is beside a shard: the command reads it, as one that was copied over it may have an older date.
    said = tmp_path / "s" / "shard-00001-of-00002.h5.sha256"
    said.write_text(f"{'0' * 64}  shard-00001-of-00002.h5\n")
    assert prepare.main(["index", str(tmp_path / "s")]) == 0
    assert '"' + "0" * 64 not in (tmp_path / "s" / "index.json").read_text()
    capsys.readouterr()
    assert ClipFeatures(one).ids == open_features(tmp_path / "s").ids
    assert prepare.main(["features", str(one), str(tmp_path / "s"), "--shards", "2", "--shard", "1/3"]) == 2
    assert "--shard 1/3 is not one of --shards 2" in capsys.readouterr().err


@KINDS
def test_a_store_that_lacks_a_shard_is_not_converted(tmp_path, kind):
    convert_features(source(tmp_path / "one.h5", kind), tmp_path / "many", shards=3)
    (tmp_path / "many" / shard_name(2, 3)).unlink()
    (tmp_path / "many" / "index.json").unlink()
    for out, shards in (("out.h5", 0), ("out", 2)):
        with pytest.raises(MissingFile, match="holds 2 of 3 shards; number 2 is missing"):
            convert_features(tmp_path / "many", tmp_path / out, shards=shards)
        assert not (tmp_path / out).exists()


@KINDS
def test_an_id_in_two_files_is_an_error_that_names_both(tmp_path, kind):
    one, other = source(tmp_path / "one.h5", kind), tmp_path / "other.h5"
    write(other, kind, [("w", 0), ("v03", 1)], ATTRIBUTES)
    with pytest.raises(BadFeatures, match=rf"^{re.escape(f'{one} and {other}')}: 'v03' comes twice"):
        convert_features([one, other], tmp_path / "out.h5")


@KINDS
@pytest.mark.parametrize("name", ["index.json", "made_of.json", "ids.txt", "ids.idx"])
def test_a_file_of_something_else_is_neither_replaced_nor_removed(tmp_path, kind, name):
    one, folder = source(tmp_path / "one.h5", kind), tmp_path / "web"
    folder.mkdir()
    (folder / name).write_text('{"my": "site"}')
    for shards, wanted in ((2, [1]), (2, [])):
        with pytest.raises(ConfigError, match=rf"{name} would be replaced, but no feature store has written it"):
            convert_features(one, folder, shards=shards, wanted=wanted)
    assert content(folder) == {name: b'{"my": "site"}'}
    write(folder / "features.h5", kind, [("v", 0)], {})
    with pytest.raises(ConfigError, match=rf"{name} would be replaced"):
        index_shards(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(ConfigError, match=rf"{name} would be replaced"):
        index_shards(folder)


@KINDS
@pytest.mark.parametrize(
    ("left", "text"),
    [
        ("index.json", json.dumps),
        ("ids.txt ids.idx", json.dumps),
        ("index.json ids.txt ids.idx", lambda index: json.dumps(index, sort_keys=True)),
        ("index.json made_of.json ids.txt", lambda _: ""),
        ("index.json made_of.json ids.idx", lambda index: json.dumps(index)[:20]),
    ],
)
def test_what_is_left_of_a_store_is_replaced(tmp_path, kind, left, text):
    one, folder = source(tmp_path / "one.h5", kind), tmp_path / "store"
    convert_features(one, folder, shards=2)
    whole = content(folder)
    index = folder / "index.json"
    index.write_text(text(json.loads(index.read_text())))
    for name in ("index.json", "made_of.json", "ids.txt", "ids.idx"):
        if name not in left.split():
            (folder / name).unlink()
    index_shards(folder)
    convert_features(one, folder, shards=2)
    assert content(folder) == whole


def test_an_index_is_made_of_a_folder(tmp_path):
    (tmp_path / "file").touch()
    for name in ("nothing", "file"):
        with pytest.raises(MissingFile, match=f"{name} is not a folder"):
            index_shards(tmp_path / name)
