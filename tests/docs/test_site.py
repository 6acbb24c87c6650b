import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import relgrounding.graphs
import relgrounding.nn
import relgrounding.ops

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("the site of the documentation was not built: it needs the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def opened(page: Path, profile: Path) -> str:
    """What the page is in a browser that reaches no host, after its scripts have run."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("the site of the documentation was not opened: there is no Chromium")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=5000",
        f"--user-data-dir={profile}",
    ]
    command = [chromium, *options, "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_pages_open_in_a_browser(site, tmp_path):
    start = opened(site / "index.html", tmp_path)
    assert re.search(r"<html[^>]* class=\"js\b", start)
    assert "<h1" in start
    assert "Where relation modules help" in start
    graphs = opened(site / "api" / "graphs.html", tmp_path)
    assert 'id="relgrounding.graphs.spatial_graph"' in graphs
    assert "distance_ratio" in graphs


def test_nothing_is_loaded_from_the_network(site):
    link = r'<link[^>]*rel="(?:stylesheet|preconnect|icon)"[^>]*"(https?:)?//'
    loads = r'<(?:script|img|iframe|source)[^>]*\ssrc="(https?:)?//|' + link
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    assert not [page for page in pages if re.search(loads, page.read_text(encoding="utf-8"))]
    sheets = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.search(r"url\(['\"]?(https?:)?//|@import", sheets)


def test_the_search_finds_every_public_name(site):
    entries = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    found = {entry["location"].partition("#")[2] for entry in entries}

    for module in (relgrounding.graphs, relgrounding.nn, relgrounding.ops):
        for name in module.__all__:
            # An operator's function is found beside its folder of the same name.
            assert {f"{module.__name__}.{name}", f"{module.__name__}.{name}.{name}"} & found, name
