"""Time, memory and breakdown of one training step of VGN and IGN: ``python -m benchmarks.step``.

A step starts with the batch on its device and ends with the optimizer's update: each item with its own sentence and
with one other of the batch (`draw_negatives`), the hinge loss, backward, clipping of the gradient norm, Adam. Ours is
`relgrounding.training.mil_step`; the other is `benchmarks.eager_models` with the same weights, batch and pairings.
"stage 2" is a step of counterfactual contrastive learning with all levels and one draw, on top of the same MIL loss.

Before any figure, loss and gradients of both are compared: in float64 on a small batch, in float32 on the batch that is
timed. Where they differ nothing is printed.

Times are taken interleaved, one step of each in turn, so that whatever else the machine does meets both. Peak extra
memory is what is held at most during a step beyond what was held before it, as PyTorch's allocator and as the system
see it (`benchmarks.memory`). The breakdown is wall time of forward and backward between the hooks of the submodules;
"rest" is all that lies between them (pairing, loss, activations).
"""

import argparse
import copy
import statistics
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from benchmarks import machine
from benchmarks.eager_models import EagerIGN, EagerVGN, eager_names
from benchmarks.memory import own_pages, peak_memory
from benchmarks.timing import Quantiles, interleaved
from relgrounding.config import CCLConfig, ModelConfig, TrainConfig
from relgrounding.graphs import GraphStructure, SpatialRelation, spatial_structure, temporal_structure, window_proposals
from relgrounding.modalities._batches import Batch, ImageBatch, VideoBatch
from relgrounding.models import IGN, VGN
from relgrounding.nn import WordEmbedding
from relgrounding.objectives import draw_negatives, mil_loss
from relgrounding.training import CounterfactualStep, mil_step

WORDS, WORD_DIM, VOCABULARY = 20, 300, 1000
CLIPS, CLIP_DIM, WIDTHS, STRIDE = 64, 500, (4, 8, 12, 16, 24), 0.25
"""130 windows a video, whose graph is 13 % dense."""
REGIONS, REGION_DIM, SIZE = 50, 256, (640, 480)
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
        "item": torch.arange(items),
        "text": torch.arange(items),
        "group": torch.full((items,), -1),
        "queries": list(range(items)),
    }
    if name == "vgn":
        spans = window_proposals(CLIPS, WIDTHS, STRIDE)
        clips = torch.randn(items, CLIPS, CLIP_DIM, generator=generator)
        structure = GraphStructure.batch([temporal_structure(spans)] * items)
        full = torch.full((items,), CLIPS)
        return VideoBatch(structure, **common, clips=clips, clip_lengths=full, spans=spans.repeat(items, 1))
    extent = torch.randint(8, 201, (items, REGIONS, 2), generator=generator)
    corner = (torch.rand(items, REGIONS, 2, generator=generator) * (torch.tensor(SIZE) - extent)).long()
    boxes = torch.cat([corner, corner + extent], 2).float()
    places = torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], 2) / torch.tensor(SIZE * 2)
    regions = torch.randn(items * REGIONS, REGION_DIM, generator=generator)
    structure = spatial_structure(list(boxes), SIZE)
    return ImageBatch(structure, **common, regions=regions, places=places.flatten(0, 1), boxes=boxes.flatten(0, 1))


def draw_models(name: str, backend: str, seed: int) -> tuple[VGN | IGN, EagerVGN | EagerIGN]:
    """Ours and the eager rendering with the same weights; the biases are drawn too, so that each one matters."""
    torch.manual_seed(seed)
    embedding = WordEmbedding(torch.randn(VOCABULARY, WORD_DIM))
    ours: VGN | IGN
    eager: EagerVGN | EagerIGN
    if name == "vgn":
        config = ModelConfig(name="vgn", top_r=32)
        ours = VGN(config, CLIP_DIM, embedding, WORD_DIM, backend)
        eager = EagerVGN(config, CLIP_DIM, copy.deepcopy(embedding), WORD_DIM)
    else:
        config = ModelConfig(name="ign", top_r=12)
        ours = IGN(config, REGION_DIM, embedding, WORD_DIM, backend)
        eager = EagerIGN(config, REGION_DIM, copy.deepcopy(embedding), WORD_DIM, len(SpatialRelation))
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    eager.load_state_dict(eager_names(ours.state_dict()))
    return ours, eager


def loss_of(model: nn.Module, batch: Batch, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """The loss of either model; both draw the same from equal generators."""
    if isinstance(model, (VGN, IGN)):
        return mil_step(model, batch, config, generator)
    negatives = draw_negatives(len(batch), config.negatives, batch.group.cpu(), generator).to(batch.words.device)
    own, wrong = model(batch, negatives)
    valid = (batch.item[negatives] != batch.item) & (batch.text[negatives] != batch.text)
    return mil_loss(own, wrong, negatives, valid, config.margin)


class Step:
    """One training step of one model."""

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        self.model, self.batch, self.config = model, batch, TrainConfig()
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
        self.generator = torch.Generator()
        self.mark: Callable[[str], None] = lambda part: None

    def loss(self) -> Tensor:
        """Return the loss of this step."""
        return loss_of(self.model, self.batch, self.config, self.generator)

    def __call__(self) -> None:
        """Take it."""
        loss = self.loss()
        self.mark("optimizer")
        self.optimizer.zero_grad(set_to_none=True)
        self.mark("rest")
        loss.backward()
        self.mark("optimizer")
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        if self.batch.words.is_cuda:
            torch.cuda.synchronize()
        self.mark("")


class Stage2Step(Step):
    """One step of stage 2: MIL and one draw of every level of the counterfactual losses."""

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        super().__init__(model, batch)
        if not isinstance(model, (VGN, IGN)):
            raise TypeError(f"stage 2 is there for VGN and IGN, not for {type(model).__name__}")
        self.counterfactual = CounterfactualStep(model, CCLConfig(), self.config, self.generator)

    def loss(self) -> Tensor:
        """Return the loss of this step."""
        return self.counterfactual(self.batch)[0]


def difference(ours: nn.Module, eager: nn.Module, batch: Batch) -> float:
    """Largest difference of loss and gradients, each as a share of its size."""
    found = []
    for model in (ours, eager):
        loss = loss_of(model, batch, TrainConfig(), torch.Generator().manual_seed(0))
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        names = [name for name, _ in model.named_parameters()]
        found.append({"loss": loss} | dict(zip(names, gradients, strict=True)))
    named, expected = eager_names(found[0]), found[1]
    eager_values = list(expected.values())
    ours_values = [named[name] for name in expected]
    # Where a gradient is zero but for rounding, the largest one is its measure.
    least = 1e-6 * max(value.norm() for value in eager_values)
    errors = [(a - b).norm() / b.norm().clamp_min(least) for a, b in zip(ours_values, eager_values, strict=True)]
    return max(errors).item()


def as_double(batch: Batch) -> Batch:
    floating = {k: v.double() for k, v in vars(batch).items() if isinstance(v, Tensor) and v.is_floating_point()}
    return type(batch)(**{**vars(batch), **floating})


def gate(name: str, ours: nn.Module, eager: nn.Module, batch: Batch) -> str:
    """Say how well both agree, or leave with an error.

    In float32 a proposal at the edge of the R highest may fall on either side, hence the wider bound there.
    """
    small = as_double(draw_batch(name, 6, 1, seed=1)).to(batch.words.device)
    exact = difference(copy.deepcopy(ours).double(), copy.deepcopy(eager).double(), small)
    single = difference(ours, eager, batch)
    if not (exact < 1e-9 and single < 1e-3):
        sys.exit(f"{name}: loss or gradients differ by {exact:.1e} (float64), {single:.1e} (float32): no figures")
    return f"loss and gradients agree to {exact:.0e} in float64 and {single:.0e} in float32"


class Breakdown:
    """Wall time between the hooks of a model's parts, forward and backward."""

    def __init__(self, model: nn.Module) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.part, self.since = "", time.perf_counter()
        self.handles: list[RemovableHandle] = []
        for name in PARTS:
            found = getattr(model, name, None)
            for module in found if isinstance(found, nn.ModuleList) else [found] if found is not None else []:
                self._watch(module, name)

    def _watch(self, module: nn.Module, name: str) -> None:
        self.handles += [
            module.register_forward_pre_hook(lambda *_: self.mark(name)),
            module.register_forward_hook(lambda *_: self.mark("rest")),
            module.register_full_backward_pre_hook(lambda *_: self.mark(name)),
        ]
        if name not in ENCODERS:
            # Where no input has a gradient, the hook fires at the start: such a part lasts to the next one.
            self.handles.append(module.register_full_backward_hook(lambda *_: self.mark("rest")))

    def mark(self, part: str) -> None:
        """Say what begins."""
        now = time.perf_counter()
        if self.part:
            self.seconds[self.part] += now - self.since
        self.part, self.since = part, now

    def close(self) -> None:
        """Stop watching."""
        for handle in self.handles:
            handle.remove()


def breakdown(step: Step, repeats: int) -> dict[str, float]:
    """Median milliseconds of each part of a step."""
    parts = defaultdict(list)
    for _ in range(repeats):
        watch = Breakdown(step.model)
        step.mark = watch.mark
        watch.mark("rest")
        with warnings.catch_warnings():
            # Of parts whose input has no gradient; `Breakdown` knows.
            warnings.filterwarnings("ignore", "Full backward hook is firing")
            step()
        step.mark = lambda part: None
        watch.close()
        for name, seconds in watch.seconds.items():
            parts[name].append(1000 * seconds)
    return {name: statistics.median(values) for name, values in parts.items()}


@dataclass
class Section:
    """What is measured of one model."""

    title: str
    steps: dict[str, Step]
    times: dict[str, Quantiles]
    parts: dict[str, dict[str, float]]


def measure(name: str, args: argparse.Namespace) -> Section:
    """Everything but memory."""
    device = torch.device(args.device)
    batch = draw_batch(name, args.items, args.shortest, seed=0).to(device)
    ours, eager = (model.to(device) for model in draw_models(name, args.backend, seed=0))
    verdict = gate(name, ours, eager, batch)
    words = f"{WORDS} words" if args.shortest == WORDS else f"{args.shortest} to {WORDS} words"
    proposals = f"{batch.structure.num_nodes // args.items} proposals ({batch.structure.num_edges} edges)"
    steps = {"eager": Step(eager, batch), "ours": Step(ours, batch), "stage 2": Stage2Step(ours, batch)}
    turns = {key: {"step": step} for key, step in steps.items()}
    found = interleaved(turns, device, args.repeats, seconds=float("inf"), calls=1)
    return Section(
        title=f"## {name}: batch {args.items}, {proposals}, {words}\n\n{verdict}",
        steps=steps,
        times={key: of["step"] for key, of in found.items()},
        parts={key: breakdown(step, max(3, args.repeats // 2)) for key, step in steps.items()},
    )


def report(section: Section, device: torch.device) -> None:
    """Measure the memory and print all tables."""
    print(f"\n{section.title}\n\n| step | p20 ms | p50 ms | p80 ms | allocator MB | process MB |")
    print("| --- |" + " ---: |" * 5)
    peaks = {}
    for key, step in section.steps.items():
        peaks[key] = peak_memory(step, device)
        seen = "-" if peaks[key].process is None else f"{(peaks[key].process or 0) / 1e6:.0f}"
        time = section.times[key]
        cells = f"{time.p20:.0f} | {time.p50:.0f} | {time.p80:.0f} | {peaks[key].allocator / 1e6:.0f} | {seen}"
        print(f"| {key} | {cells} |")
    stage_2 = section.times["stage 2"].p50 / section.times["ours"].p50
    speedup = section.times["eager"].p50 / section.times["ours"].p50
    print(
        f"\n{speedup:.2f} times faster, {peaks['ours'].peak / peaks['eager'].peak:.2f} of the memory; a step of "
        f"stage 2 (all levels, J = 1) takes {stage_2:.2f} steps of MIL\n"
    )
    print("| part | " + " | ".join(f"{key} ms | share" for key in section.parts) + " |")
    print("| --- |" + " ---: | ---: |" * len(section.parts))
    for part in (*PARTS, "rest", "optimizer"):
        if any(part in found for found in section.parts.values()):
            pairs = [(found.get(part, 0), sum(found.values())) for found in section.parts.values()]
            print(
                f"| {part} | " + " | ".join(f"{time:.1f} | {100 * time / total:.0f} %" for time, total in pairs) + " |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["vgn", "ign"], nargs="+", default=["vgn", "ign"])
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--shortest", type=int, default=WORDS, help="words of the shortest sentence; 20: no padding")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend", default="auto", help="message-passing kernels of ours")
    args = parser.parse_args()
    device = torch.device(args.device)
    print("\n".join(f"- {name}: {value}" for name, value in machine.facts(device).items()))
    sections = [measure(name, args) for name in args.model]
    own_pages()
    for section in sections:
        report(section, device)


if __name__ == "__main__":
    main()
