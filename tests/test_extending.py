"""docs/extending.md: what stands there works, from outside the package, one file each."""

import dataclasses
import importlib
import pickle
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from relgrounding import ops
from relgrounding._registry import load_plugins
from relgrounding.config import ConfigError, load_config, model_name
from relgrounding.graphs import spatial_structure
from relgrounding.runs import RunFolder
from relgrounding.training import Trainer, evaluate_run, make_task
from relgrounding.viz import Items
from tests.training.tiny import TINY, tiny_words

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "extending.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", TEXT, flags=re.DOTALL))


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    folder = tmp_path / "own"
    folder.mkdir()
    for name, code in FILES.items():
        (folder / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    yield
    for name in FILES:
        sys.modules.pop(name, None)


def trained(folder: Path, *words: str) -> str:
    task = make_task(load_config(None, list(words)))
    trainer = Trainer(task, RunFolder(folder / "run"), quiet=True)
    trainer.run()
    return evaluate_run(trainer.task, trainer.folder, quiet=True)


def test_all_five_are_there():
    assert list(FILES) == ["my_relation", "my_model", "my_data", "my_objective", "my_backend"]
    assert len(FILES["my_relation"].strip().splitlines()) <= 20


@pytest.mark.parametrize("name", ["my_relation:MeanOfNeighbours", "mean_of_neighbours"])
def test_a_relation_module_in_ign(tmp_path, name):
    __import__("my_relation")
    table = trained(tmp_path, *TINY, f"model.relation={name}", "mil.message_dropout=0.5")
    assert f"ign, {name}" in table


def test_a_model_and_a_data_set_and_an_objective_at_once(tmp_path):
    words = ["model.name=my_model:Cosine", "model.scale=8", "model.relation=none", "data.dataset=my_data:Colours"]
    words += [
        "data.batch_size=32",
        "train.objectives=[mil,my_objective:Sharpness]",
        "mil.negatives=3",
        "train.learning_rate=0.02",
    ]
    table = trained(tmp_path, *tiny_words(*words), "train.epochs=20", "train.patience=20")
    assert "my_model:Cosine + sharpness, no relation" in table
    assert 'my_data:Colours, split test, protocol "single", 300 queries' in table
    config = RunFolder(tmp_path / "run").read_config()
    assert (config.model.scale, config.data.images) == (8, 100)
    assert max(line.get("validation/Acc@0.5", 0) for line in RunFolder(tmp_path / "run").read_log()) > 60
    assert any("blurred" in line for line in RunFolder(tmp_path / "run").read_log())
    items = Items(config)
    assert items.example() == "test-0"
    assert items.regions("test-0").size == items.size("test-0") == (100, 100)
    assert len(items.boxes("test-0")) == 3
    assert items.regions("test-100") is None


def test_a_range_beside_a_field_holds():
    with pytest.raises(ConfigError, match=r"model\.scale is 0.0; it must be above 0 and 100 or less"):
        load_config(None, ["model.name=my_model:Cosine", "model.scale=0"])


def test_a_backend():
    __import__("my_backend")
    structure = spatial_structure([[0, 0, 10, 10], [2, 2, 8, 8], [20, 0, 30, 10]], (40, 40))
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    rest = [torch.randn(*shape, dtype=torch.float64) for shape in ((3,), (11,), (11, 5))]
    own, naive = (ops.gated_sum(structure, x, *rest, backend=name) for name in ("edgewise", "naive"))
    torch.testing.assert_close(own, naive)
    torch.testing.assert_close(*(torch.autograd.grad(y.square().sum(), x)[0] for y in (own, naive)))
    assert load_config(None, ["backend=edgewise"]).backend == "edgewise"


def test_a_plugin_is_found_by_its_entry_point(monkeypatch):
    load_plugins.cache_clear()
    entry = metadata.EntryPoint("mine", "my_model", "relgrounding.plugins")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [entry] if group == "relgrounding.plugins" else [])
    config = load_config(None, ["model.name=cosine", "model.relation=none"])
    assert model_name(config) == "cosine, no relation"


ROOMS = re.findall(
    r"^\| an? [\w ]+ \| `relgrounding/(\w+)/(?:OPERATOR/)?NAME\.py` \| `@(\w+)\.(\w+)`", CONTRIBUTING, flags=re.M
)


def test_the_table_of_contributing_names_rooms_and_decorators_that_there_are():
    assert [room for room, _, _ in ROOMS] == ["models", "datasets", "objectives", "ops"]
    for room, package, decorator in ROOMS:
        assert (ROOT / "relgrounding" / room).is_dir()
        assert callable(getattr(importlib.import_module(f"relgrounding.{package}"), decorator))


def test_one_file_in_a_room_is_enough(tmp_path):
    for (room, _, _), (name, code) in zip(ROOMS[:3], list(FILES.items())[1:4], strict=True):
        (tmp_path / room).mkdir()
        (tmp_path / room / f"{name}.py").write_text(code)
    words = tiny_words("model.name=cosine", "model.relation=none", "data.dataset=colours")
    code = (
        "import importlib\n"
        f"for room in {[room for room, _, _ in ROOMS[:3]]}:\n"
        f"    importlib.import_module('relgrounding.' + room).__path__.append({str(tmp_path)!r} + '/' + room)\n"
        "from relgrounding.config import load_config, model_name\n"
        f"print(model_name(load_config(None, {[*words, 'train.objectives=[mil,sharpness]']})))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "cosine + sharpness, no relation", done.stderr


@pytest.mark.parametrize("command", re.findall(r"`relgrounding train ([^`]+)`", TEXT))
def test_the_commands_of_the_page_are_valid(command):
    __import__("my_relation")
    assert load_config("demo", shlex.split(command))


WRONG = {
    "import": ("raise RuntimeError('boom')", "cannot be imported: RuntimeError: boom"),
    "syntax": ("def (", "cannot be imported: SyntaxError"),
    "exit": ("import sys; sys.exit(7)", "cannot be imported: SystemExit: 7"),
    "kind": ("class X: pass", "is not a class derived from"),
    "none": ("", "cannot be imported: AttributeError"),
}


@pytest.mark.parametrize("setting", ["model.name", "model.relation", "data.dataset", "train.objectives"])
@pytest.mark.parametrize("case", WRONG)
def test_a_module_of_yours_that_is_wrong_is_one_line(tmp_path, monkeypatch, setting, case):
    (tmp_path / "own" / f"wrong_{case}.py").write_text(WRONG[case][0])
    value = f"wrong_{case}:X"
    with pytest.raises(ConfigError, match=re.escape(WRONG[case][1])):
        load_config(None, [f"{setting}=[{value}]" if setting == "train.objectives" else f"{setting}={value}"])


@pytest.mark.parametrize("name", ["data", "seed", "system", "mil", "a b"])
def test_an_objective_cannot_take_the_name_of_something_else(tmp_path, name):
    code = FILES["my_objective"].replace('@register_objective("sharpness")\n', "") + f"\n\nSharpness.name = {name!r}\n"
    module = f"named_{name.replace(' ', '_')}"
    (tmp_path / "own" / f"{module}.py").write_text(code)
    with pytest.raises(ConfigError, match=rf"objectives? (cannot be|are) called '{name}'"):
        load_config(None, [f"train.objectives=[mil,{module}:Sharpness]"])


def test_a_plugin_that_is_broken_is_named_and_stops_nothing(monkeypatch, caplog):
    entry = metadata.EntryPoint("broken", "no_such_module_of_a_plugin", "relgrounding.plugins")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [entry] if group == "relgrounding.plugins" else [])
    load_plugins.cache_clear()
    assert load_config("demo").name == "demo"
    load_plugins()
    assert "the plugin broken (no_such_module_of_a_plugin) cannot be imported: ModuleNotFoundError" in caplog.text
    load_plugins.cache_clear()


def test_a_class_that_is_written_anew_brings_its_new_settings(monkeypatch):
    words = ["model.name=my_model:Cosine", "model.relation=none"]
    assert load_config(None, [*words, "model.scale=8"]).model.scale == 8
    module = sys.modules["my_model"]
    monkeypatch.setattr(
        module.Cosine, "Config", dataclasses.make_dataclass("New", [("depth", int, 3)], bases=(module.ModelConfig,))
    )
    assert load_config(None, [*words, "model.depth=5"]).model.depth == 5


def test_a_configuration_can_be_pickled():
    config = load_config(None, ["model.name=my_model:Cosine", "model.scale=8", "model.relation=none"])
    assert pickle.loads(pickle.dumps(config)) == config


def test_names_that_lead_nowhere():
    with pytest.raises(ConfigError, match=r"there is no model 'vng'; there is .*; did you mean 'vgn'\?"):
        load_config(None, ["model.name=vng"])
    with pytest.raises(
        ConfigError, match=r"model 'no_such_module:X' cannot be imported: ModuleNotFoundError: .* on PYTHONPATH"
    ):
        load_config(None, ["model.name=no_such_module:X"])
    with pytest.raises(ConfigError, match=r"model\.heads is a setting of scn, vgn; this run has none of them"):
        load_config(None, ["model.heads=2"])
