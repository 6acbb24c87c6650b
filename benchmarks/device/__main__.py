"""What a GPU does with these kernels, in under ten minutes: ``python -m benchmarks.device --out FOLDER``.

Values first: every operator against float64 on ragged random graphs, the same bits twice, features beyond 2^31 numbers.
Then ceilings of the device (copy, matrix products), layers against PyTorch Geometric, plain and compiled, and against
their linear maps and a copy of their bytes; training steps with their waits and launches; variants that are compiled.
Lines are printed as they are found, and once more at the end. FOLDER gets device.json and device.txt. The exit status
is 1 where a value is wrong or a section fails. ``--dry`` runs every section at a tiny size, on the CPU where there is
no GPU: it checks this program, and measures nothing.

``benchmarks/device.sh`` runs it on a machine without a network.
"""

import argparse
import sys
from pathlib import Path

import torch

from benchmarks import machine
from benchmarks.device.checks import check_large_offsets, check_values
from benchmarks.device.report import Report
from benchmarks.device.speed import measure_ceilings, measure_speed
from benchmarks.device.training import count_variants, measure_steps
from relgrounding._files import check_output_folder

SECTIONS = {
    "ceilings": measure_ceilings,
    "values": check_values,
    "offsets": check_large_offsets,
    "speed": measure_speed,
    "steps": measure_steps,
    "variants": count_variants,
}


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.device", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/device"), help="output folder (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=480, help="seconds after which nothing begins (480)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections (all)")
    parser.add_argument("--dry", action="store_true", help="tiny sizes, on the CPU where there is no GPU")
    arguments = parser.parse_args(words)
    try:
        check_output_folder(arguments.out)
    except ValueError as error:
        parser.error(f"--out: {error}")
    if not torch.cuda.is_available() and not arguments.dry:
        parser.error("PyTorch sees no CUDA device; --dry checks this program on the CPU")
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    report = Report(device, arguments.dry, arguments.budget)
    facts = machine.facts(device)
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
    for name in arguments.only:
        report.section(name, SECTIONS[name])
        report.write(arguments.out, facts)
    print("\n" + "\n".join(report.lines))
    print(f"{len(report.failures)} failures in {report.seconds:.0f} s; written to {arguments.out}")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
