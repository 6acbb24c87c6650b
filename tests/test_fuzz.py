"""Damaged configurations, words, grids and run folders: each is read or refused by a documented error."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from relgrounding.config import ConfigError, config_to_yaml, load_config
from relgrounding.evaluation import read_results
from relgrounding.runs import RunError, RunFolder
from relgrounding.training import grid_cells, grid_jobs, grid_table, job_is_done, read_grid
from relgrounding.viz import choose_examples, match_runs, read_run, report_page
from tests.viz.runs import write_run

ROOT = Path(__file__).parent.parent
FILES = [*sorted((ROOT / "configs").glob("*.yaml")), ROOT / "configs" / "ablations" / "ccl.yaml"]
ODD = ["nan", "-inf", "1e999", "-1", "0", "1" * 400, "1.5", "''", "null", "~", "[]", "{}", "[[1]]", "{a: b}",
    "[1, a]", "true", "no", "2024-01-01", "12:30:45", "0x1f", "0b1", "🎬", "'\\ud83c'", '"\\ud83c"', '"\\0"',
    '"\\u202e"', "\u2028", "\ufeff", "\x07", "\0", "${seed}", "${oc.env:HOME}", "???",
    "!!python/object/apply:os.getcwd []", "!x y", "&a x", "*a", "&a [*a]", "<<", "? x", "- x", "a: b: c", "#",
    "%", "@", "`", "|", ">", "'", '"', "[" * 60, "{a: " * 60, "x" * 5000, "٣", "1_0", "-", "../..", "/",
    "\t"]  # fmt: skip
LINES = ["{", "[]", "null", "1", '"x"', "{}", "[" * 3000, '{"a":' * 3000, '{"step": "x", "loss": []}',
    '{"loss": NaN, "step": 1}', '{"step": null, "loss": 1}', '{"protocol": []}', "\u2028", "\0",
    "1" * 5000]  # fmt: skip
VALUES = [None, True, -1, 0, 1e308, float("nan"), float("inf"), 10**400, "", "x", "\ud800", "a/b", [], {},
    [[]], [None], {"a": 1}, [1], [1, 2, 3], [[1, 2]], [["a", "b"]], [[5, 1]], [[float("nan"), 1]]]  # fmt: skip


def damaged_text(rng: random.Random, text: str) -> bytes:
    """Return a text with one to three scalars, lines or bytes of it changed."""
    lines = text.split("\n")
    for _ in range(rng.randint(1, 3)):
        at, kind = rng.randrange(len(lines)), rng.randrange(6)
        head, colon, _ = lines[at].partition(":")
        if kind <= 2:
            lines[at] = f"{head}{colon or ':'} {rng.choice(ODD)}"
        elif kind == 3:
            lines[at] = rng.choice(["", "  ", " " * 40]) + rng.choice([head, *ODD]) + ": " + rng.choice(ODD)
        elif kind == 4:
            del lines[at:]
        else:
            lines.insert(at, lines[rng.randrange(len(lines))] if lines else "")
        lines = lines or [""]
    content = bytearray("\n".join(lines).encode("utf-8", "surrogatepass"))
    if content and rng.random() < 0.2:
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def damaged_json(rng: random.Random, value: object) -> object:
    """Return data with one value in it replaced, removed or doubled."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        copy = value.copy()
        if rng.random() < 0.1:
            del copy[key]
        else:
            copy[key] = damaged_json(rng, copy[key])
        return copy
    return rng.choice(VALUES)


def only(errors: tuple[type[Exception], ...], run: Callable[[], object], given: object) -> None:
    """Run; an error is one of these."""
    try:
        run()
    except errors:
        pass
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error!s:.200} for {given!a:.1500}") from error


def keys(settings: dict, prefix: str = "") -> list[str]:
    found = []
    for key, value in settings.items():
        found += keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return found


def fuzz_configurations(rng: random.Random, folder: Path, count: int) -> None:
    texts = [path.read_text() for path in FILES[:-1]] + [config_to_yaml(load_config())]
    for _ in range(count):
        text = damaged_text(rng, rng.choice(texts))
        (folder / "c.yaml").write_bytes(text)
        # A line that lands in another section may be a setting's former name; its warning is an error under pytest.
        only((ConfigError, FutureWarning), lambda: config_to_yaml(load_config(folder / "c.yaml")), text)


def fuzz_words(rng: random.Random, folder: Path, count: int) -> None:
    import yaml

    known = keys(yaml.safe_load(config_to_yaml(load_config())))
    for _ in range(count):
        key = rng.choice(known) if rng.random() < 0.9 else rng.choice(["", ".", "train", "a.b", "data.", *ODD])
        word = key + rng.choice(["=", "=", "=", "=", "", " = ", "+="]) + rng.choice(ODD) * rng.choice([1, 1, 1, 2])

        def run(word: str = word) -> None:
            (folder / "kept.yaml").write_text(config_to_yaml(load_config(None, [word])), encoding="utf-8")
            load_config(folder / "kept.yaml")

        only((ConfigError,), run, word)


def fuzz_grids(rng: random.Random, folder: Path, count: int) -> None:
    text = FILES[-1].read_text()
    for _ in range(count):
        grid = damaged_text(rng, text)
        (folder / "g.yaml").write_bytes(grid)
        few = rng.random() < 0.1  # of a grid that can be read, the 27 configurations take seconds
        only((ConfigError,), lambda few=few: grid_jobs(read_grid(folder / "g.yaml"), folder) if few else
             read_grid(folder / "g.yaml"), grid)  # fmt: skip


def fuzz_runs(rng: random.Random, folder: Path, count: int) -> None:
    whole = [write_run(folder / "video", 0.3, queries=4), write_run(folder / "image", 1.0, video=False, queries=4)]
    run = folder / "damaged"
    for _ in range(count):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(rng.choice(whole), run)
        name = rng.choice(["config.yaml", "results.json", "predictions.jsonl", "predictions.jsonl", "log.jsonl"])
        path = run / name
        if name == "config.yaml" or rng.random() < 0.15:
            path.write_bytes(damaged_text(rng, path.read_text()))
        elif name == "results.json":
            path.write_text(json.dumps(damaged_json(rng, json.loads(path.read_text()))))
        else:
            lines = path.read_text().splitlines()
            at = rng.randrange(len(lines))
            odd = rng.random() < 0.2
            lines[at] = rng.choice(LINES) if odd else json.dumps(damaged_json(rng, json.loads(lines[at])))
            path.write_text("\n".join(lines), encoding="utf-8", errors="replace")

        def read() -> None:
            found = read_run(run)
            choose_examples(match_runs([found]), 3)
            report_page([found])

        only((ConfigError, RunError), read, (name, path.read_bytes()))
        only((ConfigError, RunError), RunFolder(run).read_config, path.read_bytes())
        only((ConfigError, RunError, ValueError), lambda: read_results(run / "results.json"), path.read_bytes())


@pytest.mark.parametrize("fuzz", [fuzz_configurations, fuzz_words, fuzz_grids, fuzz_runs], ids=lambda f: f.__name__)
@pytest.mark.parametrize(("seed", "count"), [(0, 25), pytest.param(1, 500, marks=pytest.mark.slow)])
def test_what_is_damaged_is_read_or_refused_by_a_documented_error(tmp_path, monkeypatch, fuzz, seed, count):
    monkeypatch.chdir(ROOT)
    fuzz(random.Random(seed), tmp_path, count)


@pytest.mark.slow
def test_results_of_a_grid_that_are_damaged_are_refused_by_name(tmp_path):
    rng, grid = random.Random(0), read_grid(FILES[-1])
    column = grid.experiments["flickr30k_ign"].columns[0]
    figures = {
        "metrics": {column.metric: 50.0},
        "floors": {"random": {column.metric: 30.0}},
        "oracle": {column.metric: 99.0},
    }
    entry = {"split": column.split, "protocol": column.protocol, **figures}
    path = tmp_path / "flickr30k_ign-MIL-0" / "results.json"
    path.parent.mkdir()
    for _ in range(15):
        content = json.dumps(damaged_json(rng, [entry]))
        path.write_text(content)
        only(
            (ConfigError, RunError, ValueError),
            lambda: (grid_cells(grid, tmp_path), grid_table(grid, tmp_path)),
            content,
        )
    (tmp_path / "flickr30k_ign-MIL-0" / "config.yaml").write_text("[")
    with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read as YAML"):
        job_is_done(next(j for j in grid_jobs(grid, tmp_path) if j.name == "flickr30k_ign-MIL-0"), tmp_path)
