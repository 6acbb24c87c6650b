"""What `import relgrounding.graphs` does where DGL is missing, broken, or newer; each case in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import relgrounding
from relgrounding import env
from relgrounding._dgl import dgl

ROOT = Path(relgrounding.__file__).parents[1]


def run(code: str, *paths: Path, **variables: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key != "DGLBACKEND"} | variables
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (*paths, ROOT)))
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


def last_line(result: subprocess.CompletedProcess) -> str:
    assert result.returncode != 0
    return result.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("version", [(3, 9, 1), (3, 13, 0)])
def test_an_unsupported_python_is_named(version):
    line = last_line(run(f"import sys; sys.version_info = {version}; import relgrounding"))
    assert line.startswith(
        f"ImportError: relgrounding needs Python 3.10, 3.11 or 3.12, but this is 3.{version[1]}, for"
    )


def test_a_missing_dgl_is_named():
    hide = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n == 'dgl' else f(n, *a); "
    line = last_line(run(hide + "import relgrounding.graphs"))
    assert line.startswith(
        'ImportError: relgrounding needs DGL, which is not installed: run python -m pip install packaging "dgl'
    )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise OSError('libdgl.so: cannot open shared object file')", "OSError: libdgl.so: cannot open shared object"),
        pytest.param(
            "import a_module_that_is_not_there",
            "ModuleNotFoundError: No module named 'a_module_that_is_not_there'",
            marks=pytest.mark.slow,
        ),
        pytest.param("", "AttributeError: module 'dgl' has no attribute 'DGLGraph'", marks=pytest.mark.slow),
    ],
)
def test_a_broken_dgl_is_named(tmp_path, source, reason):
    (tmp_path / "dgl").mkdir()
    (tmp_path / "dgl" / "__init__.py").write_text(source)
    line = last_line(run("import relgrounding.graphs", tmp_path))
    assert line.startswith(f"ImportError: relgrounding cannot use the installed DGL ({reason}")
    assert "run python -m pip install packaging" in line
    shown = run("from relgrounding import cli; raise SystemExit(cli.main(['env']))", tmp_path)
    assert (shown.returncode, shown.stderr.count("\n")) == (2, 1)
    assert shown.stderr.startswith(f"error: {line.removeprefix('ImportError: ')}")


def test_import_is_silent_and_writes_nothing_at_home(tmp_path):
    result = run("import relgrounding; relgrounding.graphs.temporal_graph([[0, 1]])", HOME=str(tmp_path))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_subpackages_come_on_first_use():
    code = "import sys, relgrounding; print('relgrounding.graphs' in sys.modules, relgrounding.graphs.__name__)"
    assert run(code).stdout.split() == ["False", "relgrounding.graphs"]
    assert {"graphs", "ops", "nn", "datasets"} <= set(dir(relgrounding))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        relgrounding.nothing  # noqa: B018 - the attribute access is the test


def test_message_passing_with_gradients():
    import torch

    graph = dgl.graph(([0, 1, 1], [1, 0, 1]))
    x = torch.randn(2, 3, requires_grad=True)
    out = dgl.ops.u_mul_e_sum(graph, x, torch.tensor([[1.0], [2.0], [3.0]]))
    out.sum().backward()
    assert torch.equal(x.grad, torch.tensor([[1.0] * 3, [5.0] * 3]))


def test_the_report_names_versions_and_backends():
    text = env.report()
    for expected in (relgrounding.__version__, dgl.__version__, "PyTorch", "Python", "naive"):
        assert expected in text
