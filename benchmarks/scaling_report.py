"""Tables and figure of `benchmarks.scaling`."""

import re
import statistics
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.report import table

RUNS = {"1 process": (1, 1), "2 processes": (1, 2), "2 apart": (2, 1)}
"""Trainings at once, and the processes of each; "2 apart" have half of the batch each and share nothing."""
GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SHOWN = ("2", "8", "64", "512")


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Return the tables of scaling.json as Markdown: "cost", "measured" and "modelled"."""
    return {"cost": _cost(found["cost"]), "measured": _measured(found), "modelled": _modelled(found["modelled"])}


def write_page(page: Path, found: dict[str, Any]) -> None:
    """Replace the tables of a page, which stand between <!-- NAME --> and <!-- end -->."""
    text = page.read_text(encoding="utf-8")
    for name, content in tables(found).items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(pattern, partial(_replaced, content), text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"{page}: holds {count} times <!-- {name} --> ... <!-- end -->; it needs one")
    page.write_text(text, encoding="utf-8")


def _replaced(content: str, found: re.Match[str]) -> str:
    return f"{found[1]}\n{content}\n\n{found[2]}"


def _cost(cost: dict[str, Any]) -> str:
    rows, changed = [], []
    for name, of in cost.items():
        sizes = [str(of["sizes"][key]) for key in ("items", "proposals", "words", "negatives")]
        millions = [f"{of[key] / 1e6:.1f}" for key in ("gradients", "gathered")]
        rows.append([name, *sizes, f"{of['flops'] / 1e9:.1f}", *millions, str(of["calls"])])
        for what, parts in of["by size"].items():
            operations = {part: value / 1e9 for part, value in parts.items() if part != "gathered"}
            total = sum(operations.values())
            pairs = operations["pairs"] + operations["words of pairs"] + operations["messages"]
            changed.append(
                [name, what, f"{total:.1f}", f"{100 * pairs / total:.0f} %", f"{parts['gathered'] / 1e6:.1f}"]
            )
    first = ["configuration", "B", "T", "L", "K", "GFLOP", "MB of gradients", "MB gathered", "calls"]
    second = ["configuration", "batch", "GFLOP", "of which for pairs", "MB gathered"]
    return f"{table(rows, first)}\n\n{table(changed, second)}"


def _measured(found: dict[str, Any]) -> str:
    if not found["measured"]:
        return "Not measured yet."
    facts = found["machine"]
    rows = []
    for name, of in found["measured"].items():
        cells = [f"{statistics.median(of[k]):.0f} ({min(of[k]):.0f} to {max(of[k]):.0f})" for k in RUNS]
        one, two, apart = (statistics.median(of[kind]) for kind in RUNS)
        rows.append([name, *cells, f"{two / one:.2f}", f"{apart / one:.2f}"])
    head = ["configuration, whole batch", *RUNS, "speed-up", "apart"]
    where = ", ".join(f"{facts[key]}" for key in ("processor", "memory", "system") if key in facts)
    load = f"; {facts['load before the run']}" if "load before the run" in facts else ""
    return f"{table(rows, head)}\n\nMachine: {where}; torch {facts.get('torch', '')}{load}."


def _modelled(modelled: dict[str, Any]) -> str:
    cases = ("one batch", "a batch each", "a batch each, gathered")
    rows = [[name, case, *(f"{of[case][n]:.1f}" for n in SHOWN)] for name, of in modelled.items() for case in cases]
    times = [
        [name, n, *(f"{value:,.0f}" for value in values.values())]
        for name, of in modelled.items()
        for n, values in of["microseconds"].items()
    ]
    first = ["configuration", "speed, multiple of one GPU", *(f"{n} GPUs" for n in SHOWN)]
    second = ["configuration", "GPUs that share one batch", "computing, µs", "calls", "all-reduce", "all-gather"]
    return f"{table(rows, first)}\n\n{table(times, second)}"


def draw(found: dict[str, Any], path: Path) -> None:
    """Write the figure: measured speeds, and modelled speed-ups."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    measured = found["measured"]
    figure, axes = pyplot.subplots(1 + bool(measured), 1, figsize=(5.2, 8.2 if measured else 5.2), squeeze=False)
    if measured:
        _draw_measured(axes[0, 0], measured)
    right = axes[-1, 0]
    styles = {"a batch each": "-", "a batch each, gathered": "--", "one batch": ":"}
    for name, colour in zip(found["modelled"], ("#009e73", "#cc79a7"), strict=False):
        for case, style in styles.items():
            values = {int(n): 100 * speed / int(n) for n, speed in found["modelled"][name][case].items()}
            right.plot(list(values), list(values.values()), style, color=colour, label=f"{name}, {case}")
    right.axvline(8, color="#999999", linewidth=0.8)
    right.text(8.4, 66, "one node", fontsize=9, color="#555555")
    right.set(xscale="log", ylim=(0, 105), xlabel="GPUs", ylabel="efficiency, % (speed per GPU)")
    right.set_title("Modelled, not measured: H100s")
    right.set_xticks(GPUS[::3], map(str, GPUS[::3]))
    right.minorticks_off()
    right.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
    right.grid(True, which="major", linewidth=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def _draw_measured(axis: Any, measured: dict[str, Any]) -> None:
    names = list(measured)
    ones = [statistics.median(measured[name]["1 process"]) for name in names]
    for index, (kind, colour) in enumerate(zip(RUNS, ("#0072b2", "#d55e00", "#999999"), strict=True)):
        medians = [statistics.median(measured[name][kind]) for name in names]
        at = [k + 0.31 * (index - 1) for k in range(len(names))]
        axis.bar(at, medians, 0.28, color=colour, label=kind)
        for x, median, one in zip(at, medians, ones, strict=True):
            label = f"×{median / one:.2f}" if index else f"{median:.0f}"
            axis.text(x, median, label, ha="center", va="bottom", fontsize=7)
    axis.set_xticks(range(len(names)), [name.replace(", ", "\n") for name in names], fontsize=9)
    axis.set_ylim(0, 1.25 * axis.get_ylim()[1])
    axis.set(ylabel="queries per second", title="Measured: one thread per process")
    axis.legend(fontsize=10, loc="upper left")
