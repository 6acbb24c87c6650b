import re
from pathlib import Path

import numpy as np
import pytest

import relgrounding
from relgrounding import predictor, viz
from relgrounding.config import ConfigError, load_config

ROOT = Path(__file__).parent.parent.parent


def test_public_names_are_these():
    assert viz.__all__ == [
        "Items", "Prediction", "Run", "Shown", "ablation_figure", "choose_examples", "differences_figure",
        "draw_graph", "match_runs", "moments_figure", "picture_ids", "read_picture", "read_run", "regions_figure",
        "report_page", "save_figure",
    ]  # fmt: skip
    assert all(getattr(module, name).__doc__ for module in (viz,) for name in module.__all__)
    assert relgrounding.Grounder is predictor.Grounder


def test_the_pictures_of_the_page_on_using_exist_and_are_small():
    names = re.findall(r"!\[.*?\]\((.*?)\)", (ROOT / "docs" / "using.md").read_text())
    assert len(names) == 8
    assert all(0 < (ROOT / "docs" / name).stat().st_size < 150_000 for name in names)


def test_pictures_are_found_by_their_names_and_by_their_coco_numbers(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="pictures need the extra `plot`")
    image.new("RGB", (4, 3), (10, 20, 30)).save(tmp_path / "COCO_train2014_000000581857.png")
    image.new("L", (5, 2)).save(tmp_path / "1000268201.jpg")
    (tmp_path / "notes.txt").write_text("no picture")
    items = viz.Items(load_config(), tmp_path)
    assert items.picture("581857").shape == items.picture("COCO_train2014_000000581857").shape == (3, 4, 3)
    assert items.picture("1000268201").shape == (2, 5, 3)
    assert np.array_equal(items.picture("581857")[0, 0], [10, 20, 30])
    assert items.picture("notes") is None
    with pytest.raises(ConfigError, match="is not a directory of pictures"):
        viz.Items(load_config(), tmp_path / "gone")


def test_generated_scenes_are_those_of_the_run():
    config = load_config(None, ["data.demo_pairs=20"])
    items = viz.Items(config)
    scene = items.scene("test-0-00001-b")
    assert items.size("test-0-00001-b") == scene.size == (640, 480)
    assert items.picture("test-0-00001-b") is scene
    for unknown in ("test-0-00009-a", "test-7-00000-a", "photo"):
        assert items.scene(unknown) is None
        assert items.size(unknown) is None
