"""What the tests of bad input share: damage, small files to damage, and `read`."""

import json

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from relgrounding.config import ConfigError
from relgrounding.features import Regions, write_clip_features, write_region_features
from relgrounding.io import DataError

FUZZ = settings(max_examples=150, suppress_health_check=list(HealthCheck), database=None)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def read(function, *arguments):
    """Return whether a documented error came; any other exception is a failure of the test."""
    try:
        function(*arguments)
    except (DataError, ConfigError) as error:
        text = str(error)
        assert len(text) > 20, text
        return True
    return False


def damaged(content, random):
    """Return a file's content cut off, or with a few bytes changed, moved in or taken out."""
    kind = random.integers(4)
    place = int(random.integers(len(content)))
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + bytes(random.integers(0, 256, 3, dtype=np.uint8)) + content[place:]
    if kind == 2:
        return content[:place] + content[place + int(random.integers(1, 20)) :]
    changed = bytearray(content)
    for _ in range(int(random.integers(1, 8))):
        changed[int(random.integers(len(changed)))] = int(random.integers(256))
    return bytes(changed)


def clip_file(path):
    write_clip_features(path, [(f"v{i}", np.full((2, 3), i)) for i in range(3)], {"description": "x"})
    return path


def region_file(path):
    boxes = np.array([[0, 0, 5, 5], [2, 2, 9, 9]], np.float32)
    write_region_features(path, [(f"i{i}", Regions(np.eye(2, dtype=np.float32), boxes, (10, 10))) for i in range(3)])
    return path


def read_all(store):
    for key in [*store.ids, "v0", "i0"]:
        if key in store:
            store[key]
    _ = store.dim, store.attributes


def refs():
    return [
        {"ref_id": 7, "ann_id": 5, "image_id": 2, "split": "val", "sentences": [{"sent_id": 3, "sent": "left dog"}]}
        for _ in range(3)
    ]


def refcoco(root, content, instances=None):
    folder = root / "refcoco"
    folder.mkdir(exist_ok=True)
    (folder / "refs(unc).p").write_bytes(content)
    entry = {"id": 5, "image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4]}
    good = {
        "images": [{"id": 2, "width": 30, "height": 40}],
        "annotations": [entry],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (folder / "instances.json").write_bytes(instances or json.dumps(good).encode())
    return json.dumps(good).encode()
