"""Which neighbours sent messages to a proposal, through which edges, and which words opened them."""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relgrounding.graphs import GraphStructure
from relgrounding.models._grounding import GroundingModel
from relgrounding.models._system import System

OPTIONS = ("return_attention", "return_gates")
"""Options of a layer's `forward` with which it also returns the weights of the edges."""


class Message(NamedTuple):
    """What a neighbour sends to a proposal in one layer.

    Attributes:
        layer: name of the layer in the model.
        source: number of the neighbour among the proposals of the item.
        edge_type: type of the edge; a message against its edge has " (reversed)" behind it.
        weight: of the message, from 0 to 1: attention (the mean of the heads), or how far its gate is open.
        changes: the weight minus what it is without a word, for each word of the sentence; empty: a lone word.
    """

    layer: str
    source: int
    edge_type: str
    weight: float
    changes: tuple[float, ...]


class _Layer(NamedTuple):
    """One call of a layer: its graph, and (edges, columns) weights in the forward order."""

    name: str
    graph: GraphStructure
    weights: Float[Tensor, "edges columns"]
    both_ways: bool


class Recorded:
    """Scores of an item's proposals, with the weights of all messages that led to them.

    Weights are those of all modules in the model whose `forward(graph, ...)` has the option `return_attention` or
    `return_gates`, with which they return their output and the weights, (edges,) or (edges, columns). The graph must
    not depend on the sentence.

    Args:
        model: in evaluation mode.
        batch: the same item several times: with a sentence, and with that sentence without its first word, without its
            second word, and so on; or with the sentence only.
    """

    @torch.no_grad()
    def __init__(self, model: System, batch: Any) -> None:
        self._copies, self._nodes = len(batch), batch.structure.num_nodes // len(batch)
        with _recording(model) as (layers, grounding):
            self.scores: Float[Tensor, " proposals"] = model(batch)[: self._nodes].cpu()
        self._layers = [_Layer(n, g.to("cpu"), weights.cpu(), both_ways) for n, g, weights, both_ways in layers]
        shares = [_word_attention(part, batch)[: self._nodes, : int(batch.word_lengths[0])].cpu() for part in grounding]
        self._attention = torch.stack(shares).mean(0) if shares else torch.zeros(self._nodes, 0)

    def attention(self, proposal: int) -> list[float]:
        """Return the share of each word in a proposal's attention over the sentence; empty if the model has none."""
        return self._attention[proposal].tolist()

    def messages(self, proposal: int) -> list[Message]:
        """Return the messages that a proposal got, from others and from itself, highest weight first."""
        messages = [message for layer in self._layers for message in self._messages(layer, proposal)]
        return sorted(messages, key=lambda message: -message.weight)

    def _messages(self, layer: _Layer, node: int) -> Iterator[Message]:
        graph = layer.graph
        weights = layer.weights.view(self._copies, graph.num_edges // self._copies, -1)
        along, against = weights.unbind(-1) if layer.both_ways else (weights.mean(-1), None)
        into = torch.arange(int(graph.indptr[node]), int(graph.indptr[node + 1]))
        yield from self._listed(layer, graph.indices[into], into, along, "")
        if against is not None:
            out = slice(int(graph.out_indptr[node]), int(graph.out_indptr[node + 1]))
            yield from self._listed(layer, graph.out_indices[out], graph.out_edges[out], against, " (reversed)")

    @staticmethod
    def _listed(layer: _Layer, neighbours: Tensor, edges: Tensor, weights: Tensor, mark: str) -> Iterator[Message]:
        changes = (weights[:1] - weights[1:])[:, edges].T.tolist()
        types = [layer.graph.edge_types[t] + mark for t in layer.graph.etype[edges].tolist()]
        columns = neighbours.tolist(), types, weights[0, edges].tolist(), map(tuple, changes)
        for row in zip(*columns, strict=True):
            yield Message(layer.name, *row)


@contextmanager
def _recording(model: nn.Module) -> Iterator[tuple[list[_Layer], list[GroundingModel]]]:
    """Within a ``with`` block, list the calls of layers with weights, and the grounding models that are called."""
    layers: list[_Layer] = []
    called: list[GroundingModel] = []
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, GroundingModel):
                hook = module.register_forward_hook(lambda module, given, output: called.append(module))
                stack.callback(hook.remove)
            option = next((o for o in OPTIONS if o in inspect.signature(module.forward).parameters), None)
            if option is not None:
                asking = module.register_forward_pre_hook(partial(_ask, option), with_kwargs=True)
                stack.callback(asking.remove)
                stack.callback(module.register_forward_hook(partial(_take, layers, name)).remove)
        yield layers, called


def _ask(option: str, layer: nn.Module, given: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    return given, options | {option: True}


def _take(layers: list[_Layer], name: str, layer: nn.Module, given: tuple, output: tuple[Tensor, Tensor]) -> Tensor:
    graph, (out, weights) = given[0], output
    layers.append(_Layer(name, graph, weights.reshape(graph.num_edges, -1), getattr(layer, "ways", 1) == 2))
    return out


def _word_attention(model: GroundingModel, batch: Any) -> Float[Tensor, "nodes length"]:
    prepared = model.prepare(model.encode(batch))
    compared = prepared.compared, prepared.words_compared
    return model.attention.attend(*compared, prepared.word_shares, batch.word_lengths, batch.structure.node_item)[1]
