"""Small data sets of one's own, and the settings of a run on them."""

import json

import numpy as np

from relgrounding.features import Regions, write_clip_features, write_region_features
from tests.training.tiny import tiny_config

COLOURS = ("red", "blue", "green", "grey")


def settings(folder, model, *words):
    own = [
        "data.dataset=own",
        f"data.queries={folder}/{{split}}.jsonl",
        f"data.features={folder}/features.h5",
        f"model.name={model}",
        "train.epochs=2",
    ]
    if model == "vgn":
        own += ["model.heads=1", "data.widths=[1,2]"]
    return tiny_config(*own, *words)


def videos(folder, answers):
    random = np.random.default_rng(0)
    write_clip_features(folder / "features.h5", ((f"v{i}", random.standard_normal((4, 3))) for i in range(12)))
    for split, numbers in (("train", range(10)), ("test", range(10, 12))):
        lines = [
            {"video": f"v{i}", "duration": 8.0, "query": f"the {COLOURS[i % 4]} one"}
            | ({"segment": [2, 6]} if answers else {})
            for i in numbers
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def images(folder):
    boxes = np.array([[0, 0, 5, 5], [4, 4, 9, 9]], np.float32)
    features = np.eye(2, dtype=np.float32)
    write_region_features(folder / "features.h5", ((f"i{i}", Regions(features, boxes, (10, 10))) for i in range(12)))
    for split, numbers in (("train", range(10)), ("test", range(10, 12))):
        lines = [{"image": f"i{i}", "query": f"the {COLOURS[i % 4]} one", "box": [0, 0, 5, 5]} for i in numbers]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder
