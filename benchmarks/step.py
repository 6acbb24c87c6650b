"""Time, memory and breakdown of one training step of VGN and IGN: ``python -m benchmarks.step``.

A step starts with the batch on its device and ends with the optimizer's update: each item with its own sentence and
with one other of the batch (`draw_negatives`), the hinge loss, backward, clipping of the gradient norm, Adam. Ours is
`relgrounding.objectives.MIL`; the other is `benchmarks.eager_models` with the same weights, batch and pairings.
"stage 2" is a step of counterfactual contrastive learning with all levels and one draw, on top of the same MIL loss;
"round 1" and "round 2" are steps of co-training, in which one and two other members of the same size give the target.

Before any figure, loss and gradients of both are compared: in float64 on a small batch, in float32 on the batch that is
timed. Where they differ nothing is printed.

Times are taken interleaved, one step of each in turn, so that whatever else the machine does meets both. Peak extra
memory is what is held at most during a step beyond what was held before it, as PyTorch's allocator and as the system
see it (`benchmarks.memory`). The breakdown is wall time of forward and backward between the hooks of the submodules;
"rest" is all that lies between them (pairing, loss, activations).

With ``--config NAME ...`` it measures instead the first and the last stage of these configurations on their own data,
in each of ``--precision`` and, with ``--compile``, also compiled. Each step is preceded by one that is not counted.

With ``--against COMMIT`` it measures steps of three configurations here and in another commit; see `step_against`.
"""

import argparse
import copy
import statistics
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from benchmarks import machine
from benchmarks.eager_models import EagerIGN, EagerModel, EagerVGN
from benchmarks.graph_specs import IMAGE_SIZE, draw_boxes
from benchmarks.memory import own_pages, peak_memory
from benchmarks.report import table
from benchmarks.step_against import CASES, WorkerError, measure_against
from benchmarks.step_settings import measure_settings
from benchmarks.timing import Quantiles, interleaved, synchronize
from relgrounding.graphs import GraphStructure, spatial_structure, temporal_structure, window_proposals
from relgrounding.modalities import Batch, ImageBatch, VideoBatch
from relgrounding.models import IGN, VGN, Committee, IGNConfig, ModelConfig, Plan, VGNConfig
from relgrounding.nn import WordEmbedding
from relgrounding.objectives import (
    CCL,
    MIL,
    CCLConfig,
    CoTraining,
    CoTrainingConfig,
    MILConfig,
    Objective,
    draw_negatives,
    mil_loss,
)

WORDS, WORD_DIM, VOCABULARY = 20, 300, 1000
CLIPS, CLIP_DIM, WIDTHS, STRIDE = 64, 500, (4, 8, 12, 16, 24), 0.25
"""130 windows a video, whose graph is 13 % dense."""
REGIONS, REGION_DIM = 50, 256
CLIP_NORM = 5.0
ENCODERS = ("embedding", "clip_encoder", "word_encoder")
PARTS = (*ENCODERS, "pooling", "attention", "fusion", "relation", "position", "score", "aggregate")


def draw_batch(name: str, items: int, shortest: int, seed: int) -> Batch:
    """A batch of random features; sentences have from `shortest` to 20 words."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, WORDS + 1, (items,), generator=generator)
    lengths[0] = WORDS
    words = torch.randint(2, VOCABULARY, (items, WORDS), generator=generator)
    words[torch.arange(WORDS) >= lengths.unsqueeze(1)] = 0
    common: dict[str, Any] = {
        "words": words,
        "word_lengths": lengths,
        "importance": (words > 0).float(),
        "item": torch.arange(items),
        "text": torch.arange(items),
        "group": torch.full((items,), -1),
        "block": torch.full((items,), -1),
        "queries": list(range(items)),
    }
    if name == "vgn":
        spans = window_proposals(CLIPS, WIDTHS, STRIDE)
        clips = torch.randn(items, CLIPS, CLIP_DIM, generator=generator)
        structure = GraphStructure.batch([temporal_structure(spans)] * items)
        full = torch.full((items,), CLIPS)
        return VideoBatch(structure, **common, clips=clips, clip_lengths=full, spans=spans.repeat(items, 1))
    boxes = [draw_boxes(REGIONS, 1000 * seed + number, sides=(8, 200)) for number in range(items)]
    joined = torch.cat(boxes).float()
    places = torch.cat([joined[:, :2], joined[:, 2:] - joined[:, :2]], 1) / torch.tensor(IMAGE_SIZE * 2)
    regions = torch.randn(items * REGIONS, REGION_DIM, generator=generator)
    structure = spatial_structure(boxes, IMAGE_SIZE)
    unknown = torch.full((len(joined),), -1)
    return ImageBatch(
        structure,
        **common,
        regions=regions,
        places=places,
        boxes=joined,
        categories=unknown,
        attributes=torch.zeros(items, 0),
    )


def draw_models(name: str, backend: str, seed: int) -> tuple[VGN | IGN, EagerModel]:
    """Ours and the eager rendering with the same weights; the biases are drawn too, so that each one matters."""
    torch.manual_seed(seed)
    vectors = torch.randn(VOCABULARY, WORD_DIM)

    def model(backend: str) -> VGN | IGN:
        if name == "vgn":
            return VGN(VGNConfig(name="vgn", top_r=32), CLIP_DIM, WordEmbedding(vectors), WORD_DIM, backend)
        return IGN(IGNConfig(top_r=12), REGION_DIM, WordEmbedding(vectors), WORD_DIM, backend)

    ours = model(backend)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    eager = (EagerVGN if name == "vgn" else EagerIGN)(model("naive"))
    eager.load_state_dict(ours.state_dict())
    return ours, eager


def loss_of(model: VGN | IGN | EagerModel, batch: Batch, generator: torch.Generator, negatives: int = 1) -> Tensor:
    """The MIL loss of either model; both draw the same from equal generators."""
    config = MILConfig(negatives=negatives)
    if not isinstance(model, EagerModel):
        return MIL(model, {"mil": config}, generator)(batch)[0]
    drawn = draw_negatives(len(batch), config.negatives, batch.group.cpu(), generator).to(batch.words.device)
    own, wrong = model(batch, drawn)
    valid = (batch.item[drawn] != batch.item) & (batch.text[drawn] != batch.text)
    return mil_loss(own, wrong, drawn, valid, config.margin)


def stage_2_of(model: VGN | IGN, negatives: int = 1) -> CCL:
    """From a batch to the loss of stage 2 and its parts: MIL and one draw of every level."""
    return CCL(model, {"ccl": CCLConfig(), "mil": MILConfig(negatives=negatives)}, torch.Generator())


def round_of(model: VGN | IGN, number: int) -> CoTraining:
    """From a batch to the loss of a copy of a model in a round of co-training."""
    config = CoTrainingConfig()
    plan = Plan([ModelConfig()] * (number + 1), config.temperature, config.earlier_weight)
    committee = Committee([copy.deepcopy(model) for _ in plan.members], plan)
    committee.begin(number)
    committee.train()
    return CoTraining(committee, {"cotrain": config}, torch.Generator())


class Step:
    """One training step of one model: of MIL, or of another objective."""

    def __init__(
        self, model: VGN | IGN | EagerModel, batch: Batch, objective: Objective | None = None, negatives: int = 1
    ) -> None:
        self.model, self.batch, self.objective, self.negatives = model, batch, objective, negatives
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
        self.generator = torch.Generator()
        self.mark: Callable[[str], None] = lambda part: None

    def __call__(self) -> None:
        """Take it."""
        if self.objective:
            loss = self.objective(self.batch)[0]
        else:
            loss = loss_of(self.model, self.batch, self.generator, self.negatives)
        self.mark("optimizer")
        self.optimizer.zero_grad(set_to_none=True)
        self.mark("rest")
        loss.backward()
        self.mark("optimizer")
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        synchronize(self.batch.words.device)
        self.mark("")


def difference(ours: VGN | IGN, eager: EagerModel, batch: Batch) -> float:
    """Largest difference of loss and gradients, each as a share of its size."""
    found = []
    for model in (ours, eager):
        loss = loss_of(model, batch, torch.Generator().manual_seed(0))
        names, parameters = zip(*model.named_parameters(), strict=True)
        found.append({"loss": loss} | dict(zip(names, torch.autograd.grad(loss, parameters), strict=True)))
    values, expected = found
    # Where a gradient is zero but for rounding, the largest one is its measure.
    least = 1e-6 * max(value.norm() for value in expected.values())
    errors = [(values[name] - right).norm() / right.norm().clamp_min(least) for name, right in expected.items()]
    return max(errors).item()


def as_double(batch: Batch) -> Batch:
    floating = {k: v.double() for k, v in vars(batch).items() if isinstance(v, Tensor) and v.is_floating_point()}
    return type(batch)(**{**vars(batch), **floating})


def gate(name: str, ours: VGN | IGN, eager: EagerModel, batch: Batch) -> str:
    """Say how well both agree, or leave with an error.

    In float32 a proposal at the edge of the R highest may fall on either side, hence the wider bound there.
    """
    small = as_double(draw_batch(name, 6, 1, seed=1)).to(batch.words.device)
    exact = difference(copy.deepcopy(ours).double(), copy.deepcopy(eager).double(), small)
    single = difference(ours, eager, batch)
    if not (exact < 1e-9 and single < 1e-3):
        sys.exit(f"{name}: loss or gradients differ by {exact:.1e} (float64), {single:.1e} (float32): no figures")
    return f"loss and gradients agree to {exact:.0e} in float64 and {single:.0e} in float32"


def breakdown(step: Step, repeats: int) -> dict[str, float]:
    """Median milliseconds of each part of a step: wall time between the hooks of the parts, forward and backward."""
    parts: dict[str, list[float]] = defaultdict(list)
    part, since, seconds = "rest", 0.0, dict[str, float]()

    def mark(name: str) -> None:
        nonlocal part, since
        now = time.perf_counter()
        seconds[part] = seconds.get(part, 0.0) + now - since
        part, since = name, now

    handles = list(_hooks(step.model, mark))
    step.mark = mark
    for _ in range(repeats):
        part, since, seconds = "rest", time.perf_counter(), {}
        with warnings.catch_warnings():
            # Of parts whose input has no gradient; `_hooks` knows.
            warnings.filterwarnings("ignore", "Full backward hook is firing")
            step()
        for name, value in seconds.items():
            parts[name].append(1000 * value)
    step.mark = lambda part: None
    for handle in handles:
        handle.remove()
    return {name: statistics.median(values) for name, values in parts.items()}


def _hooks(model: nn.Module, mark: Callable[[str], None]) -> Iterable[RemovableHandle]:
    for name, part in model.named_children():
        for module in part if isinstance(part, nn.ModuleList) else [part]:
            if name in PARTS:
                yield module.register_forward_pre_hook(lambda *_, name=name: mark(name))
                yield module.register_forward_hook(lambda *_: mark("rest"))
                yield module.register_full_backward_pre_hook(lambda *_, name=name: mark(name))
                if name not in ENCODERS:
                    # Where no input has a gradient, the hook fires at the start: such a part lasts to the next one.
                    yield module.register_full_backward_hook(lambda *_: mark("rest"))


def measure(name: str, args: argparse.Namespace) -> Callable[[], str]:
    """Everything but memory; returns what measures that and gives all tables, for after `own_pages`."""
    device = torch.device(args.device)
    batch = draw_batch(name, args.items, args.shortest, seed=0).to(device)
    ours, eager = draw_models(name, args.backend, seed=0)
    ours.to(device)
    eager.to(device)
    verdict = gate(name, ours, eager, batch)
    words = f"{WORDS} words" if args.shortest == WORDS else f"{args.shortest} to {WORDS} words"
    proposals = f"{batch.structure.num_nodes // args.items} proposals ({batch.structure.num_edges} edges)"
    steps = {
        "eager": Step(eager, batch, negatives=args.negatives),
        "ours": Step(ours, batch, negatives=args.negatives),
        "stage 2": Step(ours, batch, stage_2_of(ours, args.negatives)),
    }
    for number in (1, 2):
        objective = round_of(ours, number)
        steps[f"round {number}"] = Step(objective.model.members[number], batch, objective)  # type: ignore[arg-type]
    turns = {key: {"step": step} for key, step in steps.items()}
    found = interleaved(turns, device, args.repeats, seconds=float("inf"), calls=1)
    times = {key: Quantiles.of(of["step"]) for key, of in found.items()}
    parts = {key: breakdown(step, max(3, args.repeats // 2)) for key, step in steps.items()}
    pairs = f"{args.negatives} negative{'s' * (args.negatives > 1)}"
    title = f"## {name}: batch {args.items}, {proposals}, {words}, {pairs}\n\n{verdict}"
    return lambda: "\n\n".join([title, *report(times, parts, steps, device)])


def report(
    times: dict[str, Quantiles], parts: dict[str, dict[str, float]], steps: dict[str, Step], device: torch.device
) -> Iterable[str]:
    """Measure the memory and give all tables."""
    peaks = {key: peak_memory(step, device) for key, step in steps.items()}
    rows = []
    for key, of in times.items():
        seen = "-" if peaks[key].process is None else f"{(peaks[key].process or 0) / 1e6:.0f}"
        milliseconds = [f"{quantile:.0f}" for quantile in (of.p20, of.p50, of.p80)]
        rows.append([key, *milliseconds, f"{peaks[key].allocator / 1e6:.0f}", seen])
    yield table(rows, ["step", "p20 ms", "p50 ms", "p80 ms", "allocator MB", "process MB"])
    yield (
        f"{times['eager'].p50 / times['ours'].p50:.2f} times faster, {peaks['ours'].peak / peaks['eager'].peak:.2f} of "
        f"the memory; a step of stage 2 (all levels, J = 1) takes {times['stage 2'].p50 / times['ours'].p50:.2f} steps "
        f"of MIL, one of co-training {times['round 1'].p50 / times['ours'].p50:.2f} in round 1 and "
        f"{times['round 2'].p50 / times['ours'].p50:.2f} in round 2"
    )
    rows = []
    for part in (*PARTS, "rest", "optimizer"):
        if any(part in of for of in parts.values()):
            pairs = [(of.get(part, 0), sum(of.values())) for of in parts.values()]
            rows.append([part, *(cell for ms, total in pairs for cell in (f"{ms:.1f}", f"{100 * ms / total:.0f} %"))])
    yield table(rows, ["part", *(header for key in parts for header in (f"{key} ms", "share"))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["vgn", "ign"], nargs="+", default=["vgn", "ign"])
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--shortest", type=int, default=WORDS, help="words of the shortest sentence; 20: no padding")
    parser.add_argument("--negatives", type=int, default=1, help="of each item in the loss of MIL")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--config", nargs="+", default=[], help="measure configurations with other settings of the step"
    )
    parser.add_argument("--precision", choices=["float32", "bfloat16"], nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--compile", action="store_true", help="with --config: compiled steps, too")
    parser.add_argument("--against", metavar="COMMIT", default="", help="compare steps with those of another commit")
    parser.add_argument("--case", choices=list(CASES), nargs="+", default=list(CASES), help="with --against")
    parser.add_argument("--relation", choices=["none", "graph"], nargs="+", default=["none", "graph"], help="likewise")
    parser.add_argument(
        "--features", type=Path, default=Path("features"), help="with --against: folder of the files of features"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend", default="auto", help="message-passing kernels of ours")
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.set_num_threads(1 if args.against else args.threads)
    print("\n".join(f"- {name}: {value}" for name, value in machine.facts(device).items()))
    if args.against:
        print(f"- bfloat16: {machine.short_products(device)}\n")
        try:
            for part in measure_against(args.against, args.case, args.relation, args.features, args.repeats):
                print(f"{part}\n", flush=True)
        except WorkerError as error:
            sys.exit(str(error))
        return
    if args.config:
        print(f"- bfloat16: {machine.short_products(device)}")
        variants = [
            (precision, compiled) for compiled in [False, True][: 1 + args.compile] for precision in args.precision
        ]
        for name in args.config:
            print(f"\n{measure_settings(name, variants, device, args.repeats)}", flush=True)
        return
    reports = [measure(name, args) for name in args.model]
    own_pages()
    for report_of in reports:
        print(f"\n{report_of()}")


if __name__ == "__main__":
    main()
