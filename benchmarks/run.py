"""The benchmark of message-passing layers: ``python -m benchmarks.run --core``.

For each case the correctness gate comes first; providers that pass it are timed in turns; then the peak of their memory
is measured, and last the building of graphs. Without --case or --full the core cases run. The output folder gets
results.csv, building.csv, table.md and figures.
"""

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import cases, criteria, machine, providers
from benchmarks.graph_building import measure_building
from benchmarks.measure import Row, Settings, measure, time_sizes, weigh
from benchmarks.memory import own_pages
from benchmarks.report import case_table, markdown, write_csv
from relgrounding._files import check_output_folder

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", default=[], help="name, part of one or pattern; may be repeated")
    parser.add_argument("--provider", action="append", default=[], help="the same for providers")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--core", action="store_true", help="the core cases (default)")
    size.add_argument("--full", action="store_true", help="all cases")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's choice")
    parser.add_argument("--repeats", type=int, default=30, help="most turns per case, two calls each")
    parser.add_argument("--seconds", type=float, default=30.0, help="no further turn of a case begins after so long")
    parser.add_argument("--max-memory", type=float, default=0.0, help="GiB a provider may take; 0: half of the free")
    parser.add_argument("--no-memory", action="store_true", help="without the peak of memory")
    parser.add_argument("--no-building", action="store_true", help="without the building of graphs")
    parser.add_argument("--list", action="store_true", help="print the names of cases and providers and end")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="output folder")
    return parser.parse_args(words)


def settings_of(args: argparse.Namespace) -> Settings:
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda: PyTorch sees no CUDA device; leave the option out")
    if args.threads:
        torch.set_num_threads(args.threads)
    allowed = int(args.max_memory * 2**30) or machine.available_memory(device) // 2
    return Settings(device, DTYPES[args.dtype], args.repeats, args.seconds, allowed)


def run_cases(chosen: list[cases.Case], patterns: list[str], settings: Settings, memory: bool) -> list[Row]:
    rows: dict[str, list[Row]] = {}
    with tqdm(total=len(chosen) * (1 + memory), unit="pass", file=sys.stderr, disable=None) as bar:
        for case in chosen:
            rows[case.name] = measure(case, providers.select(case.layer, patterns), settings, bar.set_description)
            bar.update()
        for layer in cases.LAYERS:
            of_layer = [(case, row) for case in chosen if case.layer == layer for row in rows[case.name]]
            sizes = [(case, row) for case, row in of_layer if criteria.in_scaling(row)]
            if len(sizes) > 1:
                (provider,) = providers.select(layer, [criteria.OURS])
                bar.set_description(f"{layer}: sizes in turns")
                time_sizes(sizes, provider, settings, bar.refresh)
        if memory:
            # In a process of its own, whose memory holds nothing that was freed by what ran before.
            spawn, threads = multiprocessing.get_context("spawn"), torch.get_num_threads()
            with ProcessPoolExecutor(1, mp_context=spawn, initializer=own_pages) as pool:
                for case in chosen:
                    bar.set_description(f"{case.name}: memory")
                    task = pool.submit(weigh_case, case.name, patterns, rows[case.name], settings, threads)
                    rows[case.name] = task.result()
                    bar.update()
    return [row for of_case in rows.values() for row in of_case]


def weigh_case(name: str, patterns: list[str], rows: list[Row], settings: Settings, threads: int) -> list[Row]:
    torch.set_num_threads(threads)
    case = cases.registry()[name]
    return weigh(case, providers.select(case.layer, patterns), rows, settings)


def save(args: argparse.Namespace, facts: dict[str, str], rows: list[Row], building: list[dict[str, Any]]) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / "results.csv", [row.flat() for row in rows])
    if building:
        write_csv(args.out / "building.csv", building)
    page = markdown("Benchmark of message-passing layers", facts, rows, building, criteria.lines(rows))
    (args.out / "table.md").write_text(page, encoding="utf-8")
    try:
        from benchmarks.plots import draw

        draw(rows, args.out)
    except ImportError as error:
        print(f'no figures: {error}; pip install -e ".[plot]"', file=sys.stderr)


def main() -> None:
    args = parse()
    try:
        chosen = cases.select(args.case, core=not args.full)
        every = {layer: providers.select(layer, args.provider) for layer in cases.LAYERS}
    except ValueError as error:
        sys.exit(str(error))
    if args.list:
        print("\n".join(f"{case.name}{' (core)' if case.core else ''}" for case in chosen))
        print("\n".join(f"{layer}: {', '.join(p.name for p in of)}" for layer, of in every.items()))
        return
    try:
        check_output_folder(args.out)
    except ValueError as error:
        sys.exit(f"--out: {error}")
    settings = settings_of(args)
    facts = machine.facts(settings.device)
    facts["settings"] = f"{settings.repeats} turns or {settings.seconds:g} s per case, two calls per turn"
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    # Only where nothing narrower was asked for.
    narrow = args.no_building or args.case or args.provider or settings.device.type != "cpu"
    building = [] if narrow else list(measure_building(settings.repeats, settings.seconds, print))
    rows = run_cases(chosen, args.provider, settings, not args.no_memory)
    save(args, facts, rows, building)
    for case in chosen:
        print("\n" + case_table([row for row in rows if row.case == case.name]))
    print("\n" + "\n".join(criteria.lines(rows)))
    print(f"\nwritten to {args.out}")


if __name__ == "__main__":
    main()
