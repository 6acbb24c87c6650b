import json

import numpy as np
import pytest

from relgrounding.cli.misses import rows_of
from relgrounding.runs import RunError
from relgrounding.viz import choose_examples, match_runs, read_run
from relgrounding.viz._figure import GAP
from relgrounding.viz._predictions import draw_differing
from tests.viz.runs import change_lines, explanation, write_run
from tools import figures


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [write_run(root / "first", 0.5), write_run(root / "second", 0.2)]


def test_iou_and_hit_are_those_of_the_first_answer(folders, tmp_path):
    run = read_run(folders[0])
    assert run.protocols == ["official, select=score", "official, select=vote"]
    for i, prediction in enumerate(run.predictions[:30]):
        off = min(0.5 * i, 10)
        assert prediction.iou == pytest.approx((10 - off) / (10 + off))
        assert prediction.hit == (prediction.iou >= 0.5)
    # An IoU of exactly 0.5 is right in the union reading of Flickr30k, and wrong for the single box of RefCOCO.
    for protocol, hit in (("single", False), ("union", True)):
        folder = write_run(tmp_path / protocol, 50 / 3, video=False, queries=2, protocols=[protocol])
        change_lines(folder, lambda line: line | {"top": [{"proposal": [10, 10, 60, 35], "score": 1}]})
        assert [(p.iou, p.hit) for p in read_run(folder).predictions] == [(0.5, hit)] * 2


@pytest.mark.parametrize(
    ("video", "protocols", "main"),
    [
        (True, ["official, select=vote", "official, select=score"], "official, select=vote"),
        (True, ["official, select=score"], "official, select=score"),
        (False, ["any", "union"], "union"),
    ],
)
def test_the_main_protocol_is_known_by_its_name(tmp_path, video, protocols, main):
    assert read_run(write_run(tmp_path / "run", 1.0, video, 2, protocols)).main_protocol == main


@pytest.mark.parametrize("video", [True, False])
def test_a_line_holds_the_frame_of_its_item_and_an_old_one_none(tmp_path, video):
    frame = (80.0,) if video else (640.0, 480.0)
    run, old = (read_run(write_run(tmp_path / str(old), 1.0, video, 3, old=old)) for old in (False, True))
    assert {p.frame for p in run.predictions} == {frame}
    assert {p.frame for p in old.predictions} == {()}
    assert set(run.origin) - set(old.origin) == {"date", "device"}
    for wrong in ([-1.0] * len(frame), "long", [float("inf")] * len(frame), [1.0] * 3):
        folder = write_run(tmp_path / "wrong", 1.0, video, 3)
        change_lines(folder, lambda line: line | ({"duration": wrong} if video else {"size": wrong}))  # noqa: B023 run at once
        with pytest.raises(RunError, match="repeat it with relgrounding evaluate"):
            read_run(folder)


def test_a_line_holds_what_neighbours_said_and_a_damaged_one_is_refused(tmp_path):
    folder = write_run(tmp_path / "run", 1.0, queries=2, explained=True)
    first = read_run(folder).predictions[0].neighbours[0]
    assert first[:4] == ((40.0, 60.0), "relation.0", "after $", 0.9)
    assert first.opened_by() == [("<b>left", 0.45)]
    damages = [
        {"weight": "much"},
        {"weight": float("nan")},
        {"words": [["left"]]},
        {"proposal": 3},
        {"proposal": [1, float("inf")]},
    ]
    for damage in damages:
        why = explanation()
        why["neighbours"][0] |= damage
        change_lines(folder, lambda line: line | {"explanation": why})  # noqa: B023 run at once
        with pytest.raises(RunError, match="repeat it with relgrounding evaluate"):
            read_run(folder)
    change_lines(folder, lambda line: line | {"explanation": [3]})
    with pytest.raises(RunError, match="repeat it with relgrounding evaluate"):
        read_run(folder)


def test_examples_are_the_best_the_worst_misses_and_the_most_improved(folders, tmp_path):
    matched = match_runs([read_run(path) for path in folders])
    assert len(matched) == 30
    examples = choose_examples(matched, 12)
    assert [kind for kind, _ in examples] == ["best"] * 4 + ["worst"] * 4 + ["improved"] * 4
    best = [answers[-1].iou for kind, answers in examples if kind == "best"]
    worst = [answers[-1].iou for kind, answers in examples if kind == "worst"]
    assert min(best) > max(worst)
    assert all(answers[-1].iou > answers[0].iou for kind, answers in examples if kind == "improved")
    assert len({answers[0].item for _, answers in examples}) == 12
    assert len({answers[0].key for _, answers in choose_examples(matched, 29)}) == 29
    assert {kind for kind, _ in choose_examples([answers[:1] for answers in matched], 5)} == {"best", "worst"}
    perfect = match_runs([read_run(write_run(tmp_path / "perfect", 0.0))])
    assert [kind for kind, _ in choose_examples(perfect, 3)] == ["best"] * 3


def test_differing_examples_are_drawn_among_all_that_runs_disagree_on(folders):
    matched = match_runs([read_run(path) for path in folders])
    mixed = {answers[0].key for answers in matched if answers[0].hit != answers[1].hit}
    assert 1 < len(mixed) < len(matched)
    drawn = draw_differing(matched, 100)
    assert {answers[0].key for _, answers in drawn} == mixed
    assert len(drawn) == len(mixed)
    first = {draw_differing(matched, 1, seed)[0][1][0].key for seed in range(200)}
    assert first == mixed
    once = [answers[0].item for _, answers in drawn]
    assert len(set(once[: len(set(once))])) == len(set(once))
    with pytest.raises(ValueError, match="answered right by some of the runs and wrong by others"):
        draw_differing([answers[:1] for answers in matched], 1)


def test_runs_without_anything_in_common_and_broken_ones_are_refused(folders, tmp_path):
    first = read_run(folders[0])
    with pytest.raises(RunError, match="about videos, another about images"):
        match_runs([first, read_run(write_run(tmp_path / "images", 1.0, video=False))])
    other = write_run(tmp_path / "other", 1.0, protocols=["reduced, select=vote"])
    assert len(match_runs([first, read_run(other)])) == 30
    with pytest.raises(RunError, match="has no protocol 'official, select=vote'; it has reduced, select=vote"):
        match_runs([first, read_run(other)], "official, select=vote")
    change_lines(other, lambda line: line | {"text": "another question of the same id"})
    with pytest.raises(RunError, match="runs first, other answered no query in common"):
        match_runs([first, read_run(other)])
    with pytest.raises(RunError, match="is not a run"):
        read_run(tmp_path / "nothing")
    lines = (other / "predictions.jsonl").read_text().splitlines(keepends=True)
    for some in (lines[:-1], [*lines, lines[0]], [lines[0].replace("reduced, ", "foo, "), *lines[1:]]):
        (other / "predictions.jsonl").write_text("".join(some))
        with pytest.raises(
            RunError, match=r"predictions.jsonl has \d+ answers of split .*, and results.json says 30; repeat"
        ):
            read_run(other)
    (other / "predictions.jsonl").write_text('{"split": "test", "protocol": "x"}\n')
    with pytest.raises(RunError, match="repeat it with"):
        read_run(other)
    (other / "predictions.jsonl").write_text("{\n")
    with pytest.raises(RunError, match="line 1"):
        read_run(other)


def test_queries_without_a_right_answer_are_left_out(tmp_path):
    folder = write_run(tmp_path / "run", 1.0)
    change_lines(folder, lambda line: line | {"targets": []} if line["id"] == "q3" else line)
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps([entry | {"queries": 29} for entry in results]))
    assert {p.id for p in read_run(folder).predictions} == {f"q{i}" for i in range(30) if i != 3}
    change_lines(folder, lambda line: line | {"targets": []})
    with pytest.raises(RunError, match="no query has a right answer to compare with"):
        read_run(folder)


@pytest.mark.parametrize("video", [True, False])
def test_the_tool_draws_what_it_says_and_leaves_no_picture_of_an_earlier_call(tmp_path, capsys, video):
    imread = pytest.importorskip("matplotlib.image", reason="figures need the extra `plot`").imread
    # The misses of the second run begin with its fourth query.
    by = 1.2 if video else 6.0
    folders = [str(write_run(tmp_path / name, shift, video, 6)) for name, shift in (("a", 2 * by), ("b", by))]
    pictures = tmp_path / "b" / "figures"
    pictures.mkdir()
    (pictures / "best.png").touch()
    (pictures / "worst_01.png").mkdir()
    words = ["--names", "first", "second", "--together", "--out", str(tmp_path / "six")]
    assert figures.main([*folders, "--n", "6", *words]) == 0
    assert "2 best, 2 worst, 2 improved" in capsys.readouterr().out
    heights = {path.name: imread(path).shape[0] for path in (tmp_path / "six").iterdir()}
    assert heights.pop("all.png") == sum(heights.values()) + len(heights) * GAP
    assert len(heights) == 6
    (tmp_path / "six" / "best_1.png").touch()
    (tmp_path / "six" / "best_77.png").write_bytes(b"\x89PNG\r\n\x1a\n of somebody else")
    assert figures.main([*folders, "--n", "3", "--out", str(tmp_path / "six")]) == 0
    names = {path.name for path in (tmp_path / "six").iterdir()}
    assert names == {"best_01.png", "worst_01.png", "improved_01.png", "best_1.png", "best_77.png"}
    assert figures.main([*folders, "--n", "0"]) == 2
    assert figures.main([*folders, "--names", "one"]) == 2
    assert "--names: 1 names for 2 runs; give one each" in capsys.readouterr().err
    assert figures.main([*folders, "--names", "one", "one"]) == 2
    assert "--names: 'one' stands for two runs; give each its own" in capsys.readouterr().err
    assert figures.main([folders[0], str(tmp_path / "gone")]) == 2
    assert {path.name for path in pictures.iterdir()} == {"best.png", "worst_01.png"}
    assert json.loads((tmp_path / "a" / "results.json").read_text())


def test_every_query_is_in_one_group_of_misses():
    targets = [[(0.0, 5.0)]] * 5 + [[(2.0, 10.0), (1.0, 2.0)]] + [[(7.0, 3.0)]]
    choices = np.array([[0.0, 5.0]] * 5 + [[0.0, 2.0]] * 2)
    rows = rows_of("vote", choices, targets)
    assert [(name, queries) for _, name, queries, *_ in rows] == [
        ("all", 7), ("5.0 to 8.0 s", 6), ("start not before end", 1)
    ]  # fmt: skip
    assert all(sum(row[3:-1]) == pytest.approx(100) and row[-1] > 0 for row in rows)
    alike = rows_of("vote", choices[:5], targets[:5])
    assert [(name, queries) for _, name, queries, *_ in alike] == [("all", 5), ("5.0 to 5.0 s", 5)]
