import json
import os
from pathlib import Path

import pytest

from relgrounding.evaluation import above_oracle, format_table, make_entry, read_results, write_results


def entry(**changes: object) -> dict:
    values = {
        "dataset": "scenes",
        "protocol": "single",
        "split": "test",
        "model": "IGN",
        "queries": 600,
        "metrics": {"Acc@0.5": 91.25},
        "floors": {"random": {"Acc@0.5": 13.4}, "largest": {"Acc@0.5": 15.0}},
        "oracle": {"Acc@0.5": 100.0},
        "seed": 0,
        "seconds": 1.5,
    }
    return make_entry(**{**values, **changes})


def test_an_entry_has_the_fields_of_results_json() -> None:
    names = ["dataset", "protocol", "split", "model", "queries", "metrics", "floors", "oracle", "seed", "seconds"]
    assert list(entry()) == names


def test_the_table_shows_floors_and_oracle_beside_the_result() -> None:
    assert format_table([entry()]).splitlines() == [
        'scenes, split test, protocol "single", 600 queries:',
        "",
        "| answer           |   Acc@0.5 |",
        "|:-----------------|----------:|",
        "| floor: random    |      13.4 |",
        "| floor: largest   |      15.0 |",
        "| **IGN** (seed 0) |      91.2 |",
        "| oracle           |     100.0 |",
    ]


def test_models_on_the_same_data_share_the_floors() -> None:
    table = format_table([entry(), entry(model="IGN, no relation", metrics={"Acc@0.5": 70.0})])
    assert table.count("floor: random") == 1
    assert table.count("**IGN") == 2
    for other in ({"split": "val"}, {"protocol": "union"}, {"queries": 599}, {"dataset": "refcoco"}):
        assert format_table([entry(), entry(**other)]).count("floor: random") == 2


def test_the_table_of_moments_fits_a_terminal() -> None:
    values = {f"R@{n},IoU={m}": 100.0 for n in (1, 5) for m in (0.1, 0.3, 0.5, 0.7)} | {"mIoU": 100.0}
    table = format_table([entry(metrics=values, floors={"whole video": values}, oracle=values)])
    assert max(map(len, table.splitlines())) <= 160


def test_a_floor_above_the_oracle_is_explained_once() -> None:
    floors = {"constant": {"R@1": 100.0, "mIoU": 92.3}, "random": {"R@1": 10.0, "mIoU": 75.0}}
    one = {"metrics": {"R@1": 50.0, "mIoU": 6.0}, "floors": floors, "oracle": {"R@1": 100.0, "mIoU": 75.0}}
    assert above_oracle(entry(**one)).startswith("Above the oracle: constant in mIoU. The oracle takes")
    assert format_table([entry(**one), entry(**one, protocol="other")]).count("Above the oracle") == 1
    assert above_oracle(entry()) == ""
    assert "Above" not in format_table([entry()])


def test_other_metrics_get_a_table_of_their_own() -> None:
    video = {"R@1,IoU=0.5": 1.0}
    table = format_table([entry(), entry(metrics=video, floors={"random": video}, oracle=video)])
    assert table.count("600 queries:") == 2


def test_many_kinds_stay_out_of_the_table() -> None:
    def with_kinds(count: int) -> str:
        metrics = {"Acc@0.5": 1.0, **{f"Acc@0.5,kind={k}": 1.0 for k in range(count)}}
        return format_table([entry(metrics=metrics, floors={"random": metrics}, oracle=metrics)])

    assert with_kinds(2).count("kind=") == 2
    assert with_kinds(80).count("kind=") == 0


def test_results_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, [entry()])
    write_results(path, [entry(), entry(split="val")])
    assert read_results(path) == json.loads(path.read_text()) == [entry(), entry(split="val")]
    assert os.listdir(tmp_path) == ["results.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, [entry()])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_results(path, [entry(seconds=float("nan"))])
    assert read_results(path) == [entry()]
    assert os.listdir(tmp_path) == ["results.json"]


def test_a_result_without_its_floors_is_refused() -> None:
    with pytest.raises(ValueError, match="scenes test: no floors; a result without them cannot be judged"):
        entry(floors={})
    with pytest.raises(ValueError, match=r"scenes test: largest lacks Acc@0.5; score it with the same evaluator"):
        entry(floors={"largest": {}})
    with pytest.raises(ValueError, match=r"scenes test: oracle lacks Acc@0.5"):
        entry(oracle={})
    with pytest.raises(ValueError, match="scenes test: 0 queries; a result needs at least one"):
        entry(queries=0)
    with pytest.raises(ValueError, match="no entries"):
        format_table([])
