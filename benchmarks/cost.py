"""What a training step costs: floating-point operations and bytes, by proposals, words and negatives, from the code.

The matrix products of a step are those that `torch.utils.flop_counter` counts on it, exactly (a test compares them).
Additive attention and message passing are loops of their own, which it does not see; they are counted here. What is
done once per number (activations, dropout, norms, Adam) is not.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from relgrounding.models import IGN, VGN
from relgrounding.nn import BiGRUEncoder

FLOAT = 4
"""Bytes of a float32."""


@dataclass(frozen=True)
class Sizes:
    """A batch.

    Attributes:
        items: B, pairs of an item and a sentence.
        proposals: T, of each item.
        words: L, of each sentence, with padding.
        negatives: K, other sentences that each item is paired with.
        clips: C, of each video.
        edges: E, of the graph of each item; 0 without relation module.
    """

    items: int
    proposals: int
    words: int
    negatives: int
    clips: int = 0
    edges: int = 0

    @property
    def pairings(self) -> int:
        """P = 1 + K; a batch of B has B - 1 other sentences."""
        return 1 + min(self.negatives, self.items - 1)


class Product(NamedTuple):
    """A linear map of a step: `rows` times inputs x outputs.

    Attributes:
        part: of the model.
        rows: vectors that are mapped.
        inputs: their width.
        outputs: width of the result.
        backward: products of the same size in the backward pass: 2, or 1 if the input has no gradient.
    """

    part: str
    rows: int
    inputs: int
    outputs: int
    backward: int = 2

    @property
    def flops(self) -> int:
        """Of forward and backward, 2 per multiplication with its addition."""
        return 2 * self.rows * self.inputs * self.outputs * (1 + self.backward)


def products(model: Any, sizes: Sizes) -> list[Product]:
    """Return the matrix products of a step of MIL; scores of IGN are products with a vector, which do not count.

    Args:
        model: a VGN or IGN with `relation` none or graph.
        sizes: of the batch.
    """
    return list(_of_ign(model, sizes) if isinstance(model, IGN) else _of_vgn(model, sizes))


def _of_ign(model: IGN, sizes: Sizes) -> Iterator[Product]:
    nodes, words = sizes.items * sizes.proposals, sizes.items * sizes.words
    h, s = model.attention.proposal, model.attention.word
    width = model.fusion.out_features
    yield from _gru("words", model.word_encoder, words, 2)
    yield Product("attention", nodes, h.in_features, h.out_features, 1)
    yield Product("attention", words, s.in_features, s.out_features)
    for _ in range(1 + len(model.product[:1])):
        yield Product("fusion", nodes, h.in_features, width, 1)
        yield Product("fusion", words, s.in_features, width)
    yield Product("fusion", 1, model.position.out_features, model.position.in_features)
    pairs = sizes.pairings * nodes
    if len(model.product):
        yield Product("pairs", pairs, width, width)
    layer: Any
    for layer in model.relation:
        inputs, outputs = layer.weight.shape[1], layer.weight.shape[0]
        yield Product("pairs", pairs, inputs, outputs if model.relation.has_graph else len(layer.bias))


def _of_vgn(model: VGN, sizes: Sizes) -> Iterator[Product]:
    nodes, words, clips = (sizes.items * n for n in (sizes.proposals, sizes.words, sizes.clips))
    h, s = model.attention.proposal, model.attention.word
    yield from _gru("words", model.word_encoder, words, 2)
    if isinstance(model.clip_encoder, nn.Linear):
        yield Product("clips", clips, model.clip_encoder.in_features, model.clip_encoder.out_features, 1)
    else:
        yield from _gru("clips", model.clip_encoder, clips, 1)
    if model.pooling.reduce == "mean":
        yield Product("clips", nodes, sizes.clips, h.in_features, 1)
    yield Product("attention", nodes, h.in_features, h.out_features)
    yield Product("attention", words, s.in_features, s.out_features)
    for gate, rows in ((model.fusion.proposal_gate, nodes), (model.fusion.context_gate, words)):
        yield Product("fusion", rows, gate.in_features, gate.out_features)
    pairs = sizes.pairings * nodes
    layer: Any
    for layer in model.relation:
        yield Product("pairs", pairs, layer.linear.in_features, layer.linear.out_features)
        if model.relation.has_graph:
            yield Product("pairs", pairs, layer.attention.numel(), 1, 0)
    yield Product("pairs", pairs, model.score.in_features, 1)


def _gru(part: str, encoder: BiGRUEncoder, rows: int, backward: int) -> Iterator[Product]:
    inputs, hidden = encoder.gru.input_size, encoder.gru.hidden_size
    for _ in range(2):
        yield Product(part, rows, inputs, 3 * hidden, backward)
        yield Product(part, rows, hidden, 3 * hidden)


def own_loops(model: Any, sizes: Sizes) -> dict[str, int]:
    """Return the operations of additive attention and message passing, forward and backward.

    Of each proposal, pairing and word: A sums, A tanh, a dot product of A, and V weighted sums; the backward pass does
    twice as much. A tanh counts as one operation, which on a CPU takes as long as some ten others. Of each edge,
    pairing and layer: a weighted sum of the layer's width.
    """
    triples = sizes.items * sizes.proposals * sizes.pairings * sizes.words
    compared = model.attention.proposal.out_features
    values = model.word_share(model.attention.word.weight.new_zeros(1, model.language_dim)).shape[-1]
    widths = sum(len(layer.bias) for layer in model.relation) if model.relation.has_graph else 0
    return {
        "words of pairs": 3 * triples * (4 * compared + 2 * values),
        "messages": 3 * 2 * sizes.items * sizes.edges * sizes.pairings * widths,
    }


def flops(model: Any, sizes: Sizes) -> dict[str, int]:
    """Return the operations of a step by part of the model."""
    found: dict[str, int] = {}
    for product in products(model, sizes):
        found[product.part] = found.get(product.part, 0) + product.flops
    return found | own_loops(model, sizes)


def gradient_bytes(model: nn.Module) -> int:
    """Return the bytes of all gradients, which a step sums over processes; the trained parameters have as many."""
    return FLOAT * sum(p.numel() for p in model.parameters() if p.requires_grad)


def gathered_bytes(model: Any, sizes: Sizes) -> int:
    """Return the bytes of all encodings of a batch, which `train.gather_negatives` shares among processes.

        4 B (T H + L S)

    H is the width of an encoded proposal, S that of an encoded word; their gradients have as many.
    """
    proposals, words = sizes.proposals * model.proposal_dim, sizes.words * model.language_dim
    return FLOAT * sizes.items * (proposals + words)


@dataclass(frozen=True)
class Machine:
    """Processors and networks, as assumed.

    Attributes:
        peak: operations of a processor per second.
        efficiency: share of them that the products of a step reach.
        calls: seconds that a call of an operator costs the host, whatever it computes.
        inside: bytes per second and processor between the processors of a node.
        between: the same between nodes.
        latency_inside: seconds of a step of a collective in a node.
        latency_between: the same between nodes.
        per_node: processors of a node.
    """

    peak: float = 67e12
    efficiency: float = 0.3
    calls: float = 10e-6
    inside: float = 450e9
    between: float = 50e9
    latency_inside: float = 5e-6
    latency_between: float = 10e-6
    per_node: int = 8

    def collective(self, size: float, processes: int) -> float:
        """Return the seconds of an all-reduce: a reduce-scatter, then an all-gather, first in nodes, then between.

            2 (g - 1) / g size / inside + 2 ceil(log2 g) latency, then the same of size / g between n / g nodes

        g is the number of processes in a node. An all-gather and the sum of its gradients take as long together.
        """
        inside = min(processes, self.per_node)
        nodes = math.ceil(processes / self.per_node)
        seconds = 2 * (inside - 1) / inside * size / self.inside
        seconds += 2 * math.ceil(math.log2(inside)) * self.latency_inside
        seconds += 2 * (nodes - 1) / nodes * size / inside / self.between
        return seconds + 2 * math.ceil(math.log2(nodes)) * self.latency_between


@dataclass(frozen=True)
class Workload:
    """What a step of a configuration costs.

    Attributes:
        name: of the configuration.
        sizes: of a batch.
        flops: of a step with that batch.
        gradients: bytes.
        gathered: bytes.
        calls: operators that a step calls, whatever the batch.
    """

    name: str
    sizes: Sizes
    flops: float
    gradients: float
    gathered: float
    calls: int

    def times(self, machine: Machine, processes: int, share: float = 1.0) -> dict[str, float]:
        """Return seconds of a step on some processes: computing, calling operators, and of both collectives.

        Args:
            machine: what it runs on.
            processes: among which a batch is shared out.
            share: size of the whole batch, as a multiple of that of the configuration.
        """
        return {
            "compute": self.flops * share / processes / (machine.peak * machine.efficiency),
            "calls": self.calls * machine.calls,
            "all-reduce": machine.collective(self.gradients, processes),
            "all-gather": machine.collective(self.gathered * share, processes),
        }

    def seconds(self, machine: Machine, processes: int, share: float = 1.0, gather: bool = False) -> float:
        """Return the seconds of a step; the host calls while the processor computes, and nothing else overlaps."""
        times = self.times(machine, processes, share)
        waiting = times["all-reduce"] + (times["all-gather"] if gather else 0.0)
        return max(times["compute"], times["calls"]) + waiting

    def speedup(self, machine: Machine, processes: int, share: float = 1.0, gather: bool = False) -> float:
        """Return queries per second as a multiple of those of one process with the batch of the configuration."""
        return share * self.seconds(machine, 1) / self.seconds(machine, processes, share, gather)


def crossing(workload: Workload, machine: Machine, what: str, weak: bool = False) -> int | None:
    """Return the least power of two of processes at which a collective takes longer than computing; None: none to 512.

    Args:
        workload: the step.
        machine: what it runs on.
        what: "all-reduce" or "all-gather".
        weak: each process has a batch of the configuration; else they share one.
    """
    for processes in (2**n for n in range(1, 10)):
        times = workload.times(machine, processes, float(processes) if weak else 1.0)
        if times[what] > times["compute"]:
            return processes
    return None
