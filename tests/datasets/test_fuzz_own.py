"""A thousand damaged files of own data, always the same: each is read, or ends in a documented error, and soon."""

import math
import warnings

import numpy as np
import pytest

from relgrounding.datasets import load_own
from relgrounding.features import Regions, write_clip_features, write_region_features
from relgrounding.io import Problems
from relgrounding.training import make_task
from tests.io.bad_inputs import damaged, read
from tests.training.tiny import tiny_config

VALUES = [
    "null", "true", '""', '" "', "0", "-1", "-0.0", "1e308", "-1e308", "1e-320", "1e999", "NaN", "Infinity",
    "-Infinity", "9" * 19, "9" * 400, "9" * 5000, "[]", "{}", "[1, 2]", "[2, 1]", "[1, 1e308]", "[NaN, 3]", "[1, 33.1]",
    "[32, 33]",
    "[[1, 2]]", "[[1, 2], [3]]", "[[1, 2, 3, 4]]", "[1, 2, 3, 4]", "[1, 2, 3, 1e308]", '["1", "2"]', "[true, false]",
    "[" * 300 + "]" * 300, "[" * 3000 + "]" * 3000, "[" * 100_000 + "]" * 100_000, '{"a":' * 500 + "1" + "}" * 500,
    r'"\ud800"', r'"\u0000"', r'"a\u001b[2J\u202e"', r'"\ud83c\udfac"', '"🎬"', '"Straße"', '"人が"', '"../x"', '"x"',
    '"' + "a" * 100_000 + '"', '"e' + "\u0301" * 1000 + '"', '"\u2028"',
]  # fmt: skip
KEYS = (
    "id",
    "video",
    "image",
    "query",
    "duration",
    "size",
    "segment",
    "segments",
    "box",
    "boxes",
    "split",
    "kind",
    "x",
)
LINES = {
    "video": {"video": '"v{}"', "query": '"a door {}"', "duration": "31.2", "segment": "[3, 7.5]"},
    "image": {"image": '"v{}"', "query": '"a door {}"', "size": "[64, 48]", "box": "[1, 2, 30, 40]"},
}


def damage(item, random):
    """Return the bytes of a file of four lines, with values of odd kinds, or damage of any kind, or both."""
    rows = [{key: value.format(k) for key, value in LINES[item].items()} for k in range(4)]
    kind = random.integers(4)
    for _ in range(int(random.integers(1, 3)) if kind else 0):
        row, key = rows[random.integers(4)], KEYS[random.integers(len(KEYS))]
        if random.integers(4):
            row[key] = VALUES[random.integers(len(VALUES))]
            row.pop({"segments": "segment", "boxes": "box"}.get(key, ""), None)  # both together are refused
        else:
            row.pop(key, None)
    lines = ["{" + ", ".join(f'"{key}": {value}' for key, value in row.items()) + "}" for row in rows]
    content = ("\n", "\r\n", "\n\n")[random.integers(3)].join(lines).encode()
    content = content.decode().encode(("utf-8", "utf-8-sig", "utf-16")[random.integers(3)] if kind == 1 else "utf-8")
    return damaged(content, random) if kind in (0, 3) else content


def batch_of_all(config):
    task = make_task(config)
    if task.train.queries:  # a single one is held out
        task.collator(task.train)(list(range(len(task.train.queries))))


@pytest.mark.parametrize("item", LINES)
def test_damaged_files(tmp_path, item):
    random, path = np.random.default_rng(12), tmp_path / "q.jsonl"
    own = ["data.dataset=own", f"data.root={tmp_path}", "data.queries={split}.jsonl", "data.features=f.h5"]
    config = tiny_config("name=fuzz", f"model.name={'vgn' if item == 'video' else 'ign'}", *own)
    names = [f"v{k}" for k in range(4)]
    if item == "video":
        write_clip_features(tmp_path / "f.h5", ((name, np.ones((4, 2))) for name in names), {})
    else:
        boxes = np.array([[0, 0, 9, 9], [5, 5, 30, 40]], np.float32)
        regions = Regions(np.eye(2, dtype=np.float32), boxes, (64, 48))
        write_region_features(tmp_path / "f.h5", ((name, regions) for name in names), {})
    good = "\n".join(
        "{" + ", ".join(f'"{key}": {value.format(k)}' for key, value in LINES[item].items()) + "}" for k in range(4)
    )
    (tmp_path / "test.jsonl").write_text(good)
    outcomes, trained = {True: 0, False: 0}, 0
    for number in range(500):
        path.write_bytes(damage(item, random))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            failed = read(load_own, path, item)
            outcomes[failed] += 1
            problems = Problems("skip")
            if not read(load_own, path, item, None, problems):
                queries, durations, sizes = load_own(path, item, problems=Problems("skip"))
                values = [v for q in queries for t in q.targets for v in t] + [*durations.values()]
                values += [v for size in sizes.values() for v in size]
                assert all(math.isfinite(value) and 0 <= value <= 1e7 for value in values)
                "".join(q.id + q.item + q.text + q.kind for q in queries).encode()
            if number % 10 == 0:
                path.rename(tmp_path / "train.jsonl")
                config.data.on_error = ("stop", "skip")[number // 10 % 2]
                trained += not read(batch_of_all, config)
    assert min(outcomes.values()) > 50, outcomes
    assert trained > 10
