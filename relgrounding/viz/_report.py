"""One page about one or more runs, complete in itself: it loads nothing from elsewhere."""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

from omegaconf import OmegaConf

from relgrounding.evaluation import above_oracle
from relgrounding.viz._breakdown import QueryGroup, breakdowns
from relgrounding.viz._curves import line_chart
from relgrounding.viz._figure import describe, speakers
from relgrounding.viz._predictions import Prediction, Run, check_alike, match_protocols

T = TypeVar("T")
MOST_KINDS = 4
LESS_TELLING = (",kind=", "R@5", "IoU=0.1", "IoU=0.3")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs side by side on the queries that all of them answered.

    Attributes:
        name: the protocol or protocols, and the runs where they are not all of the page's.
        runs: their numbers on the page.
        matched: for each query what each of them answered.
        main: whether it is about the protocols that chose the epochs.
    """

    name: str
    runs: tuple[int, ...]
    matched: list[list[Prediction]]
    main: bool


def report_page(runs: Sequence[Run]) -> str:
    """Return the report of runs as HTML: origin, results, curves, failures, every query, configuration.

    Runs are side by side where they share queries, whatever their protocols, and apart where they do not. Everything
    that comes from data is escaped: queries are untrusted text.

    Args:
        runs: one or more, all about videos or all about images.

    Raises:
        RunError: videos and images mixed.
    """
    check_alike(runs)
    comparisons = _compare(runs)
    title = ", ".join(run.name for run in runs)
    sections = [
        ("results", "Results", _results(runs)),
        ("curves", "Curves", _curves(runs)),
        ("failures", "Where they fail", _failures(runs, [c for c in comparisons if c.main])),
        ("queries", "Every query", _BROWSER),
        ("configuration", "Configuration", _configuration(runs)),
    ]
    links = "".join(f'<a href="#{anchor}">{name}</a>' for anchor, name, _ in sections)
    body = "".join(f'<section id="{anchor}"><h2>{name}</h2>{content}</section>' for anchor, name, content in sections)
    return _PAGE.format(
        title=html.escape(title),
        style=_resource("report.css"),
        script=_resource("report.js"),
        origins="".join(_origin(k, run) for k, run in enumerate(runs)),
        links=links,
        body=body,
        data=_embedded(_data(runs, comparisons)),
    )


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>{title}: relgrounding report</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1><nav>{links}</nav>
<p><span class="key truth"></span>ground truth</p>{origins}</header>
<main>{body}</main>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def _resource(name: str) -> str:
    return resources.files("relgrounding.viz").joinpath(name).read_text(encoding="utf-8")


def _embedded(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _compare(runs: Sequence[Run]) -> list[Comparison]:
    """Return the comparisons by main protocols, then those by every other protocol that two or more runs share."""
    found: dict[tuple[tuple[int, str], ...], Comparison] = {}

    def add(pairs: tuple[tuple[int, str], ...], main: bool) -> None:
        matched = match_protocols([(runs[k], protocol) for k, protocol in pairs])
        if not matched:
            for pair in pairs:
                add((pair,), main)
            return
        names = list(dict.fromkeys(protocol for _, protocol in pairs))
        if len(names) > 1:
            name = "; ".join(f"{protocol} ({runs[k].name})" for k, protocol in pairs)
        else:
            name = names[0] if len(pairs) == len(runs) else f"{names[0]} ({', '.join(runs[k].name for k, _ in pairs)})"
        found.setdefault(pairs, Comparison(name, tuple(k for k, _ in pairs), matched, main))

    add(tuple((k, run.main_protocol) for k, run in enumerate(runs)), True)
    for protocol in dict.fromkeys(name for run in runs for name in run.protocols):
        add(tuple((k, protocol) for k, run in enumerate(runs) if protocol in run.protocols), False)
    return list(found.values())


def _origin(number: int, run: Run) -> str:
    """What the header says of a run."""
    tested = dict.fromkeys(f"{entry['dataset']}, split {entry['split']}" for entry in run.results)
    facts = {
        "data": "; ".join(tested) or run.config.data.dataset,
        "model": f"{run.results[0]['model'] if run.results else run.config.model.name}, seed {run.config.seed}",
        "trained": run.origin.get("date", "date not recorded"),
        "device": run.origin.get("device", "not recorded"),
        "relgrounding": run.origin.get("relgrounding", "version not recorded"),
    }
    listed = "".join(f"<div><dt>{name}</dt><dd>{html.escape(fact)}</dd></div>" for name, fact in facts.items())
    key = f'<span class="key c{number % 5}"></span>'
    return f'<p class="run">{key}{html.escape(run.name)}</p><dl>{listed}</dl>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], classes: Sequence[str] = ()) -> str:
    """A table of text; the first column is a heading. On a narrow page each row is a card of named cells."""
    head = [html.escape(cell) for cell in head]
    lines = []
    for number, (first, *others) in enumerate(rows):
        name = f' class="{classes[number]}"' if classes else ""
        cells = (
            f'<td data-name="{column}">{html.escape(cell)}</td>' for column, cell in zip(head[1:], others, strict=True)
        )
        lines.append(f"<tr{name}><th>{html.escape(first)}</th>{''.join(cells)}</tr>")
    top = "".join(f"<th>{cell}</th>" for cell in head)
    return (
        f'<div class="scroll"><table class="cards"><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _results(runs: Sequence[Run]) -> str:
    tables: dict[tuple, list[tuple[Run, dict[str, Any]]]] = {}
    for run in runs:
        for entry in run.results:
            key = (entry["dataset"], entry["split"], entry["protocol"], entry["queries"])
            tables.setdefault(key, []).append((run, entry))
    parts = []
    for (dataset, split, protocol, queries), entries in tables.items():
        first = entries[0][1]
        metrics = [m for m in first["metrics"] if ",kind=" not in m]
        kinds = [m for m in first["metrics"] if ",kind=" in m]
        metrics += kinds if len(kinds) <= MOST_KINDS else []
        named = [(f"{run.name} ({entry['model']}, seed {entry['seed']})", entry) for run, entry in entries]
        parts.append(f"<h3>{html.escape(f'{dataset}, split {split}, {protocol}, {queries} queries')}</h3>")
        parts.append(_result_table(named, metrics))
        for names, above in _distinct([(name, above_oracle(entry)) for name, entry in named]):
            if above:
                parts.append(f'<p class="note">{html.escape(f"{names}: {above}" if names else above)}</p>')
    note = "Floors do not see the query; the oracle takes the best proposal. All in percent."
    if len(runs) > 1 and any(len(entries) < len(runs) for entries in tables.values()):
        note += " Runs share a table where data set, split, protocol and queries are the same."
    return f'<p class="note">{note}</p>' + "".join(parts)


def _result_table(runs: Sequence[tuple[str, dict[str, Any]]], metrics: Sequence[str]) -> str:
    """The results of named runs between floors and oracles; one that depends on the run names the runs it is of."""
    rows: list[list[str]] = []
    classes: list[str] = []

    def add(kind: str, label: str, found: Iterable[tuple[str, dict[str, int | float]]]) -> None:
        for names, numbers in _distinct([(run, tuple(_numbers(values, metrics))) for run, values in found]):
            if any(numbers):
                rows.append([f"{label} of {names}" if names else label, *numbers])
                classes.append(kind)

    for floor in dict.fromkeys(floor for _, entry in runs for floor in entry["floors"]):
        add("floor", f"floor: {floor}", ((run, entry["floors"].get(floor, {})) for run, entry in runs))
    for run, entry in runs:
        rows.append([run, *_numbers(entry["metrics"], metrics)])
        classes.append("run")
    add("oracle", "oracle", ((run, entry["oracle"]) for run, entry in runs))
    return _table(["answer", *(m.replace(",", ", ") for m in metrics)], rows, classes)


def _distinct(values: Iterable[tuple[str, T]]) -> list[tuple[str, T]]:
    """Return each value once, after the names of the runs that have it; without names where all runs have the same."""
    runs: dict[T, list[str]] = {}
    for run, value in values:
        runs.setdefault(value, []).append(run)
    return [(", ".join(names) if len(runs) > 1 else "", value) for value, names in runs.items()]


def _numbers(values: dict[str, int | float], metrics: Sequence[str]) -> list[str]:
    return [f"{values[m]:.1f}" if m in values else "" for m in metrics]


def _curves(runs: Sequence[Run]) -> str:
    names = list(dict.fromkeys(k for run in runs for line in run.log for k in line))
    # Of ten recalls, two and the mean tell what happens.
    kept = [n for n in names if n == "loss" or (n.startswith("validation/") and not any(w in n for w in LESS_TELLING))]
    charts = []
    for name in kept:
        series = [(run.name, _points(run.log, name)) for run in runs]
        title = name.replace("/", ": ").replace(",", ", ")
        if name == "loss" and any(line.get("stage", 1) > 1 for run in runs for line in run.log):
            title = "loss of each stage"
        charts.append(line_chart(title, series, dots=name != "loss"))
    if not any(charts):
        return "<p>log.jsonl holds no losses.</p>"
    return f'<div class="charts">{"".join(charts)}</div>'


def _points(log: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """The points of a curve, with a gap between the losses of two stages, which are of different objectives."""
    points: list[tuple[float, float]] = []
    stage = None
    for line in log:
        if name in line:
            if points and name == "loss" and line.get("stage") != stage:
                points.append((float(line["step"]), math.nan))
            stage = line.get("stage")
            points.append((float(line["step"]), float(line[name])))
    return points


def _failures(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> str:
    note = "A hit is a first answer that the metric at IoU 0.5 counts as right; IoU is the mean."
    if len(comparisons) > 1:
        note += " The runs answered no query in common: each has its own tables."
    parts = [f'<p class="note">{note}</p>']
    for comparison in comparisons:
        named = [(runs[k].name, k) for k in comparison.runs]
        parts.append(f'<p class="note">{len(comparison.matched)} queries, protocol {html.escape(comparison.name)}</p>')
        tables = breakdowns(comparison.matched, runs[0].view)
        parts.append('<div class="tables">')
        parts += [f"<div><h3>{html.escape(name)}</h3>{_bars(named, groups)}</div>" for name, groups in tables.items()]
        parts.append("</div>")
    return "".join(parts)


def _bars(runs: Sequence[tuple[str, int]], groups: Sequence[QueryGroup]) -> str:
    lines = []
    for group in groups:
        bars = "".join(
            f'<div class="bar"><i class="c{k % 5}" style="width:{hits:.1f}%"></i>'
            f'<span title="{html.escape(name)}">{hits:.0f} % hits, IoU {iou:.0f}</span></div>'
            for (name, k), hits, iou in zip(runs, group.hits, group.iou, strict=True)
        )
        lines.append(f"<tr><th>{html.escape(group.name)}</th><td>{group.queries}</td><td class='bars'>{bars}</td></tr>")
    head = "<tr><th>group</th><th>queries</th><th class='bars'>hits</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table>"


_BROWSER = """<div class="controls">
<label>search <input id="search" type="search" placeholder="words, or an id"></label>
<label>split and protocol <select id="group"></select></label>
<label>sort <select id="sort"></select></label>
<span id="count" role="status"></span>
<span class="pages"><button id="back" type="button">previous</button> <span id="page"></span>
<button id="next" type="button">next</button></span>
</div><div class="scroll"><table id="rows" class="cards"><thead></thead><tbody></tbody></table></div>"""


def _configuration(runs: Sequence[Run]) -> str:
    parts = []
    if len(runs) > 1:
        flat = [_flat(OmegaConf.to_container(OmegaConf.structured(run.config))) for run in runs]
        differing = [k for k in flat[0] if len({str(values.get(k)) for values in flat}) > 1]
        rows = [[key, *(str(values.get(key)) for values in flat)] for key in differing]
        parts.append("<h3>What differs</h3>" + _table(["setting", *(run.name for run in runs)], rows))
    for run in runs:
        name, text = html.escape(run.name), html.escape(run.config_text)
        parts.append(f"<details><summary>{name}: every setting</summary><pre>{text}</pre></details>")
    return "".join(parts)


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in settings.items():
        result |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return result


def _data(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """What report.js reads: of each query its id, item, text, targets, answers (with neighbours) and frame."""
    groups: dict[tuple[int, str], list] = {}
    for number, comparison in enumerate(comparisons):
        for answers in comparison.matched:
            first = answers[0]
            tops = [[[*(round(v, 2) for v in proposal), score] for proposal, score in p.top] for p in answers]
            listed = [[round(p.iou, 4), top, _spoke(p)] for p, top in zip(answers, tops, strict=True)]
            frame = next((p.frame for p in answers if p.frame), ())
            record = [first.id, first.item, first.text, first.targets, listed, frame]
            groups.setdefault((number, first.split), []).append(record)
    return {
        "kind": runs[0].view.kind,
        "runs": [run.name for run in runs],
        "groups": [
            {"name": f"{split}, {comparisons[k].name}", "runs": comparisons[k].runs, "queries": queries}
            for (k, split), queries in groups.items()
        ],
    }


def _spoke(prediction: Prediction) -> list[list[Any]]:
    """Return the neighbours of a first answer to draw: proposal, weight and what is said of the message."""
    found = speakers(prediction.neighbours, prediction.top[0][0])
    return [[[round(v, 2) for v in n.proposal], round(n.weight, 3), ", ".join(describe(n))] for n in found]
