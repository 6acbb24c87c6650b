"""One page about one or more runs, complete in itself: nothing is loaded from anywhere."""

import html
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from omegaconf import OmegaConf

from relgrounding.runs import RunError
from relgrounding.viz._breakdown import Row, breakdowns
from relgrounding.viz._curves import line_chart
from relgrounding.viz._predictions import Prediction, Run, match_runs

MOST_KINDS = 4
LESS_TELLING = (",kind=", "R@5", "IoU=0.1", "IoU=0.3")


def report_page(runs: Sequence[Run]) -> str:
    """Return the report of runs as HTML: results, curves, failures, every query, configuration.

    Everything that comes from data is escaped; queries are strangers' text.

    Args:
        runs: one or more, all about videos or all about images.

    Raises:
        RunError: videos and images mixed, or runs without a query in common.
    """
    if len({run.video for run in runs}) > 1:
        raise RunError("one run is about videos, another about images; report on them apart")
    common = [p for p in runs[0].protocols if all(p in run.protocols for run in runs)]
    matched = {protocol: match_runs(runs, protocol) for protocol in common}
    main = runs[0].main_protocol if runs[0].main_protocol in common else None
    if main is None:
        raise RunError(f"runs {', '.join(run.name for run in runs)} have no protocol in common")
    title = ", ".join(run.name for run in runs)
    sections = [
        ("results", "Results", _results(runs)),
        ("curves", "Curves", _curves(runs)),
        ("failures", "Where they fail", _failures(runs, matched[main], main)),
        ("queries", "Every query", _browser()),
        ("configuration", "Configuration", _configuration(runs)),
    ]
    links = "".join(f'<a href="#{anchor}">{name}</a>' for anchor, name, _ in sections)
    body = "".join(f'<section id="{anchor}"><h2>{name}</h2>{content}</section>' for anchor, name, content in sections)
    return _PAGE.format(
        title=html.escape(title),
        style=_resource("report.css"),
        script=_resource("report.js"),
        legend=_legend(runs),
        links=links,
        body=body,
        data=_embedded(_data(runs, matched, main)),
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
<header><h1>{title}</h1><nav>{links}</nav>{legend}</header>
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


def _legend(runs: Sequence[Run]) -> str:
    keys = ['<span class="key truth"></span>ground truth']
    keys += [f'<span class="key c{k % 5}"></span>{html.escape(run.name)}' for k, run in enumerate(runs)]
    return f'<p class="legend">{"".join(f"<span>{key}</span>" for key in keys)}</p>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], classes: Sequence[str] = ()) -> str:
    """A table of text; the first column is a heading, the others are numbers."""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = []
    for number, (first, *others) in enumerate(rows):
        name = f' class="{classes[number]}"' if classes else ""
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in others)
        lines.append(f"<tr{name}><th>{html.escape(first)}</th>{cells}</tr>")
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _results(runs: Sequence[Run]) -> str:
    places: dict[tuple, list[tuple[Run, dict[str, Any]]]] = {}
    for run in runs:
        for entry in run.results:
            key = (entry["dataset"], entry["split"], entry["protocol"], entry["queries"])
            places.setdefault(key, []).append((run, entry))
    parts = []
    for (dataset, split, protocol, queries), entries in places.items():
        first = entries[0][1]
        metrics = [m for m in first["metrics"] if ",kind=" not in m]
        kinds = [m for m in first["metrics"] if ",kind=" in m]
        metrics += kinds if len(kinds) <= MOST_KINDS else []
        rows = [[f"floor: {name}", *_numbers(values, metrics)] for name, values in first["floors"].items()]
        classes = ["floor"] * len(rows)
        for run, entry in entries:
            rows.append([f"{run.name} ({entry['model']}, seed {entry['seed']})", *_numbers(entry["metrics"], metrics)])
        rows.append(["oracle", *_numbers(first["oracle"], metrics)])
        classes += ["run"] * len(entries) + ["oracle"]
        parts.append(f"<h3>{html.escape(f'{dataset}, split {split}, {protocol}, {queries} queries')}</h3>")
        parts.append(_table(["answer", *metrics], rows, classes))
    note = "Floors know nothing of the query; the oracle takes the best proposal. All in percent."
    return f'<p class="note">{note}</p>' + "".join(parts)


def _numbers(values: dict[str, int | float], metrics: Sequence[str]) -> list[str]:
    return [f"{values[m]:.1f}" if m in values else "" for m in metrics]


def _curves(runs: Sequence[Run]) -> str:
    names = list(dict.fromkeys(k for run in runs for line in run.log for k in line))
    # One curve a question: of ten recalls two and the mean tell what happens.
    kept = [n for n in names if n == "loss" or (n.startswith("validation/") and not any(w in n for w in LESS_TELLING))]
    charts = []
    for name in kept:
        series = [
            (run.name, [(float(line["step"]), float(line[name])) for line in run.log if name in line]) for run in runs
        ]
        charts.append(line_chart(name.replace("/", ": "), series, dots=name != "loss"))
    if not any(charts):
        return "<p>log.jsonl holds no losses.</p>"
    return f'<div class="charts">{"".join(charts)}</div>'


def _failures(runs: Sequence[Run], matched: Sequence[list[Prediction]], protocol: str) -> str:
    text = f"{len(matched)} queries, protocol {protocol}; a hit is an answer of IoU 0.5 or more; IoU is the mean."
    parts = [f'<p class="note">{html.escape(text)}</p><div class="tables">']
    for name, rows in breakdowns(matched, runs[0].video).items():
        parts.append(f"<div><h3>{html.escape(name)}</h3>{_bars(runs, rows)}</div>")
    return "".join(parts) + "</div>"


def _bars(runs: Sequence[Run], rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        bars = "".join(
            f'<div class="bar"><i class="c{k % 5}" style="width:{hits:.1f}%"></i>'
            f'<span title="{html.escape(runs[k].name)}">{hits:.0f} % hits, IoU {iou:.0f}</span></div>'
            for k, (hits, iou) in enumerate(zip(row.hits, row.iou, strict=True))
        )
        lines.append(f"<tr><th>{html.escape(row.name)}</th><td>{row.queries}</td><td class='bars'>{bars}</td></tr>")
    head = "<tr><th>group</th><th>queries</th><th class='bars'>hits</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table>"


def _browser() -> str:
    return """<div class="controls">
<label>search <input id="search" type="search" placeholder="words, or an id"></label>
<label>split and protocol <select id="group"></select></label>
<label>sort <select id="sort"></select></label>
<span id="count" role="status"></span>
<span class="pages"><button id="back" type="button">previous</button> <span id="page"></span>
<button id="next" type="button">next</button></span>
</div><div class="scroll"><table id="rows"><thead></thead><tbody></tbody></table></div>"""


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


def _data(runs: Sequence[Run], matched: dict[str, list[list[Prediction]]], main: str) -> dict[str, Any]:
    groups: dict[str, list] = {}
    for protocol, rows in matched.items():
        for row in rows:
            first = row[0]
            tops = [[[*(round(v, 2) for v in proposal), score] for proposal, score in p.top] for p in row]
            answers = [[round(p.iou, 4), top] for p, top in zip(row, tops, strict=True)]
            record = [first.id, first.item, first.text, [list(t) for t in first.targets], answers]
            groups.setdefault(f"{first.split}, {protocol}", []).append(record)
    start = next(name for name in groups if name.endswith(f", {main}"))
    return {"runs": [run.name for run in runs], "video": runs[0].video, "groups": groups, "start": start}
