import importlib.util
import json
from pathlib import Path

import pytest

from relgrounding.runs import RunError
from relgrounding.viz import choose_examples, match_runs, read_run


def _module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


write_run = _module(Path(__file__).parent / "runs.py").write_run
figures = _module(Path(__file__).parent.parent.parent / "tools" / "figures.py")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [write_run(root / "first", 0.5), write_run(root / "second", 0.2)]


def test_iou_is_that_of_the_first_answer(folders, tmp_path):
    run = read_run(folders[0])
    assert run.protocols == ["official, select=score", "official, select=vote"]
    assert run.main_protocol == "official, select=vote"
    for i, prediction in enumerate(run.predictions[:30]):
        off = min(0.5 * i, 10)
        assert prediction.iou == pytest.approx((10 - off) / (10 + off))
    images = read_run(write_run(tmp_path / "images", 1.0, video=False))
    for i, prediction in enumerate(images.predictions):
        assert prediction.iou == pytest.approx((50 - i) / (50 + i))


def test_examples_are_the_best_the_worst_and_the_most_improved(folders):
    matched = match_runs([read_run(path) for path in folders])
    assert len(matched) == 30
    examples = choose_examples(matched, 12)
    assert [kind for kind, _ in examples] == ["best"] * 4 + ["worst"] * 4 + ["improved"] * 4
    best = [row[-1].iou for kind, row in examples if kind == "best"]
    worst = [row[-1].iou for kind, row in examples if kind == "worst"]
    assert min(best) > max(worst)
    assert all(row[-1].iou > row[0].iou for kind, row in examples if kind == "improved")
    assert len({row[0].item for _, row in examples}) == 12
    assert len({row[0].key for _, row in choose_examples(matched, 29)}) == 29
    assert {kind for kind, _ in choose_examples([row[:1] for row in matched], 5)} == {"best", "worst"}


def test_runs_without_anything_in_common_are_refused(folders, tmp_path):
    other = read_run(write_run(tmp_path / "images", 1.0, video=False))
    with pytest.raises(RunError, match="has no protocol 'official, select=vote'; it has single"):
        match_runs([read_run(folders[0]), other])
    with pytest.raises(RunError, match="is no run"):
        read_run(tmp_path / "nothing")
    broken = write_run(tmp_path / "broken", 1.0)
    (broken / "predictions.jsonl").write_text('{"split": "test", "protocol": "x"}\n')
    with pytest.raises(RunError, match="repeat it with"):
        read_run(broken)
    (broken / "predictions.jsonl").write_text("{\n")
    with pytest.raises(RunError, match="line 1"):
        read_run(broken)


def test_queries_without_a_right_answer_are_left_out(tmp_path):
    folder = write_run(tmp_path / "run", 1.0)
    path = folder / "predictions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(json.dumps(line | {"targets": []} if line["id"] == "q3" else line) + "\n" for line in lines)
    )
    assert {p.id for p in read_run(folder).predictions} == {f"q{i}" for i in range(30) if i != 3}
    path.write_text("".join(json.dumps(line | {"targets": []}) + "\n" for line in lines))
    with pytest.raises(RunError, match="no query has a right answer to compare with"):
        read_run(folder)


@pytest.mark.parametrize("video", [True, False])
def test_the_tool_draws_what_it_says(tmp_path, capsys, video):
    pytest.importorskip("matplotlib", reason="figures need the extra `plot`")
    folders = [str(write_run(tmp_path / name, shift, video, 6)) for name, shift in (("a", 2.0), ("b", 1.0))]
    assert figures.main([*folders, "--n", "3"]) == 0
    names = {path.name for path in (tmp_path / "b" / "figures").iterdir()}
    assert names == {"best_01.png", "worst_01.png", "improved_01.png"}
    assert "1 best, 1 worst, 1 improved" in capsys.readouterr().out
    assert figures.main([*folders, "--n", "0"]) == 2
    assert figures.main([folders[0], str(tmp_path / "gone")]) == 2
    assert json.loads((tmp_path / "a" / "results.json").read_text())
