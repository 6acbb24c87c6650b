"""Compile each kernel as its launch would, for a GPU that is not there; print a line of JSON for each.

With the word `tiles` those on tiles alone, in all sizes of their blocks, and with what the assembler reports.
A program of its own: a process in which Triton was imported for its interpreter cannot compile.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from relgrounding.ops._triton._jit import Kernel
from relgrounding.ops.gated_sum.triton import gated_sum_triton
from relgrounding.ops.gated_sum.triton_dense import gated_sum_triton_dense
from relgrounding.ops.graph_attention.triton import graph_attention_triton
from relgrounding.ops.graph_attention.triton_dense import graph_attention_triton_dense
from relgrounding.ops.typed_comparison.triton import typed_comparison_triton
from relgrounding.ops.typed_comparison.triton_dense import typed_comparison_triton_dense
from tests.ops.cases import draw_inputs, graph_problem, structure_of

POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}
PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
TILES = sys.argv[1:] == ["tiles"]
compiled: dict[tuple, dict] = {}


def compile_only(kernel, *arguments, grid, warmup, num_warps=4, num_stages=3, **constants):
    """Take the place of a launch: what it would compile for these arguments, number 1 and multiples of 16 included."""
    signature, attributes = {}, {}
    for position, (name, value) in enumerate(zip(kernel.arg_names, arguments, strict=False)):
        if isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
            attributes[position,] = [["tt.divisibility", 16]]  # PyTorch's allocations on a GPU
        elif value is None or (value == 1 and not kernel.params[position].do_not_specialize):
            signature[name], constants[name] = "constexpr", value
        else:
            signature[name] = "i32"
            if value % 16 == 0 and not kernel.params[position].do_not_specialize:
                attributes[position,] = [["tt.divisibility", 16]]
    signature |= dict.fromkeys(constants, "constexpr")
    signature = {name: signature[name] for name in kernel.arg_names}
    key = (kernel.__name__, num_warps, *signature.values(), str(attributes), str(constants))
    if key in compiled:
        return
    source = ASTSource(kernel, signature, constants, attributes)
    result = triton.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"num_warps": num_warps, "num_stages": num_stages}
    )
    compiled[key] = {
        "kernel": kernel.__name__,
        "inputs": signature[kernel.arg_names[0]],
        "constants": {name: str(value) for name, value in constants.items()},
        "warps": num_warps,
        "shared": result.metadata.shared,
        "ptx": result.asm["ptx"],
        **(_report(result.asm["ptx"]) if TILES else {}),
    }


def _report(ptx):
    """What a program needs of a GPU's memory beside its registers, in bytes."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [PTXAS, "-v", "--gpu-name=sm_90a", file.name, "-o", "/dev/null"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    stack, stores, loads = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes", text).groups()
    return {"registers": int(re.search(r"Used (\d+) reg", text)[1]), "spilled": int(stack) + int(stores) + int(loads)}


def main() -> None:
    """Compile for rows of one number, of no power of two, of several chunks; for the gradient of each input alone."""
    Kernel.run = compile_only
    if TILES:
        _tiles()
        return _print()
    edges = [(0, 1, 0), (2, 1, 1), (1, 0, 2)]
    structure = structure_of([3], edges)
    plain = [(torch.float32, 1, 1), (torch.float32, 3, 100), (torch.float32, 1, 600)]
    common = [(dtype, 4, 64) for dtype in (torch.float32, torch.bfloat16, torch.float16)]
    for dtype, heads, dim in plain + common:
        comparison = graph_problem("typed_comparison", [3], edges, 1, heads * dim).shapes
        for run, shapes, extra in (
            (graph_attention_triton, graph_problem("graph_attention", [3], [], heads, dim).shapes, [0.2]),
            (gated_sum_triton, graph_problem("gated_sum", [3], [], 1, heads * dim).shapes, []),
            (typed_comparison_triton, comparison, []),
            (typed_comparison_triton, comparison[:4], []),
        ):
            choices = [range(len(shapes)), *([i] for i in range(len(shapes)) if (dtype, dim) == (torch.float32, 64))]
            for needed in choices:
                inputs = [x.detach().requires_grad_(i in needed) for i, x in enumerate(draw_inputs(0, shapes, dtype))]
                run(structure, *inputs, *extra).sum().backward()
    for dim in (64, 128):  # the first shape of tiles and the second
        _tile(torch.bfloat16, dim, 2)
    _wander()
    _print()


def _print() -> None:
    for entry in compiled.values():
        json.dump(entry, sys.stdout)
        print()


def _tiles() -> None:
    """Every shape of tiles, with parallel edges and without, one type and many; wider rows have several chunks."""
    for dtype, precision in ((torch.float32, "highest"), (torch.float32, "high"), (torch.bfloat16, "highest")):
        torch.set_float32_matmul_precision(precision)
        for dim in (32, 64, 128):
            _tile(dtype, dim, 11)
    for types, parallel in ((1, False), (11, True)):
        _tile(torch.bfloat16, 128, types, parallel)


def _tile(dtype: torch.dtype, dim: int, types: int, parallel: bool = False) -> None:
    structure = structure_of([3], [(0, 1, 0), (2, 1, 0), *([(2, 1, 0)] * parallel)], types)
    shapes = graph_problem("graph_attention", [3], [], 4, dim).shapes
    graph_attention_triton_dense(structure, *draw_inputs(0, shapes, dtype), 0.2).sum().backward()
    shapes = graph_problem("gated_sum", [3], [], 1, dim, types).shapes
    gated_sum_triton_dense(structure, *draw_inputs(0, shapes, dtype)).sum().backward()
    edges = [(0, 1, 0)] * structure.num_edges
    shapes = graph_problem("typed_comparison", [3], edges, 1, dim, types).shapes
    for given in (shapes[:4], shapes) if dim == 128 else (shapes,):
        typed_comparison_triton_dense(structure, *draw_inputs(0, given, dtype)).sum().backward()


def _wander() -> None:
    """Batches of 1 node and edge, of multiples of 16 and of other sizes must not compile anything anew."""
    variants: set[int] = set()
    for nodes in (7, 1, 16, 33):
        ring = [(node, (node + 1) % nodes, node % 3) for node in range(nodes)]
        for operator, run in (
            ("graph_attention", graph_attention_triton),
            ("graph_attention", graph_attention_triton_dense),
            ("gated_sum", gated_sum_triton),
            ("gated_sum", gated_sum_triton_dense),
            ("typed_comparison", typed_comparison_triton),
            ("typed_comparison", typed_comparison_triton_dense),
        ):
            task = graph_problem(operator, [nodes], ring, dim=64)
            extra = [0.2] if operator == "graph_attention" else []
            run(task.structure, *draw_inputs(0, task.shapes, torch.float32), *extra).sum().backward()
        variants.add(len(compiled))
    if len(variants) > 1:
        sys.exit(f"batches of other sizes are compiled anew: {sorted(variants)} variants")


if __name__ == "__main__":
    main()
