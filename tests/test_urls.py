"""Credentials of URLs: they are shown nowhere, and do not tell contents apart."""

import logging
import pickle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relgrounding import cli
from relgrounding._files import local_only
from relgrounding._printing import brief, get_logger
from relgrounding._settings import ConfigError, parse_word
from relgrounding._urls import identity, masked
from relgrounding.features import open_features
from relgrounding.io import DataError, MissingFile
from relgrounding.runs import RunError, RunFolder
from relgrounding.training import train

SECRET = "pa/ss@wo#rd?x:secret"
URL = f"sftp://me:{SECRET}@host/dir/a.h5"
PIECES = ("pa/", "ss@", "wo#", "rd?", "secret")


def hidden(text: str) -> bool:
    return not any(piece in text for piece in PIECES)


@given(st.text("ab1:/?#@%&=+.-_~'\"", min_size=1), st.sampled_from(["sftp://", "http:/", "simplecache::ftp://"]))
@example("pa/ss", "sftp://")
@example("12/34", "sftp://")
def test_no_part_of_a_password_is_shown(middle, scheme):
    password = f"xyzzy{middle}plugh"
    for text in (f"{scheme}me:{password}@host/a.h5", f"--runs='{scheme}:{password}@host' is a URL"):
        shown = masked(text)
        assert shown.startswith((f"{scheme}***@", f"--runs='{scheme}***@"))
        assert "host" in shown
        assert "xyzzy" not in shown
        assert "plugh" not in shown
        assert masked(shown) == shown


def test_a_text_that_was_cut_off_shows_no_password():
    url = "data.features=sftp://me:xyzzy12345678@host/a.h5"
    assert not [n for n in range(len(url)) if "xyzzy" in masked(url[:n])]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://host/a?X-Amz-Signature=1f&author=me&page=2", "https://host/a?X-Amz-Signature=***&author=me&page=2"),
        ("https://host/a#access_token=1f", "https://host/a#access_token=***"),
        ("https://host/a?jwt='1f'&pass=1f&passage=2", "https://host/a?jwt='***'&pass=***&passage=2"),
        ("['s3://me:my own secret@a/b', 's3://c/d']", "['s3://***@a/b', 's3://c/d']"),
        ("see https://host: a note of me@host", "see https://host: a note of me@host"),
        ("http:/host/a?sig=1f", "http:/host/a?sig=***"),
        ("https://ghp_0123456789abcdef0123@host/a", "https://***@host/a"),
        ("github://me:ghp_0123456789abcdef0123@main/a", "github://me:ghp_***@main/a"),
        ("github://org:repo@main/a.h5", "github://org:repo@main/a.h5"),
        ("hf://datasets/me/name@v1/a.h5", "hf://datasets/me/name@v1/a.h5"),
        ("http://host:8080/a, http://[::1]:80/b: no answer", "http://host:8080/a, http://[::1]:80/b: no answer"),
        ("C:/a:b@c, a note: see me@host", "C:/a:b@c, a note: see me@host"),
    ],
)
def test_what_is_no_secret_stays(text, shown):
    assert masked(text) == shown


@pytest.mark.parametrize("kind", [ConfigError, DataError, MissingFile, RunError])
def test_errors_hold_no_credentials(kind):
    error = kind(f"{URL} does not exist")
    assert str(error) == "sftp://***@host/dir/a.h5 does not exist"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # as it travels between processes


def test_settings_and_logs_hold_no_credentials(caplog):
    with pytest.raises(ConfigError) as caught:
        parse_word("sftp://me:" + "secret" * 20 + "@host/a.h5", dict)
    assert hidden(str(caught.value))
    assert hidden(brief([URL], 30))
    with caplog.at_level(logging.WARNING):
        get_logger("relgrounding.test").warning("%s is slow", URL)
    assert caplog.messages == ["sftp://***@host/dir/a.h5 is slow"]


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--runs", URL],
        ["train", URL],
        ["train", "--config", URL],
        ["train", f"model.depth={URL}"],
        ["evaluate", URL],
        ["compare", URL, "--with", "b"],
        ["report", URL],
        ["figures", "a", "--images", URL],
        ["misses", URL],
        ["ground", "--checkpoint", URL, "--query", "a"],
        ["ground", "--checkpoint", "a", "--query", "a", "--image", URL],
        ["ablate", "ccl", "--out", "o", "--runs", URL],
        ["ablate", URL, "--out", "o"],
        ["prepare", "features", URL, "o.h5"],
        ["prepare", "index", URL],
        ["prepare", "features", "a", "o", "--shard", URL],
        ["extract", "videos", URL, "o.h5"],
        ["configs", URL],
    ],
    ids=lambda words: " ".join(word if word != URL else "URL" for word in words),
)
def test_commands_refuse_urls_and_say_no_password(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        status = cli.main(words)
    except SystemExit as stop:
        status = stop.code
    said = "".join(capsys.readouterr())
    assert (status, hidden(said)) == (2, True), said
    assert not list(tmp_path.iterdir())


def test_functions_refuse_urls_where_only_a_path_serves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for use in (RunFolder, open_features, lambda url: train("demo", runs=url), lambda url: local_only(url, "it")):
        for url in (URL, URL.replace("//", "/", 1)):
            with pytest.raises(ConfigError, match=r"^sftp:/+\*\*\*@host\S* is a URL: .* on this machine; give a local"):
                use(url)
    (tmp_path / "a:").mkdir()
    assert local_only("a:/b", "it").parent.name == "a:"


@pytest.mark.parametrize(
    ("url", "again"),
    [
        ("https://b.s3.aws.com/a.h5?X-Amz-Date=1&X-Amz-Signature=2&X-Amz-Expires=3", "https://b.s3.aws.com/a.h5"),
        ("https://h/a.h5?key=1&Expires=5&Signature=7&Key-Pair-Id=K", "https://h/a.h5?key=1&Expires=6&Signature=8"),
        ("https://x.blob.net/a?sv=2&se=3&sp=r&sig=4&author=b", "https://x.blob.net/a?sv=2&se=4&sig=5&author=b"),
        ("https://h/a.h5?token=1", "https://h/a.h5?token=2"),
        ("sftp://me:1@host/a", "sftp://me:2@host/a"),
    ],
)
def test_another_signature_or_password_is_the_same_content(url, again):
    assert identity(url) == identity(again)


def test_what_tells_contents_apart_stays():
    urls = [
        f"https://h/a.h5{rest}" for rest in ("", "?key=1", "?key=2", "?author=1", "?se=1", "?se=2", "?policy=1", "#b")
    ]
    urls += [
        "sftp://me@h/a",
        "sftp://you@h/a",
        "github://o:r@b/a",
        "github://o:s@b/a",
        "s3://b/what?token=1",
        "s3://b/what",
    ]
    assert len({identity(url) for url in urls}) == len(urls)
