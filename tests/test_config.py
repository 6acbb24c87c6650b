from pathlib import Path

import pytest

from relgrounding.config import Config, ConfigError, config_to_yaml, data_root, find_file, load_config

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_of_the_project_is_valid_and_named_after_its_file(path):
    assert load_config(path).name == path.stem


def test_words_win_over_the_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("train:\n  epochs: 3\n  learning_rate: 0.5\n")
    config = load_config(path, ["train.epochs=7", "data.widths=[2,3]", "name=mine"])
    assert (config.train.epochs, config.train.learning_rate) == (7, 0.5)
    assert (config.data.widths, config.name) == ([2, 3], "mine")


def test_the_resolved_yaml_reads_back_as_the_same_configuration(tmp_path):
    config = load_config(None, ["seed=5", "model.relation=none", "eval.select=[vote]"])
    path = tmp_path / "resolved.yaml"
    path.write_text(config_to_yaml(config))
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.epoch=3"], r"there is no key 'train.epoch'; the nearest one is 'train.epochs'"),
        (["modle.top_r=3"], r"there is no key 'modle'; the nearest one is 'model'"),
        (["train.epochs=many"], r"train.epochs: .*'many'"),
        (["model.relation=gnn"], r"model.relation: .*'gnn'.*'graph'.*'none'"),
        (["train.epochs"], r"'train.epochs': settings are given as key=value"),
        (["train.epochs=0"], r"train.epochs is 0; it must be 1 or more"),
        (["data.batch_size=1"], r"data.batch_size is 1; negatives need batches of 2 or more"),
        (["data.validation=1.5"], r"data.validation is 1.5; it is a share"),
        (["data.dataset=charades_sta"], r"model.name is ign, but charades_sta needs vgn"),
        (["eval.select=[best]"], r"eval.select is \['best'\]; it is a list of 'score' and 'vote'"),
        (["model.contrast=2", "model.pooling=mean"], r"model.contrast is 2.0; it is a share, from 0 to 1"),
        (["model.contrast=0.5"], r"model.contrast is 0.5 with model.pooling=max; it needs mean"),
        (["model.context=0"], r"model.context is 0.0; it is a share of a window's width, above 0"),
        (["eval.vote_prior=-1"], r"eval.vote_prior is -1.0; it is a share, from 0 to 1"),
        (["eval.vote_by=mean"], r"eval.vote_by: .*'mean'.*'score'.*'odds'"),
        (["model.heads=3"], r"model.relation_dim \(256\) must be a multiple of model.heads \(3\)"),
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
    (tmp_path / "first.yaml").write_text("name: first\ntrain: {epochs: 3, margin: 0.4}\n")
    (tmp_path / "second.yaml").write_text("base: first.yaml\nname: second\ntrain: {epochs: 5}\n")
    config = load_config(tmp_path / "second.yaml", ["seed=2"])
    assert (config.name, config.train.epochs, config.train.margin, config.seed) == ("second", 5, 0.4, 2)
    (tmp_path / "first.yaml").write_text("base: second.yaml\n")
    with pytest.raises(ConfigError, match="builds on itself"):
        load_config(tmp_path / "second.yaml")
    (tmp_path / "third.yaml").write_text("base: none.yaml\n")
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        load_config(tmp_path / "third.yaml")
