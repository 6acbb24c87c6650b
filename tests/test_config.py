import dataclasses
import itertools
import math
import typing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relgrounding.config import Config, ConfigError, config_to_yaml, data_root, find_file, load_config, make_config

VIDEO = ["model.name=vgn", "data.dataset=charades_sta"]
CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_of_the_project_is_valid_and_named_after_its_file(path):
    assert load_config(path).name == path.stem


def test_words_win_over_the_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("train:\n  epochs: 3\n  learning_rate: 0.5\n")
    config = load_config(path, ["train.epochs=7", "data.widths=[2,3]", "name=mine", *VIDEO])
    assert (config.train.epochs, config.train.learning_rate) == (7, 0.5)
    assert (config.data.widths, config.name) == ([2, 3], "mine")


def test_the_resolved_yaml_reads_back_as_the_same_configuration(tmp_path):
    config = load_config(None, ["seed=5", "model.relation=none", *VIDEO, "eval.select=[vote]"])
    path = tmp_path / "resolved.yaml"
    path.write_text(config_to_yaml(config))
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train=1"], r"'train=1': train is a section; its settings are train\.objectives, "),
        (["model=ign"], r"'model=ign': model is a section; its settings are model\.name, "),
        (["train.objectives=[ccl]"], r"train.objectives: ccl is a stage of its own after the first; set ccl.epochs"),
        (["train.epoch=3"], r"there is no key 'train.epoch'; the nearest one is 'train.epochs'"),
        (["epochs=3"], "the nearest ones are 'train.epochs', 'ccl.epochs', 'cotrain.epochs'"),
        (["lr=3"], "no key 'lr'; there is name, seed, "),
        (["train.lr=3"], "no key 'train.lr'; there is train.objectives, .*train.learning_rate"),
        (["train.batchsize=3"], "no key 'train.batchsize'; the nearest ones are 'data.batch_size', 'eval.batch_size'"),
        (["modle.top_r=3"], r"there is no key 'modle'; the nearest one is 'model'"),
        (["train.epochs=many"], r"train.epochs: .*'many'"),
        (["model.relation=gnn"], r"model.relation: there is no relation module 'gnn'; there is graph, none"),
        (["train.epochs"], r"'train.epochs': settings are given as key=value"),
        (["train.epochs=0"], r"train.epochs is 0; it must be 1 or more"),
        (["data.batch_size=1"], r"data.batch_size is 1; it must be from 2 to "),
        (["data.validation=1.5"], r"data.validation is 1.5; it must be above 0 and below 1"),
        (["data.dataset=charades_sta"], r"model.name is ign, but charades_sta needs scn, vgn"),
        ([*VIDEO, "eval.select=[best]"], r"eval.select is \['best'\]; it is a list of 'score' and 'vote'"),
        ([*VIDEO, "model.contrast=2", "model.pooling=mean"], r"model.contrast is 2.0; it must be from 0 to 1"),
        ([*VIDEO, "model.contrast=0.5"], r"model.contrast is 0.5 with model.pooling=max; it needs mean"),
        ([*VIDEO, "model.context=0"], r"model.context is 0.0; it must be above 0"),
        ([*VIDEO, "eval.vote_prior=-1"], r"eval.vote_prior is -1.0; it must be from 0 to 1"),
        ([*VIDEO, "eval.vote_by=mean"], r"eval.vote_by: .*'mean'.*'score'.*'odds'"),
        (["model.heads=3"], r"'model.heads=3': model.heads is a setting of scn, vgn; this run has none of them"),
        ([*VIDEO, "model.heads=3"], r"model.relation_dim \(256\) must be a multiple of model.heads \(3\)"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_with_the_remedy(words, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, words)


def test_an_unknown_key_in_a_file_is_named_with_the_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("data:\n  rot: /data\n")
    with pytest.raises(ConfigError, match=r"c\.yaml: there is no key 'data\.rot'; the nearest one is 'data\.root'"):
        load_config(path)


@pytest.mark.parametrize("text", ["!!python/object/apply:os.getcwd []", "- a\n- b\n", "a: [1\n"])
def test_yaml_that_is_no_plain_mapping_is_refused(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml: "):
        load_config(path)


def test_a_missing_file_or_root_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("RELGROUNDING_DATA", raising=False)
    settings = Config().data
    with pytest.raises(ConfigError, match="RELGROUNDING_DATA is not set"):
        data_root(settings)
    settings.root = str(tmp_path)
    with pytest.raises(ConfigError, match=r"data\.features: neither .* exists; make it"):
        find_file(settings, "features.h5", "data.features", "make it")
    (tmp_path / "features.h5").touch()
    assert find_file(settings, "features.h5", "data.features", "make it") == tmp_path / "features.h5"


def test_a_file_builds_on_another_beside_it(tmp_path):
    (tmp_path / "first.yaml").write_text("name: first\ntrain: {epochs: 3}\nmil: {margin: 0.4}\n")
    (tmp_path / "second.yaml").write_text("base: first.yaml\nname: second\ntrain: {epochs: 5}\n")
    config = load_config(tmp_path / "second.yaml", ["seed=2"])
    assert (config.name, config.train.epochs, config.mil.margin, config.seed) == ("second", 5, 0.4, 2)
    (tmp_path / "first.yaml").write_text("base: second.yaml\n")
    with pytest.raises(ConfigError, match="builds on itself"):
        load_config(tmp_path / "second.yaml")
    (tmp_path / "third.yaml").write_text("base: none.yaml\n")
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        load_config(tmp_path / "third.yaml")


def test_the_names_of_before_work_and_warn(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text("train: {epochs: 3, negatives: 4}\nmil: {margin: 0.3}\n")
    with pytest.warns(FutureWarning, match=r"old\.yaml: train\.negatives is now mil\.negatives"):
        config = load_config(path)
    assert (config.mil.negatives, config.mil.margin, config.train.epochs) == (4, 0.3, 3)
    with pytest.warns(FutureWarning, match=r"'train\.loss=contrastive': train\.loss is now mil\.loss"):
        assert load_config(None, ["train.loss=contrastive"]).mil.loss == "contrastive"


def test_a_setting_under_both_names_is_an_error(tmp_path):
    (tmp_path / "both.yaml").write_text("train: {negatives: 2}\nmil: {negatives: 1}\n")
    with (
        pytest.warns(FutureWarning, match="is now"),
        pytest.raises(ConfigError, match=r"train\.negatives is an old name of mil\.negatives, and both are given"),
    ):
        load_config(tmp_path / "both.yaml")
    (tmp_path / "both.yaml").write_text("train: {negatives: 2}\nmil: x\n")
    with pytest.warns(FutureWarning, match="is now"), pytest.raises(ConfigError, match="mil is a section"):
        load_config(tmp_path / "both.yaml")


def test_settings_of_a_run_of_before_are_read():
    old = {
        "model": {"name": "ign", "heads": "4", "clip_encoder": "bigru"},
        "data": {"widths": ["4"], "protocol": "official"},
    }
    old |= {"train": {"message_dropout": "0.25"}, "eval": {"nms": "0.55"}}
    assert make_config([("config.yaml", old)], old=True).mil.message_dropout == 0.25
    with pytest.raises(ConfigError, match=r"model\.depth"):
        make_config([("config.yaml", old | {"model": {"depth": "3"}})], old=True)


TEXTS = ["2024_01_01", "007", "no", "null", "1e5", "12:30:45", "0x1f", "~", "run #3", "a: b", "[x]", "test🎬", "𠮷野",
         "🏴\U000e0067\U000e007f",
         "👨\u200d👩\u200d👧", "اختبار", "- x", "%x", "&a", "*a", "!x", "it's", '"', "x" * 120]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_text_in_words_in_files_and_in_the_configuration_that_is_kept(tmp_path, text):
    word = load_config(None, [f"name={text}", f"data.root=/a b/{text}"])
    assert (word.name, word.data.root) == (text, f"/a b/{text}")
    path = tmp_path / "kept.yaml"
    path.write_text(config_to_yaml(word), encoding="utf-8")
    assert load_config(path) == word
    quoted = "'" + text.replace("'", "''") + "'"
    path.write_text(f"name: {quoted}\ndata: {{test_splits: [{quoted}]}}\n", encoding="utf-8-sig")
    assert load_config(path).name == load_config(path).data.test_splits[0] == text
    assert load_config(None, [f"name={quoted}"]).name == text


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60))
def test_any_text_comes_back_from_the_kept_configuration_or_is_refused(tmp_path_factory, text):
    try:
        config = load_config(None, [f"data.root= {text} ", "data.features=" + text])
    except ConfigError:
        assert "\0" in text or "${" in text or text == "???" or (len(text) > 1 and text[0] == text[-1] in "'\"")
        return
    path = tmp_path_factory.mktemp("kept") / "config.yaml"
    path.write_text(config_to_yaml(config), encoding="utf-8")
    assert load_config(path) == config


def test_unquoted_text_in_a_file_stays_as_it_is_written(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("name: no\ndata: {root: 2024_01_01, test_splits: [007, on, 1e5]}\ntrain: {learning_rate: 1e-4}\n")
    config = load_config(path)
    assert (config.name, config.data.root, config.data.test_splits) == ("no", "2024_01_01", ["007", "on", "1e5"])
    assert config.train.learning_rate == 1e-4
    assert load_config(None, ["data.test_splits=[007, no]"]).data.test_splits == ["007", "no"]


def test_a_list_of_json_names_characters_in_two_halves(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(r'{"name": "test\ud83c\udfac"}')
    assert load_config(path).name == "test🎬"
    path.write_text(r'{"name": "test\ud83c"}')
    with pytest.raises(ConfigError, match=r"name: 'test.ud83c' is not text"):
        load_config(path)


NAMES = ["..", ".", "", " ", "/tmp/x", "a/b", "../x", "a\\b", "a\n", "a\nb", " a", "a ", "a\u3000", "\u00a0", "\u2025",
         "\uff0e", "a\uff0fb", "\uff0fa", "a\uff3cb", "x" * 121,
         "é" * 61, "a\0b", "a\u202eb", "\u2066a", "a\u2028b", "a\x1b[2J", "\ufeffa", "\u200b",
         "a\u200bb", "a\ud800", "\ue000", "\uffff", "\u3164", "${oc.env:HOME}", "${name}", "???"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_is_no_name_is_refused_by_its_key(tmp_path, name):
    with pytest.raises(ConfigError, match="name"):
        load_config(None, [f"name={name}"])
    config = Config()
    config.data.test_splits = [name]
    with pytest.raises(ConfigError, match=r"data\.test_splits"):
        dataclasses.replace(config)


@pytest.mark.parametrize("where", ["name: ${oc.env:PWD}", "train: {epochs: '${seed}'}", "base: ${oc.env:HOME}/x.yaml",
                                   "data: {test_splits: ['${name}']}", "${name}: x"])  # fmt: skip
def test_interpolation_is_refused_with_its_key(tmp_path, where):
    path = tmp_path / "c.yaml"
    path.write_text(where)
    key = {"n": "name", "t": r"train\.epochs", "b": "base", "d": r"data\.test_splits\.0", "$": r"c\.yaml"}[where[0]]
    with pytest.raises(ConfigError, match=key + r".* refers to something else with"):
        load_config(path)


def _numbers(kind: type, prefix: str = "") -> typing.Iterator[tuple[str, type, dict]]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from _numbers(hint, f"{prefix}{field.name}.")
        elif hint in (int, float, list[int]):
            yield prefix + field.name, hint, dict(field.metadata)


def test_every_number_has_its_range_beside_it_and_keeps_to_it():
    for key, hint, metadata in _numbers(Config):
        limits = metadata["limits"]
        wrong = {"nan", "inf", "-inf", "1e400"} if hint is float else {str(10**400), "1" * 5000, "1.5", "true"}
        for name, sign in (("least", -1), ("most", 1)):
            step = 1 if hint is not float else 1e-6 * max(1, abs(limits.get(name, 0)))
            wrong |= {str(limits[name] + sign * step)} if name in limits else set()
        wrong |= {str(limits[name]) for name in ("above", "below") if name in limits}
        for value in wrong:
            with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
                load_config(None, [f"{key}=[{value}]" if hint == list[int] else f"{key}={value}"])


@pytest.mark.parametrize(
    "word",
    ["train.learning_rate=nan", "train.learning_rate=-1", "train.learning_rate=inf", "train.clip_norm=-1", "seed=-1",
     "model.hidden=0", "data.widths=[]", "data.widths=[0]", "data.widths=[4,4]", "data.stride=0", "eval.nms=nan",
     "device=nope", "device=cuda:x", "model.hidden=1000000000", "seed=9223372036854775808", "data.test_splits=[]",
     "train=5", "data.widths=3", "data.test_splits=test", "=", "a.b.c=1", "x" * 5000 + "=1", "." * 5000 + "=1"],
)  # fmt: skip
def test_a_value_that_no_run_can_use_is_refused_when_it_is_read(word):
    with pytest.raises(ConfigError, match=word.split("=")[0][:20].replace(".", r"\.") or "no key"):
        load_config(None, [word])
    assert math.isfinite(load_config(None, []).train.learning_rate)


GROWING = "a: &a [1,1,1,1,1,1,1,1]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 8)}]\n" for a, b in itertools.pairwise("abcdefgh")
)


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: " + "[" * 5000, "{" * 5000, GROWING, "name: a\nname: b",
                                  "? [a]\n: b", "a: b\n---\nc: d", "\x07", "base: [x]",
                                  "base: ''"], ids=range(10))  # fmt: skip
def test_yaml_that_grows_nests_or_repeats_is_refused(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml|directory"):
        load_config(path)
