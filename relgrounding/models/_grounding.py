"""What both grounding models share: how an item and a sentence meet."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

from relgrounding.graphs import GraphStructure
from relgrounding.nn import ProposalToWordAttention, TopRScore


class Encoded(NamedTuple):
    """What is computed once for each item and each sentence, whoever they are paired with."""

    proposals: Float[Tensor, "nodes proposal_dim"]
    words: Float[Tensor, "items length word_dim"]


class GroundingModel(nn.Module):
    """Scores of proposals for sentences, in steps that can be taken one by one.

        h, s = encode(batch),   c = interact(h, s),   l = fuse(h, c),   k = reason(graph, h, l),   K = align(graph, k)

    A model gives `encode`, `fuse` and `reason`, and has an `attention` and an `aggregate`.
    """

    attention: ProposalToWordAttention
    aggregate: TopRScore

    def encode(self, batch: Any) -> Encoded:
        """Encode each item's proposals and each sentence's words."""
        raise NotImplementedError

    def interact(
        self,
        proposals: Float[Tensor, "nodes proposal_dim"],
        words: Float[Tensor, "items length word_dim"],
        word_lengths: Int[Tensor, " items"],
        item: Int[Tensor, " nodes"],
    ) -> Float[Tensor, "nodes word_dim"]:
        """Return the language feature c of each proposal for the sentence of the item that it belongs to."""
        return self.attention(proposals, words, word_lengths, item)[0]

    def fuse(
        self, proposals: Float[Tensor, "nodes proposal_dim"], contexts: Float[Tensor, "nodes word_dim"]
    ) -> Float[Tensor, "nodes fused_dim"]:
        """Return l of each proposal from its own feature and its language feature."""
        raise NotImplementedError

    def reason(
        self,
        structure: GraphStructure,
        proposals: Float[Tensor, "nodes proposal_dim"],
        fused: Float[Tensor, "nodes fused_dim"],
        messages: Sequence[bool] | None = None,
    ) -> Float[Tensor, " nodes"]:
        """Return the scores k of every proposal from what it is and what its neighbours tell it.

        Args:
            structure: graph of the proposals of all items.
            proposals: as `encode` returns them.
            fused: as `fuse` returns them.
            messages: for each relation layer, whether its messages are passed; None: all are. See
                `TrainConfig.message_dropout`.
        """
        raise NotImplementedError

    def pair(
        self,
        structure: GraphStructure,
        proposals: Float[Tensor, "nodes proposal_dim"],
        words: Float[Tensor, "items length word_dim"],
        word_lengths: Int[Tensor, " items"],
        messages: Sequence[bool] | None = None,
    ) -> Float[Tensor, " nodes"]:
        """Return the scores k of every proposal for the sentence that its item is paired with.

        Args:
            structure: graph of the proposals of all items.
            proposals: as `encode` returns them.
            words: the sentence of each item, as `encode` returns them, in any order.
            word_lengths: (items,) of those sentences.
            messages: see `reason`.
        """
        contexts = self.interact(proposals, words, word_lengths, structure.node_item)
        return self.reason(structure, proposals, self.fuse(proposals, contexts), messages)

    def align(self, structure: GraphStructure, scores: Float[Tensor, " nodes"]) -> Float[Tensor, " items"]:
        """Return the alignment K of each pair, from 0 to 1."""
        return self.aggregate(scores, structure.batch_num_nodes)

    def forward(self, batch: Any) -> Float[Tensor, " nodes"]:
        """Return the scores of every proposal for its item's own sentence."""
        return self.pair(batch.structure, *self.encode(batch), batch.word_lengths)
