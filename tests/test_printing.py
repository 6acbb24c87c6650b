"""Control characters that files and their names hold reach no terminal."""

import io
import logging
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from relgrounding._printing import brief, printable, show, show_error
from relgrounding.datasets import load_own
from relgrounding.io import Problems
from tools import ablate, compare, evaluate, extract, figures, ground, misses, prepare, report, train

NASTY = "a\x1b[2J\r\x07\x9b31m\u202eb\u2028c\nd"


@pytest.mark.parametrize("text", ["ein Straße, 人が, \u00a0, \u3000, 👩\u200d🚀, می\u200cخواهم", "", "a\\b"])
def test_what_is_to_be_read_stays(text):
    assert printable(text) == text


def test_what_a_terminal_obeys_is_escaped():
    assert printable(NASTY) == r"a\x1b[2J\r\x07\x9b31m\u202eb\u2028c\nd"
    assert printable("\ud800 \x00 \x7f") == r"\ud800 \x00 \x7f"
    for code in range(sys.maxunicode + 1):
        kind, character = unicodedata.category(chr(code)), chr(code)
        if kind in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(character) in ("RLO", "LRO", "RLI", "PDI"):
            assert printable(character).isprintable()


def test_a_stream_that_cannot_write_a_character_shows_its_number():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    show("Straße \x1b\nb", stream, end="")
    stream.flush()
    assert stream.buffer.getvalue() == rb"Stra\xdfe \x1b" + b"\nb"


def test_a_line_and_its_end_are_written_at_once(monkeypatch):
    written = []
    stream = io.StringIO()
    monkeypatch.setattr(stream, "write", written.append)
    show("one", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    show_error("two")
    assert [text for text in written if text] == ["one\n", "error: two\n"]


def test_a_value_that_cannot_be_written_is_named():
    assert brief(list(range(100)), 5) == "[0, 1"
    assert brief(10**5000) == "a int too large to show"


TOOLS = {
    "ablate": (ablate.main, ["{}", "--out", "o"]),
    "compare": (compare.main, ["{}", "--with", "o"]),
    "evaluate": (evaluate.main, ["{}"]),
    "extract": (extract.main, ["images", "{}", "o.h5"]),
    "figures": (figures.main, ["{}"]),
    "ground": (ground.main, ["--checkpoint", "{}", "--query", "a"]),
    "misses": (misses.main, ["{}"]),
    "features": (prepare.main, ["features", "{}", "o.h5"]),
    "verify": (prepare.main, ["verify", "{}"]),
    "report": (report.main, ["{}"]),
    "train": (train.main, ["--config", "{}"]),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_errors_of_every_command_are_one_printable_line(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main, words = TOOLS[tool]
    assert main([word.format(NASTY) for word in words]) == 2
    error = capsys.readouterr().err
    assert printable(NASTY) in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert printable(error[:-1]) == error[:-1]


def test_logged_lines_are_printable(tmp_path, caplog):
    path = tmp_path / f"{NASTY}.jsonl"
    path.write_text("{}\n")
    with caplog.at_level(logging.WARNING):
        load_own(path, "video", problems=Problems("skip"))
    assert printable(NASTY) in caplog.messages[0]


def test_the_locale_changes_nothing(tmp_path):
    """A table, its YAML and queries in a locale of ASCII, where Python neither writes nor reads UTF-8 by itself."""
    (tmp_path / "train.jsonl").write_text('{"image": "ü", "query": "die Straße"}\n', encoding="utf-8-sig")
    (tmp_path / "test.jsonl").write_text('{"image": "人", "query": "人"}\n', encoding="utf-8-sig")
    text = "name: Grüße\ndata: {dataset: own, root: ., queries: '{split}.jsonl'}\nmodel: {name: ign}\n"
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8-sig")
    root = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": str(root)}
    code = "from tools import prepare, train; assert prepare.main(['verify', 'c.yaml']) == 0; "
    code += "assert train.main(['--config', 'c.yaml', '--show']) == 0"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"name: Gr\xfc\xdfe" in done.stdout
