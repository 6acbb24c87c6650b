"""The commands as a user types them: names, help, errors, settings, completion."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import relgrounding
from relgrounding import cli
from relgrounding._settings import find_config, packaged_configs
from relgrounding.cli import settings, train
from relgrounding.config import ConfigError, load_config
from tests.training.tiny import TINY

ROOT = Path(__file__).parents[2]


def python(*words: str, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, **options)


def test_help_and_version_come_without_torch():
    """The time to import torch and DGL is seconds; what may be waited for is the rest."""
    code = "import sys, time; start = time.perf_counter(); from relgrounding import cli; cli.main([{}])"
    code += "; print(time.perf_counter() - start, [m for m in ('torch', 'dgl', 'h5py', 'numpy') if m in sys.modules])"
    done = python("-c", code.format(""))
    assert all(re.search(rf"^    {name} ", done.stdout, flags=re.MULTILINE) for name in cli.COMMANDS)
    seconds, loaded = done.stdout.splitlines()[-1].split(" ", 1)
    assert (loaded, float(seconds) < 1.5) == ("[]", True)
    assert python("-m", "relgrounding", "--version").stdout == f"relgrounding {relgrounding.__version__}\n"


def test_grounder_is_imported_without_what_it_does_not_need():
    done = python("-c", "import sys; from relgrounding import Grounder; print(*sys.modules)")
    assert done.returncode == 0
    # PyTorch's compiler takes longer to import than PyTorch.
    assert not {"tensorboard", "torch._dynamo", "sympy"} & set(done.stdout.split())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    printed = capsys.readouterr().out
    assert f"usage: relgrounding {name}" in printed
    assert f"    relgrounding {name}" in printed


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["ground", "a\x1b[2J"], r"--checkpoint"),
        (["report", "run", "--x\x1b[2J\n"], r"unrecognized arguments: --x\x1b[2J\n"),
        (["tr\x1b[2Jain"], r"tr\x1b[2Jain"),
    ],
)
def test_words_that_are_no_options_are_shown_without_control_characters(words, error, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(words)
    printed = capsys.readouterr().err
    assert error in printed
    assert printed.replace("\n", "").isprintable()


@pytest.mark.parametrize("count", ["0", "-2"])
def test_training_needs_a_thread(count, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["train", "--threads", count])
    assert f"argument --threads: {count} is less than 1" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_every_command_and_option(shell, capsys):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--print-completion", shell])
    script = capsys.readouterr().out
    assert all(name in script for name in cli.COMMANDS)
    assert all(option in script for option in ("overwrite", "clip-frames", "box-format"))


@pytest.mark.parametrize(
    ("words", "resume", "others"),
    [
        (["a=1"], False, ["a=1"]),
        (["--resume", "demo"], True, ["demo"]),
        (["a=1", "--resume", "a=2"], True, ["a=1", "a=2"]),
        (["--resume", "auto", "demo"], "auto", ["demo"]),
        (["demo", "--resume=auto"], "auto", ["demo"]),
        (["--resume", "--", "auto"], True, ["auto"]),
    ],
)
def test_resume_takes_no_other_word_for_its_value(words, resume, others, monkeypatch):
    monkeypatch.setattr(train, "run", lambda arguments: found.append((arguments.resume, arguments.words)))
    found = []
    assert cli.main(["train", *words]) == 0
    assert found == [(resume, others)]


def test_configurations_go_by_name(tmp_path, monkeypatch, capsys):
    assert set(packaged_configs()) == {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    assert load_config("charades_vgn") == load_config(ROOT / "configs" / "charades_vgn.yaml")
    assert find_config("ccl", "ablations").is_file()
    with pytest.raises(ConfigError, match=r"no grid 'cll': .*FILE\.yaml; did you mean 'ccl'"):
        find_config("cll", "ablations")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--show", "train.epochs=3", "refcoco_ign"]) == 0
    shown = capsys.readouterr().out
    assert "name: refcoco_ign\n" in shown
    assert "epochs: 3\n" in shown
    assert cli.main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in packaged_configs():
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert len(line.split(maxsplit=1)[1]) > 20
    assert cli.main(["train", "charades_vgm"]) == 2
    assert "no configuration 'charades_vgm'" in (error := capsys.readouterr().err)
    assert "did you mean 'charades_vgn'" in error
    assert cli.main(["train", "demo", "--config", "refcoco_ign"]) == 2
    assert "give one configuration" in capsys.readouterr().err


def test_overrides_are_words_or_values():
    words = ["train.epochs=3", "data.test_splits=[testA,testB]", "name='a b'", "data.demo_noise=0.5"]
    values = {
        "train.epochs": 3,
        "data.test_splits": ["testA", "testB"],
        "name": "a b",
        "data.demo_noise": 0.5,
    }
    assert load_config("demo", values) == load_config("demo", words)
    assert load_config("demo", {"name": "'a'"}).name == "'a'"
    for value in (None, {}, object()):
        with pytest.raises(ConfigError):
            load_config("demo", {"train.epochs": value})


def test_a_run_from_python(tmp_path, capsys):
    values = dict(word.split("=") for word in TINY) | {"train.epochs": 1, "name": "t"}
    run = relgrounding.train("demo", runs=tmp_path, quiet=True, **values)
    assert capsys.readouterr().out == ""
    assert run.path == tmp_path / "t"
    assert run.results == json.loads((run.path / "results.json").read_text())
    found = relgrounding.evaluate(run, splits=["test"], quiet=True)
    assert found.table == run.table
    assert found.results[0]["metrics"] == run.results[0]["metrics"]
    assert relgrounding.train("demo", runs=tmp_path, resume=True, quiet=True, **values).results == run.results
    with pytest.raises(ConfigError, match="demo is generated, and reads no files"):
        relgrounding.evaluate(run, data={"features": "x.h5"})


def test_a_run_says_at_its_start_what_it_computes_with(tmp_path, capsys):
    assert cli.main(["train", *TINY, "train.epochs=1", "name=t", "device=cpu", "--runs", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "\r" not in printed.err
    lines = dict(line.split(maxsplit=1) for line in printed.out.splitlines()[:5])
    assert lines.keys() == {"device", "precision", "backend", "parameters", "queries"}
    assert (lines["device"], lines["precision"], lines["backend"]) == ("cpu, 1 thread", "float32", "auto")
    assert re.fullmatch(r"[\d,]+ to train on, [\d,]+ held out", lines["queries"])
    assert printed.out.splitlines()[5] == f"kept in     {tmp_path / 't'}"
    assert cli.main(["train", *TINY, "name=u", "device=cuda:99", "--runs", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: device is cuda:99, which is not available here")
    assert error.count("\n") == 1


def test_a_split_that_there_is_not_is_found_before_training(tmp_path, capsys):
    words = [*TINY, "name=t", "data.test_splits=[test,testC]", "--runs", str(tmp_path)]
    assert cli.main(["train", *words]) == 2
    assert "demo has no split 'testC'; it has train, test" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


def test_missing_test_annotations_are_found_before_training(tmp_path, capsys):
    (tmp_path / "charades_sta").mkdir()
    (tmp_path / "charades_sta" / "charades_sta_train.txt").write_text("AAAAA 0.0 5.0##a person sits.\n")
    assert cli.main(["train", "charades_vgn", f"data.root={tmp_path}", "name=t", "--runs", str(tmp_path)]) == 2
    assert "charades_sta_test.txt not found; download" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("name", "split", "known"),
    [("charades_vgn", "val", "train, test"), ("refcoco_ign", "testC", "train, val, testA, testB")],
)
def test_splits_of_published_data_sets_are_known_without_their_files(name, split, known):
    dataset = load_config(name).dataset
    with pytest.raises(ConfigError, match=f"has no split '{split}'; it has {known}"):
        dataset.check_splits([split])


def test_splits_of_your_own_data_are_those_of_its_lines(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"image": "a", "query": "b", "split": "train"}\n{"image": "a", "query": "b", "split": "hard"}\n')
    dataset = load_config(None, ["data.dataset=own", f"data.queries={path}"]).dataset
    dataset.check_splits(["hard"])
    with pytest.raises(ConfigError, match=r"q\.jsonl has no line of split 'easy'; it has hard, train"):
        dataset.check_splits(["hard", "easy"])


def test_every_setting_has_a_meaning_and_the_page_has_all_of_them():
    found = [setting for section in settings.sections(plugins=False) for setting in section.settings]
    assert [setting.key for setting in found if not setting.meaning] == []
    keys = {setting.key for setting in found}
    assert {"train.epochs", "data.demo_pairs", "model.top_r", "eval.batch_size", "mil.negatives", "seed"} <= keys
    page = ROOT / "docs" / "settings.md"
    assert page.read_text() == settings.page(), "write it again: relgrounding settings --page > docs/settings.md"


def test_settings_of_a_section_and_of_a_word(capsys):
    assert cli.main(["settings", "train"]) == 0
    assert "`train.epochs` (integer, 1 or more; default `10`)" in (printed := capsys.readouterr().out)
    assert "`model." not in printed
    assert cli.main(["settings", "noise"]) == 0
    assert re.findall(r"^- `(.*?)`", capsys.readouterr().out, flags=re.MULTILINE) == ["data.demo_noise"]
    assert cli.main(["settings", "nothing_of_the_kind"]) == 2


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch, capsys):
    from relgrounding import _printing

    monkeypatch.setattr(_printing, "SECONDS", 0.05)
    began = time.monotonic()
    for _ in _printing.progress(range(20), desc="work", unit="item"):
        time.sleep(0.02)
    # As many as the time allows, which is longer where the machine is busy.
    most = (time.monotonic() - began) / 0.045 + 1
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= most
    assert all(line.startswith("work: ") for line in lines)
    for _ in _printing.progress(range(3), desc="work", unit="item"):
        pass
    assert capsys.readouterr().err == ""
    bar = _printing.progress(range(40), desc="work", unit="item")
    for done in bar:
        time.sleep(0.01)
        bar.refresh()  # as a thread of tqdm does where iterations are slow
        assert bar.n <= done + 1
    assert all("/40 [" in line for line in capsys.readouterr().err.splitlines())
    began = time.monotonic()
    with _printing.progress(total=2, desc="runs", unit="run") as bar:
        for _ in range(20):
            bar.set_postfix_str("first, second")
            time.sleep(0.02)
    most = (time.monotonic() - began) / 0.045 + 1
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= most
    assert all(line.endswith("first, second]") for line in lines)


def test_a_command_that_never_looks_ends_at_the_first_interruption(monkeypatch, capsys):
    from relgrounding import _signals
    from relgrounding.cli import env, run

    def busy(arguments):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    monkeypatch.setattr(env, "run", busy)
    with _signals.caught():
        assert run("env", []) == 130
    assert "stopped by SIGINT" in capsys.readouterr().err


@pytest.fixture
def signals(monkeypatch):
    """What catches signals, and every signal's handler as it was at the end; a process that would end raises."""
    from relgrounding import _signals

    def end(status):
        raise SystemExit(status)

    before = {number: signal.getsignal(number) for number in _signals.STOPPING}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background of a script ignore it
    monkeypatch.setattr(_signals, "_caught", None)
    monkeypatch.setattr(os, "_exit", end)
    yield _signals
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("looks", [True, False])
def test_signals_while_the_last_line_is_printed_do_not_take_it_away(signals, monkeypatch, capfd, looks):
    from relgrounding.cli import env, run

    def work(_):
        signal.raise_signal(signal.SIGINT)
        signals.look()

    def is_main():
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        return True

    monkeypatch.setattr(env, "run", work)
    monkeypatch.setattr(signals, "is_main", is_main)
    if looks:
        monkeypatch.setattr(env, "LEFT", "all is there", raising=False)
    with pytest.raises(SystemExit) as ended:
        signals.run_command(lambda: run("env", []))
    assert ended.value.code == 128 + signal.SIGINT
    left = "all is there" if looks else "the same command starts it"
    assert capfd.readouterr().err == f"\nstopped by SIGINT; {left}\n"


def test_a_terminal_that_is_gone_does_not_change_how_a_signal_ends_a_command(signals, monkeypatch):
    def main():
        signal.raise_signal(signal.SIGHUP)
        signals.look()

    class Gone:
        def write(self, *_):
            raise OSError(errno.EIO, "Input/output error")

        flush = write

    monkeypatch.setattr(sys, "stdout", Gone())
    monkeypatch.setattr(sys, "stderr", Gone())
    with pytest.raises(SystemExit) as ended:
        signals.run_command(main)
    assert ended.value.code == 128 + signal.SIGHUP


def test_a_second_signal_ends_a_process_whatever_fails_meanwhile(signals, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "write", fail)
    with signals.caught(), pytest.raises(SystemExit) as ended, signals.held(fail):  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        raise AssertionError("it went on")
    assert ended.value.code == 128 + signal.SIGHUP


def test_a_signal_is_not_lost_before_the_first_look_or_after_the_last(signals):
    with pytest.raises(KeyboardInterrupt), signals.caught():  # noqa: PT012
        signals.look()
        signal.raise_signal(signal.SIGINT)
    with signals.caught(), pytest.raises(signals.Interrupted):  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
        with signals.uncaught():
            raise AssertionError("it went on")
