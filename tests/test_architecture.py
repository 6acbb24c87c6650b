"""The house: imports go down, there are no circles, rooms are small, and nothing asks what it works on by name."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "relgrounding"
LAYERS = (
    (
        "_dgl",
        "_heap",
        "_host",
        "_settings",
        "_names",
        "_printing",
        "_ranks",
        "_sharing",
        "_signals",
        "_summing",
        "_files",
        "_cache",
        "_registry",
        "_moved",
        "_urls",
        "__init__",
    ),
    ("graphs", "io"),
    ("ops", "evaluation", "features"),
    ("nn", "datasets"),
    ("modalities",),
    ("models",),
    ("objectives",),
    ("config",),
    ("runs",),
    ("predictor",),
    ("training",),
    ("viz",),
    ("env",),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def module_of(path: Path) -> str:
    return ".".join(("relgrounding", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, wherever in it."""
    modules = {module_of(p) for p in FILES}
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (below & modules) or {node.module}
            if below - modules and below & modules:
                found.add(node.module)
    return {name for name in found if name.split(".")[0] == "relgrounding"}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_down(path):
    own = room(module_of(path))
    upwards = [m for m in imported(path) if room(m) != own and LEVEL[room(m)] >= LEVEL[own] and LEVEL[own] > 0]
    assert not upwards


def test_there_are_no_circles():
    edges = {module_of(path): imported(path) - {module_of(path)} for path in FILES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name in done or name not in edges:
            return
        for other in edges[name]:
            # A package's __init__ imports its files; that one of them names the package is no circle of files.
            if not name.startswith(f"{other}."):
                visit(other, (*trail, name))
        done.add(name)

    for name in edges:
        visit(name, ())


def test_rooms_hold_a_dozen_files_at_most():
    for folder in {path.parent for path in FILES} - {PACKAGE}:
        files = [path for path in folder.iterdir() if path.is_file() and path.name != "__init__.py"]
        assert len([path for path in files if path.suffix == ".py"]) <= 12, folder


ASKS = re.compile(
    r"""[!=]=\s*["'](?:vgn|ign|scn|arn|video|image|videos|images)["']|\.video\b(?!\s*\[)|\bif video\b|\bin_video\b"""
    r"""|isinstance\([^)]*\b(?:VGN|IGN|Video|Image|VideoBatch|ImageBatch)\b"""
)


def test_modules_leave_gradients_to_operators():
    assert not [path for path in (PACKAGE / "nn").rglob("*.py") if "autograd.Function" in path.read_text()]


def test_nothing_asks_for_a_modality_or_a_model_by_name():
    own = (PACKAGE / "modalities", PACKAGE / "models", PACKAGE / "features" / "extraction")
    asked = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in FILES
        if not any(folder in path.parents for folder in own)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if ASKS.search(line)
    ]
    assert not asked
