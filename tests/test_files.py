"""Outputs are checked before the work, and a check changes nothing."""

import os

import pytest

from relgrounding._files import check_output, check_output_folder, replacing
from relgrounding._settings import ConfigError


def test_outputs_that_cannot_be_written_are_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    for below in (tmp_path / "file" / "out", tmp_path / "file" / "new" / "out"):
        for check in (check_output, check_output_folder):
            with pytest.raises(ConfigError, match=r"out cannot be written: .*file is not a directory$"):
                check(below)
    for path in (tmp_path / "pipe", os.devnull):
        with pytest.raises(ConfigError, match="is not a plain file, and is not replaced"):
            check_output(tmp_path / path)
    for path in (tmp_path / "new", tmp_path / "new" / "out", tmp_path / "new" / ".." / "out"):
        assert check_output(path) == check_output_folder(path) == path
    monkeypatch.setattr(os, "access", lambda *_: False)
    for check in (check_output, check_output_folder):
        with pytest.raises(ConfigError, match=r"no permission to write to .*[^/new]$"):
            check(tmp_path / "new" / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]


def test_what_cannot_be_written_is_named_without_the_unfinished_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file'$"), replacing(tmp_path / "file" / "out"):
        pass
