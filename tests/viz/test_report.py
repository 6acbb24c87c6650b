import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from relgrounding.runs import RunError
from relgrounding.viz import read_run, report_page
from tests.viz import runs
from tools import report as tool

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: the report page was NOT opened")
MAIN = "official, select=vote"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    videos = [
        read_run(runs.write_run(root / name, shift, queries=70, explained=name == "b"))
        for name, shift in (("a<i>", 0.3), ("b", 0.1))
    ]
    images = [read_run(runs.write_run(root / "images", 1.0, video=False, explained=True))]
    long = [runs.write_run(root / ("long_name_of_a_run_" * 4 + str(k)), k, queries=9) for k in range(7)]
    _change_floors(long[3])
    many = [read_run(folder) for folder in long]
    old = [read_run(runs.write_run(root / "old", 1.0, video, old=True)) for video in (True, False)]
    return {"videos": report_page(videos), "images": report_page(images), "many runs": report_page(many),
            "old videos": report_page(old[:1]), "old images": report_page(old[1:])}  # fmt: skip


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
            assert f">{number}</td>" in page


def test_untrusted_text_is_text(pages):
    page = pages["videos"]
    assert "<script>alert" not in page
    assert "<i>" not in page.replace("<i class", "")
    assert "floor: &lt;b&gt;" in page
    data = json.loads(_Tags(page).data)
    first, second = data["groups"]
    assert first["queries"][3][2] == runs.HOSTILE
    assert data["runs"] == ["a<i>", "b"]
    assert (first["name"], second["name"]) == (f"test, {MAIN}", "test, official, select=score")


def test_groups_of_a_breakdown_hold_every_query_once(pages):
    for page, queries in ((pages["videos"], 70), (pages["images"], 30)):
        tables = re.findall(r"<h3>(?:all|by length|by size).*?</table>", page)
        assert len(tables) == 3
        for table in tables:
            assert sum(map(int, re.findall(r"</th><td>(\d+)</td>", table))) == queries


def _answers(page):
    """The first number of each row of the results, by its heading."""
    return dict(re.findall(r'<tr class="(?:floor|run|oracle)"><th>(.*?)</th><td data-name=".*?">(.*?)</td>', page))


def _change_floors(folder):
    """Give a run other floors than `write_run`, one of another name, and a low oracle."""
    path = folder / "results.json"
    entries = json.loads(path.read_text())
    for entry in entries:
        for values, number in ((entry["floors"]["random"], 15.0), (entry["oracle"], 14.0)):
            values |= dict.fromkeys(values, number)
        entry["floors"]["largest"] = dict.fromkeys(entry["metrics"], 30.0)
    path.write_text(json.dumps(entries))


def test_floors_and_oracles_that_differ_between_runs_name_them_and_others_stand_once(tmp_path):
    folders = [runs.write_run(tmp_path / name, 1.0, video=False) for name in "abc"]
    _change_floors(folders[2])
    a, b, c = (f"{name} (ign, seed 0)" for name in "abc")
    for order in ((0, 1, 2), (2, 0, 1)):
        page = report_page([read_run(folders[k]) for k in order])
        assert _answers(page) == {
            f"floor: random of {a}, {b}": "10.0", f"floor: random of {c}": "15.0", "floor: &lt;b&gt;": "12.0",
            f"floor: largest of {c}": "30.0", a: "40.0", b: "40.0", c: "40.0",
            f"oracle of {a}, {b}": "99.0", f"oracle of {c}": "14.0",
        }  # fmt: skip
        assert f'<p class="note">{c}: Above the oracle: random in Acc@0.5; largest in Acc@0.5. ' in page
        assert page.count("Above the oracle") == 1
    alone = report_page([read_run(folders[2])])
    assert _answers(alone) == {
        "floor: random": "15.0", "floor: largest": "30.0", "floor: &lt;b&gt;": "12.0", c: "40.0", "oracle": "14.0"
    }  # fmt: skip
    assert '<p class="note">Above the oracle: random' in alone


def _lines(page):
    """The points of each line of the chart of losses."""
    chart = re.search(r"<figcaption>loss( of each stage)?</figcaption>.*?</figure>", page)
    return chart[1], [points.split() for points in re.findall(r'<polyline class="line c0" points="(.*?)"', chart[0])]


def test_the_losses_of_two_stages_are_not_joined_and_those_that_are_not_finite_not_drawn(tmp_path):
    folder = runs.write_run(tmp_path / "run", 1.0)
    losses, stages = [3, 2, float("nan"), 2, 1, 9, 8, 7], [1, 1, 1, 1, 1, 2, 2, 3]
    records = [
        {"step": step, "epoch": 0, "stage": stage, "seconds": 0.1, "loss": loss}
        for step, (stage, loss) in enumerate(zip(stages, losses, strict=True), start=1)
    ]
    # Earlier versions did not log the stage.
    for dropped, title, sizes in ((set(), " of each stage", [2, 2, 2, 1]), ({"stage"}, None, [2, 5])):
        lines = [{k: v for k, v in record.items() if k not in dropped} for record in records]
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        found, drawn = _lines(report_page([read_run(folder)]))
        assert (found, [len(line) for line in drawn]) == (title, sizes)


def test_videos_and_images_do_not_mix(tmp_path, capsys):
    folders = [str(runs.write_run(tmp_path / name, 1.0, video)) for name, video in (("v", True), ("i", False))]
    with pytest.raises(RunError, match="look at them separately"):
        report_page([read_run(folder) for folder in folders])
    assert tool.main(folders) == 2
    assert tool.main(folders[:1]) == 0
    assert (tmp_path / "v" / "report.html").read_text() == report_page([read_run(folders[0])])
    assert "report.html" in capsys.readouterr().out


def test_a_page_replaces_a_page_and_no_other_file(tmp_path, capsys):
    run, out = str(runs.write_run(tmp_path / "run", 1.0)), tmp_path / "compare.html"
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    assert tool.main([run, "--out", str(out)]) == tool.main([run, "--out", str(out)]) == 0
    assert tool.main([run, "--out", str(notes)]) == 2
    assert "notes.txt is a file of another kind, and is not replaced; remove it" in capsys.readouterr().err
    assert notes.read_text() == "mine"


def test_the_header_says_where_a_run_comes_from_and_what_was_not_recorded(pages):
    def facts(page):
        return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))

    new, old = facts(pages["images"]), facts(pages["old images"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", new["trained"])
    assert (new["data"], new["device"]) == ("demo, split test", "auto")
    assert re.fullmatch(r"\d+\.\d+\.\d+", new["relgrounding"])
    assert (old["trained"], old["device"]) == ("date not recorded", "not recorded")
    assert old["relgrounding"] == new["relgrounding"]


def _groups(page):
    return {(group["name"], *group["runs"]): len(group["queries"]) for group in json.loads(_Tags(page).data)["groups"]}


def test_runs_of_different_protocols_are_side_by_side_where_they_share_queries(tmp_path):
    folders = [
        runs.write_run(tmp_path / "a", 1.0, queries=9),
        runs.write_run(tmp_path / "b", 1.0, queries=7, protocols=["reduced, select=score", "reduced, select=vote"]),
        runs.write_run(tmp_path / "c", 1.0, queries=5),
    ]
    both = f"test, {MAIN} (a); reduced, select=vote (b); {MAIN} (c)"
    page = report_page([read_run(folder) for folder in folders])
    assert _groups(page) == {
        (both, 0, 1, 2): 5, ("test, official, select=score (a, c)", 0, 2): 5, (f"test, {MAIN} (a, c)", 0, 2): 5,
        ("test, reduced, select=score (b)", 1): 7, ("test, reduced, select=vote (b)", 1): 7,
    }  # fmt: skip
    assert "Runs share a table where" in page
    assert len(re.findall("<h3>all queries", page)) == 1
    runs.change_lines(folders[2], lambda line: line | {"id": "of another file"})
    apart = report_page([read_run(folders[k]) for k in (0, 2)])
    assert {(name, run) for name, run in _groups(apart) if MAIN in name} == {
        (f"test, {MAIN} (a)", 0), (f"test, {MAIN} (c)", 1)
    }  # fmt: skip
    assert "no query in common: each has its own tables" in apart
    assert len(re.findall("<h3>all queries", apart)) == 2


def _browse(folder, page, script="", width=0):
    """Open a page, run a script in it, and return the document and what the console said.

    A browser's window has a least width; with `width` the page stands in a frame of so many pixels.
    """
    path = folder / "page.html"
    path.write_text(page.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    if width:
        outer = folder / "outer.html"
        outer.write_text(f'<iframe src="{path.name}" style="width:{width}px;height:900px;border:0"></iframe>')
        path = outer
    done = subprocess.run(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom",
         "--enable-logging=stderr", "--log-level=0", f"--user-data-dir={folder / 'profile'}",
         "--virtual-time-budget=3000", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


MEASURE = """
const cut = [...document.querySelectorAll("body *")].filter((e) =>
  (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== "visible" && e.tagName !== "PRE")
  || (e.getBoundingClientRect().right > innerWidth + 1 && !e.closest("pre")));
console.log(JSON.stringify([innerWidth, document.scrollingElement.scrollWidth,
  [...new Set(cut.map((e) => `${e.tagName} ${e.className.baseVal ?? e.className}`))]]));
"""


@needs_browser
@pytest.mark.parametrize("kind", ["videos", "images", "many runs", "old videos", "old images"])
def test_nothing_is_cut_off_on_a_phone(pages, tmp_path, kind):
    _, console = _browse(tmp_path, pages[kind], MEASURE, width=390)
    (line,) = console
    inner, scrolled, cut = json.loads(re.search(r"\[390,.*\]\]", line)[0])
    assert (inner, cut) == (390, [])
    assert scrolled <= 390


@needs_browser
@pytest.mark.parametrize(("kind", "queries"), [("videos", 50), ("images", 30)])
def test_the_page_opens_without_a_console_error(pages, tmp_path, kind, queries):
    document, console = _browse(tmp_path, pages[kind])
    assert console == []
    table = document[document.index('<table id="rows"') :]
    assert table.count('<td class="whole text">') == table.count("<svg") == queries
    assert "&lt;script&gt;alert" in table or kind == "videos"
    _, console = _browse(tmp_path, pages[kind], "nothing_of_this_name()")
    assert len(console) == 1  # else the check above could see nothing


@needs_browser
@pytest.mark.parametrize(
    ("kind", "drawn"),
    [
        (
            "videos",
            ['x="12.5%" y="2" width="12.5%"', 'class="c1" x="50%" y="51" width="25%"', "<small>0 to 80.0 s</small>"],
        ),
        (
            "images",
            ['viewBox="0 0 640 480"', '<line class="message c0" x1="130" y1="50"', "<small>640 x 480 px</small>"],
        ),
        ("old videos", ["<small>0 to 20.0 s, the length of the video is not recorded</small>"]),
        ("old images", ['viewBox="0 0 60 60"', "<small>60 x 60 px, the size of the image is not recorded</small>"]),
    ],
)
def test_answers_are_drawn_in_the_frame_of_the_video_or_image(pages, tmp_path, kind, drawn):
    script = "const s = document.getElementById('sort'); s.selectedIndex = 0; s.dispatchEvent(new Event('input'));"
    document, console = _browse(tmp_path, pages[kind], script)
    assert console == []
    first = re.search(r'<td class="whole draw">(.*?)</td>', document)[1]
    assert all(part in first for part in drawn)


def test_neighbours_are_in_the_page_as_text(pages):
    said = 'after $, weight 0.90, opened by "<b>left" +0.45'
    for kind, run, place in (("videos", 1, [40.0, 60.0]), ("images", 0, [100.0, 20.0, 160.0, 80.0])):
        answers = json.loads(_Tags(pages[kind]).data)["groups"][0]["queries"][0][4]
        assert answers[run][2] == [[place, 0.9, said]]
        assert all(answer[2] == [] for k, answer in enumerate(answers) if k != run)
        assert "<b>left" not in pages[kind]


@needs_browser
def test_search_sort_and_pages_find_the_right_queries(pages, tmp_path):
    script = """
    const set = (id, value) => {
      const field = document.getElementById(id);
      if (id === "search") field.value = value; else field.selectedIndex = value;
      field.dispatchEvent(new Event("input"));
    };
    set("sort", 2); set("group", 1); set("search", "number person 1");
    """
    document, console = _browse(tmp_path, pages["videos"], script)
    assert console == []
    shown = re.findall(r'<td class="whole text"><div>person number (\d+) ', document)
    # The run is off by more the later the query: the best ones come first.
    expected = [i for i in range(70) if i != 3 and "1" in f"person number {i} q{i} v{i // 2}"]
    assert sorted(map(int, shown)) == expected
    assert list(map(int, shown))[:20] == expected[:20]
    document, _ = _browse(tmp_path, pages["videos"], "document.getElementById('next').click()")
    assert "page 2 of 2" in document
    assert document.count('<td class="whole text">') == 20
