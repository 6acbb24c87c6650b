import importlib.util
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from relgrounding.runs import RunError
from relgrounding.viz import read_run, report_page


def _module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


runs = _module(Path(__file__).parent / "runs.py")
tool = _module(Path(__file__).parent.parent.parent / "tools" / "report.py")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: the report page was NOT opened")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    videos = [read_run(runs.write_run(root / name, shift, queries=70)) for name, shift in (("a<i>", 0.3), ("b", 0.1))]
    images = [read_run(runs.write_run(root / "images", 1.0, video=False))]
    return {"videos": report_page(videos), "images": report_page(images)}


class _Tags(HTMLParser):
    """Opening and closing tags, attributes and the embedded data of a page."""

    def __init__(self, page):
        super().__init__()
        self.open, self.links, self.data, self._script = [], [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        values = dict(attributes)
        self.links += [values[name] for name in ("src", "href") if name in values]
        self._script = tag == "script" and values.get("id") == "data"

    def handle_endtag(self, tag):
        self._script = False

    def handle_data(self, text):
        if self._script:
            self.data += text


def test_a_page_holds_everything_and_loads_nothing(pages):
    for page in pages.values():
        tags = _Tags(page)
        assert tags.open.count("script") == 2
        assert all(link.startswith(("#", "data:")) for link in tags.links)
        assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", page)
        for anchor in ("results", "curves", "failures", "queries", "configuration"):
            assert f'<section id="{anchor}">' in page
        assert "prefers-color-scheme: dark" in page
        for number in ("10.0", "12.0", "40.0", "99.0"):
            assert f"<td>{number}</td>" in page


def test_strangers_text_is_text(pages):
    page = pages["videos"]
    assert "<script>alert" not in page
    assert "<i>" not in page.replace("<i class", "")
    assert "floor: &lt;b&gt;" in page
    data = json.loads(_Tags(page).data)
    texts = [row[2] for row in data["groups"]["test, official, select=vote"]]
    assert texts[3] == runs.HOSTILE
    assert data["runs"] == ["a<i>", "b"]
    assert set(data["groups"]) == {"test, official, select=score", "test, official, select=vote"}


def test_groups_of_a_breakdown_hold_every_query_once(pages):
    for page, queries in ((pages["videos"], 70), (pages["images"], 30)):
        tables = re.findall(r"<h3>by (?:length|size).*?</table>", page)
        assert len(tables) == 2
        for table in tables:
            assert sum(map(int, re.findall(r"</th><td>(\d+)</td>", table))) == queries


def test_videos_and_images_do_not_mix(tmp_path, capsys):
    folders = [str(runs.write_run(tmp_path / name, 1.0, video)) for name, video in (("v", True), ("i", False))]
    with pytest.raises(RunError, match="report on them apart"):
        report_page([read_run(folder) for folder in folders])
    assert tool.main(folders) == 2
    assert tool.main(folders[:1]) == 0
    assert (tmp_path / "v" / "report.html").read_text() == report_page([read_run(folders[0])])
    assert "report.html" in capsys.readouterr().out


def _browse(folder, page, script=""):
    """Open a page, run a script in it, and return the document and what the console said."""
    path = folder / "page.html"
    path.write_text(page.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    done = subprocess.run(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom",
         "--enable-logging=stderr", "--log-level=0", f"--user-data-dir={folder / 'profile'}",
         "--virtual-time-budget=3000", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@needs_browser
@pytest.mark.parametrize("kind", ["videos", "images"])
def test_the_page_opens_without_a_console_error(pages, tmp_path, kind):
    document, console = _browse(tmp_path, pages[kind])
    assert console == []
    table = document[document.index('<table id="rows">') :]
    assert table.count('<td class="text">') == (50 if kind == "videos" else 30)
    assert "&lt;script&gt;alert" in table or kind == "videos"
    assert table.count("<svg") == table.count('<td class="text">')
    _, console = _browse(tmp_path, pages[kind], "nothing_of_this_name()")
    assert len(console) == 1  # else the check above could see nothing


@needs_browser
def test_search_and_sort_find_the_right_queries(pages, tmp_path):
    script = """
    const set = (id, value) => {
      const field = document.getElementById(id);
      if (id === "sort") field.selectedIndex = value; else field.value = value;
      field.dispatchEvent(new Event("input"));
    };
    set("sort", 2); set("search", "number person 1");
    """
    document, console = _browse(tmp_path, pages["videos"], script)
    assert console == []
    shown = re.findall(r'<td class="text"><div>person number (\d+) ', document)
    # The run is off by more the later the query: the best ones come first.
    expected = [i for i in range(70) if i != 3 and "1" in f"person number {i} q{i} v{i // 2}"]
    assert sorted(map(int, shown)) == expected
    assert list(map(int, shown))[:20] == expected[:20]
    document, _ = _browse(tmp_path, pages["videos"], "set = 0; document.getElementById('next').click()")
    assert "page 2 of 2" in document
    assert document.count('<td class="text">') == 20
