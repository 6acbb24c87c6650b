"""relgrounding compare: the right queries, seeds and metrics meet, and the numbers are those of results.json."""

import json
import re

import numpy as np
import pytest

from relgrounding.cli import main
from relgrounding.cli.compare import compare
from relgrounding.evaluation import VideoEvaluator
from relgrounding.viz import read_run
from tests.viz.runs import change_lines, write_run


def with_seed(folder, seed: int):
    path = folder / "config.yaml"
    path.write_text(re.sub(r"(?m)^seed: \d+", f"seed: {seed}", path.read_text()))
    return folder


def rows_of(printed: str, metric: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in printed.splitlines()]
    return {line[1]: line[2:] for line in cells if line[0] == metric and len(line) == 6}


def test_moments_by_every_metric_and_kind(tmp_path, capsys):
    ours = [with_seed(write_run(tmp_path / f"a{s}", 0.1 * (s + 1)), s) for s in range(2)]
    theirs = [with_seed(write_run(tmp_path / f"b{s}", 0.3 * (s + 1)), s) for s in (1, 0)]
    out = tmp_path / "out.md"
    assert main(["compare", *map(str, ours), "--with", *map(str, theirs), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert out.read_text().strip() == printed.strip()
    assert "(the same seeds, in pairs)" in printed
    assert printed.count("| all ") == 2 * 4  # protocols, metrics
    for side, column in ((ours, 1), (theirs, 2)):
        for name, digits in (("R@1,IoU=0.5", 0.06), ("R@1,IoU=0.7", 0.06), ("mIoU", 0.06)):
            means = []
            for folder in side:
                lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
                lines = [line for line in lines if line["protocol"] == "official, select=vote"]
                answers = [np.array([line["top"][0]["proposal"]]) for line in lines]
                evaluator = VideoEvaluator(ranks=(1,), ious=(0.3, 0.5, 0.7))
                means.append(evaluator(answers, [line["targets"] for line in lines])[name])
            assert float(rows_of(printed, name)["all"][column]) == pytest.approx(np.mean(means), abs=digits)
    kinds = rows_of(printed, "mIoU")
    # "person number 3 left of the old door", but one text of 30 is hostile and names no place.
    assert (kinds["all"][0], kinds["place"][0], kinds["other"][0]) == ("30", "29", "1")
    assert "[" in kinds["place"][3]
    assert "[" not in kinds["other"][3]


def test_queries_are_chosen_by_words(tmp_path, capsys):
    ours, theirs = (str(write_run(tmp_path / name, 0.1)) for name in ("a", "b"))
    assert main(["compare", ours, "--with", theirs, "--words", "5", "Number", "--metric", "mIoU"]) == 0
    assert rows_of(capsys.readouterr().out, "mIoU")["all"][0] == "29"  # one text of 30 is hostile
    assert main(["compare", ours, "--with", theirs, "--words", "17", "umber", "--metric", "mIoU"]) == 0
    assert rows_of(capsys.readouterr().out, "mIoU")["all"][0] == "1"


def test_the_table_does_not_replace_a_file_of_a_run(tmp_path, capsys):
    ours, theirs = (write_run(tmp_path / name, 0.1) for name in ("a", "b"))
    for out in (ours / "config.yaml", theirs / "predictions.jsonl"):
        before = out.read_bytes()
        assert main(["compare", str(ours), "--with", str(theirs), "--out", str(out)]) == 2
        assert "would be replaced; name another output" in capsys.readouterr().err
        assert out.read_bytes() == before
    (mine := tmp_path / "mine.md").write_text("mine")
    assert main(["compare", str(ours), "--with", str(theirs), "--out", str(mine)]) == 2
    assert "mine.md is a file of another kind, and is not replaced" in capsys.readouterr().err
    assert mine.read_text() == "mine"


def test_runs_are_paired_by_seed_and_queries_by_id(tmp_path):
    """Seed 1 is good and seed 0 bad in both systems: in pairs there is no difference, and no interval around it."""
    sides = [[with_seed(write_run(tmp_path / f"{side}{s}", 0.05 if s else 0.6, video=False), s) for s in order]
             for side, order in (("a", (0, 1)), ("b", (1, 0)))]  # fmt: skip
    path = sides[1][1] / "predictions.jsonl"
    path.write_text("\n".join(reversed(path.read_text().splitlines())) + "\n")
    runs = [[read_run(path) for path in side] for side in sides]
    (found,) = compare(*runs)
    assert (found.metric, found.split, found.protocol) == ("Acc@0.5", "test", "single")
    assert (found.kinds["all"].mean, found.kinds["all"].low, found.kinds["all"].high) == (0, 0, 0)
    (open_,) = compare(runs[0], runs[1][:1])
    assert open_.kinds["all"].low < 0


def test_generated_queries_differ_between_seeds_and_are_paired_within(tmp_path):
    sides = []
    for side, shift in (("a", 0.0), ("b", 5.0)):
        for s in (0, 1):
            folder = with_seed(write_run(tmp_path / f"{side}{s}", shift, video=False, queries=10), s)
            change_lines(folder, lambda line, s=s: {**line, "id": f"{s}-{line['id']}", "item": f"{s}-{line['item']}"})
            sides.append(read_run(folder))
    (found,) = compare(sides[:2], sides[2:])
    assert found.kinds["all"].queries == 20
    assert found.kinds["all"].ours == 100


def test_what_cannot_be_compared_is_said_in_one_line(tmp_path, capsys):
    video, image = write_run(tmp_path / "v", 0.1), write_run(tmp_path / "i", 0.1, video=False)
    for words, message in (
        ([video, "--with", image], "one run is about videos, another about images"),
        (
            [video, "--with", video, "--protocol", "x"],
            "they have v: split test, protocol official, select=score; v: split test",
        ),
        ([video, "--with", video, "--metric", "R@9"], "; their metrics: R@1,IoU=0.3; R@1,IoU=0.5; "),
        ([video, "--with", video, "--metric", "mIoU", "R@9"], "there is no metric 'R@9'; the metrics are "),
        ([video, "--with", video, "--words", "next to"], "'next to' is not one word of a sentence"),
        ([video, "--with", video, "--words", ""], "'' is not one word of a sentence"),
        ([video, "--with", video, "--words", "zebra", "gnu"], "asked for, with zebra or gnu; they have v: "),
        ([video, "--with", video, "--confidence", "95"], "--confidence is 95.0; give a share"),
        ([video, "--with", video, "--resamples", "9999999"], "--resamples is 9999999; give 1 to 1,000,000"),
        ([video, f"{video}/.", "--with", video], f"{video} is given twice as a run of one system"),
        ([video, "--with", tmp_path / "none"], "none"),
    ):
        assert main(["compare", *map(str, words)]) == 2
        assert message in capsys.readouterr().err
