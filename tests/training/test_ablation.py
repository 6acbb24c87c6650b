import json
import re
import statistics
from pathlib import Path

import pytest

from relgrounding.cli.ablate._check import check_runs
from relgrounding.cli.ablate._states import state
from relgrounding.config import ConfigError, load_config
from relgrounding.runs import RunFolder, hold_run
from relgrounding.training import grid_cells, grid_jobs, grid_table, job_is_done, read_grid
from relgrounding.training._ablation import flat_settings
from tests.training.tiny import TINY, tool

ROOT = Path(__file__).parent.parent.parent


ablate_tool = tool("ablate")


def _write(path: Path, **changes) -> Path:
    grid = {
        "name": "tiny",
        "seeds": [0, 1],
        "reference": "MIL",
        "settings": [*TINY, "train.epochs=1"],
        "experiments": {
            "demo": {
                "config": str(ROOT / "configs" / "demo.yaml"),
                "columns": [{"split": "test", "protocol": "single", "metric": "Acc@0.5"}],
            }
        },
        "rows": {
            "all, levels": {"start": "MIL", "settings": ["ccl.epochs=1"]},
            "MIL": {},
        },
    }
    path.write_text(json.dumps(grid | changes))  # JSON is YAML
    return path


@pytest.mark.parametrize("name", ["ccl", pytest.param("relations", marks=pytest.mark.slow)])
def test_the_grids_that_come_with_the_project_are_valid(name):
    grid = read_grid(ROOT / "configs" / "ablations" / f"{name}.yaml")
    found = grid_jobs(grid, Path("runs"))
    rows = sum(name in (row.only or grid.experiments) for row in grid.rows.values() for name in grid.experiments)
    assert len(found) == rows * len(grid.seeds)
    check_runs(grid, found)


def test_the_grid_of_the_documentation_is_valid(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "grids.md").read_text(), flags=re.DOTALL)
    (tmp_path / "grid.yaml").write_text(example)
    grid = read_grid(tmp_path / "grid.yaml")
    found = grid_jobs(grid, tmp_path)
    assert len(found) == 4
    check_runs(grid, found)


def test_a_row_comes_after_the_one_it_starts_from_and_is_told_where_that_is(tmp_path):
    grid = read_grid(_write(tmp_path / "grid.yaml"))
    found = grid_jobs(grid, Path("runs"))
    assert [(job.row, job.seed) for job in found] == [("MIL", 0), ("MIL", 1), ("all, levels", 0), ("all, levels", 1)]
    assert found[3].name == f"demo-all--levels-1-{found[3].address}"
    assert found[1].name == f"demo-MIL-1-{found[1].address}"
    assert f"ccl.start_from=runs/{found[1].name}" in found[3].words
    config = load_config(found[3].file, found[3].words)
    assert config.ccl.start_from == f"runs/{found[1].name}"
    assert (flat_settings(config), config.name) == (found[3].settings, found[3].name)
    rows = {"MIL": {}, "students": {"start": "MIL", "settings": ["cotrain.epochs=1"]}}
    found = grid_jobs(read_grid(_write(tmp_path / "grid.yaml", rows=rows)), Path("runs"))
    assert f"cotrain.start_from=runs/{found[1].name}" in found[3].words


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": [1]}, r"no key 'sedes'; the nearest one is 'seeds'"),
        ({"rows": {}}, "a grid needs rows, experiments and seeds"),
        ({"reference": "none"}, "reference: there is no row 'none'; known are all, levels, MIL"),
        ({"rows": {"MIL": {"reference": "b"}}}, "rows.MIL.reference: there is no row 'b'; known are MIL"),
        ({"rows": {"a": {"start": "b"}}, "reference": ""}, "rows.a.start: there is no row 'b'"),
        ({"rows": {"a": {"start": "b"}, "b": {"start": "a"}}, "reference": ""}, "in a circle: a <- b <- a"),
        ({"rows": {"a": {"only": ["x"]}}, "reference": ""}, "rows.a.only: there is no experiment 'x'; known are demo"),
        ({"rows": {"a": {"settings": ["model.hiden=3"]}}, "reference": ""}, "run demo-a-0: .*nearest one is"),
        ({"rows": {"a b": {}, "a-b": {}}, "reference": ""}, "two runs would be called demo-a-b-0"),
        ({"experiments": {"demo": {}}}, "experiments.demo.config is missing"),
        ({"seeds": [0, -1]}, r"seeds: -1 is not from 0 to 2\^63 - 1"),
        ({"seeds": [0, 2**63]}, r"seeds: 9223372036854775808 is not from 0"),
    ],
)
def test_a_grid_that_cannot_be_run_is_refused_before_anything_runs(tmp_path, changes, message):
    path = _write(tmp_path / "grid.yaml", **changes)
    with pytest.raises(ConfigError, match=message):
        grid_jobs(read_grid(path), Path("runs"))


COLUMN = {"split": "test", "protocol": "single", "metric": "Acc@0.5"}


@pytest.mark.parametrize(
    ("settings", "column", "message"),
    [
        ([], {"metric": "Acc@0.7"}, "no column 'test, single: Acc@0.7': the metrics are Acc@0.5"),
        ([], {"metric": "R@1,IoU=0.5"}, "the metrics are Acc@0.5"),
        ([], {"protocol": "any"}, "no column 'test, any: Acc@0.5': the protocols are single"),
        ([], {"split": "val"}, "no column 'val, single: Acc@0.5': data.test_splits are test"),
        (["data.test_splits=[test,odd]"], {}, "data.test_splits: demo has no split 'odd'"),
        (["train.select_metric=IoU"], {}, "train.select_metric: there is no metric 'IoU'; the metrics are Acc@0.5"),
        (["model.name=vgn", "data.dataset=charades_sta"], {}, "the protocols are official, select="),
    ],
)
def test_a_run_that_would_fail_or_lack_a_column_is_named_before_anything_runs(
    tmp_path, capsys, settings, column, message
):
    """Also where it is not the first."""
    config = str(ROOT / "configs" / "demo.yaml")
    experiments = {"demo": {"config": config, "columns": [COLUMN, COLUMN | {"metric": "Acc@0.5,kind=relation"}]}}
    experiments["last"] = {"config": config, "columns": [COLUMN, COLUMN | column], "settings": settings}
    grid = _write(tmp_path / "grid.yaml", experiments=experiments, settings=[], rows={"MIL": {}})
    assert ablate_tool.main([str(grid), "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert "error: run last-MIL-0: " in error
    assert message in error
    assert not (tmp_path / "runs").exists()


def test_a_lock_of_another_program_is_no_run_in_progress(tmp_path):
    runs = tmp_path / "runs"
    job = grid_jobs(read_grid(_write(tmp_path / "grid.yaml")), runs)[0]
    with hold_run(RunFolder(runs / job.name)):
        assert state(job, runs) == "running"
    (runs / job.name).mkdir(parents=True)
    (runs / job.name / ".lock").write_text("77")
    assert state(job, runs) == "new"


@pytest.mark.parametrize("name", ["table.md", "cells.json", "differences.png"])
def test_a_table_of_something_else_is_not_replaced(tmp_path, capsys, name):
    grid, out = _write(tmp_path / "grid.yaml"), tmp_path / "out"
    out.mkdir()
    (out / name).write_text("# mine")
    assert ablate_tool.main([str(grid), "--out", str(out), "--runs", str(tmp_path / "runs")]) == 2
    assert f"{name} would be replaced, but this command has not written it" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [(name, "# mine")]
    (out / name).unlink()
    (out / name).symlink_to("nowhere")
    assert ablate_tool.main([str(grid), "--out", str(out), "--runs", str(tmp_path / "runs")]) == 2
    assert f"{name} would be replaced" in capsys.readouterr().err


def _results(value: float, oracle: float = 100.0) -> str:
    figures = {"metrics": {"Acc@0.5": value}, "floors": {"random": {"Acc@0.5": 30.0}}, "oracle": {"Acc@0.5": oracle}}
    return json.dumps([{"split": "test", "protocol": "single", **figures}])


def test_the_table_of_results_computed_by_hand(tmp_path):
    grid = read_grid(_write(tmp_path / "grid.yaml", seeds=[0, 1, 2]))
    values = {"MIL": [50.0, 54.0, 52.0], "all--levels": [53.0, 56.0]}
    for row, figures in values.items():
        for seed, value in enumerate(figures):
            folder = tmp_path / "runs" / f"demo-{row}-{seed}"
            folder.mkdir(parents=True)
            (folder / "results.json").write_text(_results(value))
    cell = grid_cells(grid, tmp_path / "runs")["demo"]["all, levels"]["test, single: Acc@0.5"]
    assert cell.differences == [3.0, 2.0]
    assert str(cell) == "54.5 ± 2.1 (+2.5 ± 0.7)"
    assert cell.deviation == pytest.approx(statistics.stdev([53, 56]))
    table = grid_table(grid, tmp_path / "runs")
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("|")]
    assert {a.strip(): b.strip() for a, b in rows[2:]} == {
        "all, levels": "54.5 ± 2.1 (+2.5 ± 0.7), 2 of 3 seeds",
        "MIL": "52.0 ± 2.0",
        "floor: random": "30.0 ± 0.0",
        "oracle": "100.0 ± 0.0",
    }


def test_what_differs_between_the_candidates_of_rows_is_told_for_each(tmp_path):
    grid = read_grid(_write(tmp_path / "grid.yaml", seeds=[0]))
    for row, oracle in (("MIL", 90.0), ("all--levels", 80.0)):
        folder = tmp_path / "runs" / f"demo-{row}-0"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(_results(50.0, oracle))
    found = grid_cells(grid, tmp_path / "runs")["demo"]
    values = {row: cells["test, single: Acc@0.5"].values for row, cells in found.items() if row not in grid.rows}
    assert {row: list(value.values()) for row, value in values.items()} == {
        "floor: random": [30.0],
        "oracle of MIL": [90.0],
        "oracle of all, levels": [80.0],
    }


def test_a_column_that_results_lack_is_named(tmp_path):
    grid = read_grid(_write(tmp_path / "grid.yaml"))
    folder = tmp_path / "runs" / "demo-MIL-0"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(_results(1.0).replace("single", "union"))
    with pytest.raises(
        ConfigError, match=r"demo: the results have no column 'test, single: Acc@0\.5'; known are test, u"
    ):
        grid_cells(grid, tmp_path / "runs")


def test_an_experiment_that_was_not_run_says_so(tmp_path):
    table = grid_table(read_grid(_write(tmp_path / "grid.yaml")), tmp_path / "runs")
    assert table.endswith("\n\nNot run.\n")
    assert "floor" not in table


def test_the_table_names_the_settings_of_an_experiment_if_there_are_any(tmp_path):
    for settings, ending in (([], ""), (["train.epochs=1", "model.hidden=8"], " with `train.epochs=1 model.hidden=8`")):
        grid = read_grid(_write(tmp_path / "grid.yaml", settings=settings))
        config = grid.experiments["demo"].config
        assert grid_table(grid, tmp_path / "runs") == f"## demo\n\n`{config}`{ending}\n\nNot run.\n"


@pytest.mark.slow
def test_the_tool_runs_what_is_missing_and_nothing_twice(tmp_path, capsys):
    grid, out, runs = _write(tmp_path / "grid.yaml"), tmp_path / "out", tmp_path / "runs"
    words = [str(grid), "--out", str(out), "--runs", str(runs), "--jobs", "2"]
    assert ablate_tool.main(words) == 0
    assert "4 of 4 runs" in (out / "table.md").read_text()
    numbers = json.loads((out / "cells.json").read_text())
    column = "test, single: Acc@0.5"
    assert set(numbers["demo"]["MIL"][column]) == {"0", "1"}
    drawn = all((out / name).is_file() for name in ("plot.png", "differences.png"))
    assert drawn or "no plot: figures need matplotlib" in capsys.readouterr().out
    change = json.loads((out / "differences.json").read_text())["demo"][column]["all, levels"]["all"]
    means = [statistics.fmean(numbers["demo"][row][column].values()) for row in ("all, levels", "MIL")]
    assert change["difference"] == pytest.approx(means[0] - means[1])
    assert change["low"] <= change["difference"] <= change["high"]
    assert f" all ({change['queries']}) |" in (out / "differences.md").read_text()
    found = grid_jobs(read_grid(grid), runs)
    assert all(job_is_done(job, runs) for job in found)
    second = runs / found[3].name
    assert second.is_dir()
    assert RunFolder(second).read_config().ccl.start_from == str(runs / found[1].name)
    # A run that was cut off is taken up again; those that are done are left alone.
    before = {job.name: (runs / job.name / "last.pt").stat().st_mtime_ns for job in found}
    (second / "results.json").unlink()
    (out / "table.md").unlink()
    assert ablate_tool.main([*words, "--only", "demo"]) == 0
    assert f"relgrounding ablate {grid} --out {out} --only demo`" in (out / "table.md").read_text()
    assert (second / "results.json").is_file()
    assert {job.name: (runs / job.name / "last.pt").stat().st_mtime_ns for job in found} == before
    assert ablate_tool.main([str(grid), "--list", "--runs", str(runs)]) == 0
    listed = capsys.readouterr().out
    assert all(f"{job.address}  done" in listed for job in found)
    # Other settings are other runs; a folder whose settings were changed is not taken for what its name says.
    _write(grid, settings=[*TINY, "train.epochs=2"])
    others = grid_jobs(read_grid(grid), runs)
    assert not {job.name for job in others} & {job.name for job in found}
    (runs / found[0].name).rename(runs / others[0].name)
    again = grid_jobs(read_grid(grid), runs)
    assert [job.name for job in again[1:2]] == [others[1].name]
    assert again[0].name != others[0].name
    assert not job_is_done(again[0], runs)
    with pytest.raises(ConfigError, match="was run with settings other than those of the grid"):
        job_is_done(others[0], runs)


def _train_by_name(job, runs: Path, name: str, **changes: str) -> None:
    """Write what is left of a finished run of a job, in a folder of some name."""
    folder = RunFolder(runs / name)
    folder.write_config(load_config(job.file, [*job.words, f"name={name}", *(f"{k}={v}" for k, v in changes.items())]))
    (folder.path / "results.json").write_text(_results(50.0))


def test_runs_are_found_by_their_settings_whatever_their_rows_are_called(tmp_path):
    path, runs = tmp_path / "grid.yaml", tmp_path / "runs"
    first, _, second, _ = grid_jobs(read_grid(_write(path)), runs)
    for job in (first, second):
        _train_by_name(job, runs, job.name)
    # Renamed, extended, with other settings that do not affect results, and a row that is written otherwise.
    rows = {
        "again": {},
        "after": {"start": "again", "settings": ["ccl.epochs=1"]},
        "new": {"settings": ["model.top_r=1"]},
    }
    rows["same"] = {"settings": ["model.top_r=2", "train.log_every=7"]}
    changes = {"rows": rows, "reference": "again", "seeds": [2, 0], "name": "other"}
    changes["settings"] = ["device=cpu", *TINY, "train.epochs=1"]
    grid = read_grid(_write(path, **changes))
    found = {(job.row, job.seed): job for job in grid_jobs(grid, runs)}
    assert [found[row, 0].name for row in ("again", "after", "same")] == [first.name, second.name, first.name]
    assert found["same", 2].name == found["again", 2].name
    assert {key for key, job in found.items() if job_is_done(job, runs)} == {("again", 0), ("after", 0), ("same", 0)}
    column = "test, single: Acc@0.5"
    cells = grid_cells(grid, runs)["demo"]
    assert {row: cell[column].values for row, cell in cells.items() if row in rows} == {
        "again": {0: 50.0}, "after": {0: 50.0}, "same": {0: 50.0},
    }  # fmt: skip


def test_runs_of_earlier_versions_are_found_by_the_names_of_their_rows(tmp_path):
    runs = tmp_path / "runs"
    grid = read_grid(_write(tmp_path / "grid.yaml", seeds=[0]))
    first, second = grid_jobs(grid, runs)
    _train_by_name(first, runs, "demo-MIL-0")
    _train_by_name(second, runs, "demo-all--levels-0", **{"ccl.start_from": "/elsewhere/demo-MIL-0"})
    found = grid_jobs(grid, runs)
    assert [job.name for job in found] == ["demo-MIL-0", "demo-all--levels-0"]
    assert [job.address for job in found] == [first.address, second.address]
    assert all(job_is_done(job, runs) for job in found)
    assert f"ccl.start_from={runs / 'demo-MIL-0'}" in found[1].words
    # One that was run with other settings is another run, and what starts from it, too.
    _train_by_name(first, runs, "demo-MIL-0", **{"train.epochs": "2"})
    assert [job.name for job in grid_jobs(grid, runs)] == [first.name, second.name]


def test_a_run_made_with_another_default_is_not_taken_for_this_one(tmp_path):
    """Its hash is the same, as it leaves defaults out: as it was then, and as it is now."""
    grid, runs = read_grid(_write(tmp_path / "grid.yaml", seeds=[0])), tmp_path / "runs"
    before = grid_jobs(grid, runs)
    for job in before:
        _train_by_name(job, runs, job.name, **{"train.clip_norm": "4"})  # what was the default then
    now = grid_jobs(grid, runs)
    assert not {job.name for job in now} & {job.name for job in before}
    assert not any(job_is_done(job, runs) for job in now)
    for job in now:
        _train_by_name(job, runs, job.name)
    assert grid_jobs(grid, runs) == now
    assert all(job_is_done(job, runs) for job in now)


def test_the_hash_is_that_of_what_results_depend_on(tmp_path):
    def addresses(*settings: str, **changes) -> list[str]:
        grid = read_grid(_write(tmp_path / "grid.yaml", settings=[*TINY, *settings], **changes))
        return [job.address for job in grid_jobs(grid, tmp_path)]

    usual = addresses()
    assert len(set(usual)) == 4
    assert addresses("device=cpu", "data.workers=1", "train.betas=[0.9,0.999]") == usual
    assert addresses(seeds=[1, 0]) == [usual[1], usual[0], usual[3], usual[2]]
    # What a run starts from is a part of what it is.
    assert not set(addresses("train.clip_norm=2")) & set(usual)
    # Pinned: another version that computes it otherwise would train everything again.
    assert addresses("mil.negatives=2", "model.relation=graph")[0] == "2bbbfc07d5"


def test_a_run_that_fails_is_named_and_what_needs_it_is_left_out(tmp_path, capsys):
    rows = {"MIL": {"settings": ["device=cuda:99"]}, "next": {"start": "MIL", "settings": ["ccl.epochs=1"]}}
    grid = _write(tmp_path / "grid.yaml", rows=rows, seeds=[0])
    words = [str(grid), "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    assert ablate_tool.main(words) == 1
    error = capsys.readouterr().err
    first, second = (job.name for job in grid_jobs(read_grid(grid), tmp_path / "runs"))
    assert f"failed: {first}: exit status 2: error: device is cuda:99, which is not available here" in error
    assert f"failed: {second}: {first} failed, which it starts from" in error
