"""What a run was trained on: the same wherever it lies, another after any edit."""

import dataclasses
import random
import shutil

import numpy as np
import pytest

from relgrounding.datasets import Query, _fingerprint
from relgrounding.datasets._fingerprint import file_digest, queries_digest


def test_a_digest_of_a_file_is_of_its_content_alone(tmp_path):
    first, second = tmp_path / "a.h5", tmp_path / "other" / "b.h5"
    first.write_bytes(random.Random(0).randbytes(100_000))
    second.parent.mkdir()
    shutil.copy(first, second)
    assert file_digest(first) == file_digest(second)
    content = bytearray(first.read_bytes())
    for place in (0, 70_000, 99_999):
        content[place] ^= 1
        second.write_bytes(content)
        assert file_digest(second) != file_digest(first)
        content[place] ^= 1
    second.write_bytes(content + b"\0")
    assert file_digest(second) != file_digest(first)
    second.write_bytes(b"")
    assert file_digest(second) != file_digest(first)


@pytest.mark.parametrize("size", [16 * 8 - 1, 16 * 8, 16 * 8 + 1, 16 * 20])
def test_of_a_large_file_both_ends_and_blocks_between_are_read(tmp_path, monkeypatch, size):
    monkeypatch.setattr(_fingerprint, "BLOCK", 16)
    monkeypatch.setattr(_fingerprint, "MOST_BLOCKS", 8)
    path = tmp_path / "large"
    content = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    path.write_bytes(content.tobytes())
    whole, seen = file_digest(path), 0
    for place in range(size):
        content[place] ^= 1
        path.write_bytes(content.tobytes())
        seen += file_digest(path) != whole
        content[place] ^= 1
    assert seen == min(size, 16 * 8)


def test_a_digest_of_queries_changes_with_every_field():
    query, durations = Query("1", "v", "the red one", ((0.0, 1.5),), "kind", "group"), {"v": 8.0, "other": 3.0}
    digest = queries_digest([[query]], durations)
    assert digest == queries_digest([[query]], {"v": 8.0})
    changes = {"id": "2", "item": "w", "text": "the red", "targets": ((0.0, 1.6),), "kind": "", "group": ""}
    edited = [[dataclasses.replace(query, **{name: value})] for name, value in changes.items()]
    digests = {queries_digest([queries], durations) for queries in [*edited, [], [query, query]]}
    digests.add(queries_digest([[query]], {"v": 8.1}))
    assert len(digests | {digest}) == len(changes) + 4
