"""Steps shared by VGN and IGN: pairing of items with sentences."""

from typing import Any, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

from relgrounding.graphs import GraphStructure
from relgrounding.models._relation import Relation
from relgrounding.models._system import System
from relgrounding.nn import ProposalToWordAttention, TopRScore


class Encoded(NamedTuple):
    """Encodings of items and sentences, computed once for all pairings."""

    proposals: Float[Tensor, "nodes proposal_dim"]
    words: Float[Tensor, "items length word_dim"]


class Prepared(NamedTuple):
    """Linear maps of single proposals and single words, computed before proposals and sentences are paired."""

    proposals: Float[Tensor, "nodes columns"]
    """Columns that `reason` reads."""
    compared: Float[Tensor, "nodes hidden_dim"]
    proposal_shares: Float[Tensor, "nodes proposal_share"]
    words_compared: Float[Tensor, "items length hidden_dim"]
    word_shares: Float[Tensor, "items length word_share"]

    def take(self, nodes: Int[Tensor, " taken"]) -> "Prepared":
        """Return these proposals, with all words."""
        # Not `x[nodes]`: the order in which its gradient is summed depends on the threads.
        proposals, compared, shares = (x.index_select(0, nodes) for x in self[:3])
        return Prepared(proposals, compared, shares, self.words_compared, self.word_shares)


def first_columns(x: Float[Tensor, "*rows columns"], count: int) -> Float[Tensor, "*rows count"]:
    """Return the first columns; all of them at no cost."""
    return x if x.shape[-1] == count else x[..., :count]


class GroundingModel(System):
    """Scores proposals for sentences in steps that can be called one by one.

        h, s = encode(batch),   c = interact(h, s),   l = fuse(h, c),   k = reason(graph, h, l),   K = align(graph, k)
        p = represent(graph, h, l), from which k is computed

    where l = combine(proposal_share(h), word_share(c)). word_share is affine, so word_share(c) is the weighted mean of
    word_share(s). A subclass defines `encode`, `proposal_share`, `word_share`, `combine` and `reason`, and the modules
    `attention`, `relation` and `aggregate`. Attention compares the first columns of h and s, as many as it takes; a
    subclass that appends others counts them in `proposal_dim` and `language_dim`.
    """

    pieces = ("encode", "interact", "fuse", "represent", "reason", "prepare", "score_pairs")
    embedding: nn.Module
    attention: ProposalToWordAttention
    aggregate: TopRScore
    relation: Relation
    reason_reads: slice
    """Columns of the proposal feature that `reason` reads."""

    @property
    def proposal_dim(self) -> int:
        """Width of `Encoded.proposals`."""
        return self.attention.proposal.in_features

    @property
    def language_dim(self) -> int:
        """Width of `Encoded.words`, and so of a language feature c."""
        return self.attention.word.in_features

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
        """Return the language feature c of each proposal for the sentence of its item."""
        return self.attention.attend(*self._compared(proposals, words), words, word_lengths, item)[0]

    def proposal_share(self, proposals: Float[Tensor, "nodes proposal_dim"]) -> Float[Tensor, "nodes proposal_share"]:
        """Return the part of l that depends only on a proposal."""
        raise NotImplementedError

    def word_share(self, words: Float[Tensor, "*nodes word_dim"]) -> Float[Tensor, "*nodes word_share"]:
        """Return the part of l that depends only on a word or on a mean of words; affine."""
        raise NotImplementedError

    def combine(
        self, proposals: Float[Tensor, "nodes proposal_share"], words: Float[Tensor, "nodes word_share"]
    ) -> Float[Tensor, "nodes fused_dim"]:
        """Return l from both shares."""
        raise NotImplementedError

    def fuse(
        self, proposals: Float[Tensor, "nodes proposal_dim"], contexts: Float[Tensor, "nodes word_dim"]
    ) -> Float[Tensor, "nodes fused_dim"]:
        """Return l of each proposal from its own feature and its language feature."""
        return self.combine(self.proposal_share(proposals), self.word_share(contexts))

    def represent(
        self,
        structure: GraphStructure,
        proposals: Float[Tensor, "nodes proposal_dim"],
        fused: Float[Tensor, "nodes fused_dim"],
    ) -> Float[Tensor, "nodes represented_dim"]:
        """Return the feature p of every proposal after message passing, from which its score is computed.

        Args:
            structure: see `reason`.
            proposals: see `reason`.
            fused: see `reason`.
        """
        raise NotImplementedError

    @property
    def represented_dim(self) -> int:
        """Width of what `represent` returns."""
        raise NotImplementedError

    def reason(
        self,
        structure: GraphStructure,
        proposals: Float[Tensor, "nodes proposal_dim"],
        fused: Float[Tensor, "nodes fused_dim"],
    ) -> Float[Tensor, " nodes"]:
        """Return the score k of every proposal after message passing.

        Args:
            structure: proposal graphs of all items.
            proposals: as `encode` returns them, or only their columns `reason_reads`.
            fused: as `fuse` returns them.
        """
        raise NotImplementedError

    def pair(
        self,
        structure: GraphStructure,
        proposals: Float[Tensor, "nodes proposal_dim"],
        words: Float[Tensor, "items length word_dim"],
        word_lengths: Int[Tensor, " items"],
    ) -> Float[Tensor, " nodes"]:
        """Return the score k of every proposal for the sentence that its item is paired with.

        Args:
            structure: proposal graphs of all items.
            proposals: as `encode` returns them.
            words: those of the sentence of each item, as `encode` returns them, in any order.
            word_lengths: (items,) numbers of words.
        """
        prepared = self.prepare(Encoded(proposals, words))
        return self.score_pairs(structure, prepared, word_lengths, structure.node_item)

    def prepare(self, encoded: Encoded) -> Prepared:
        """Map every proposal and every word, before they are paired."""
        proposals, words = encoded
        compared = self._compared(proposals, words)
        shares = self.proposal_share(proposals), self.word_share(words)
        return Prepared(proposals[:, self.reason_reads], compared[0], shares[0], compared[1], shares[1])

    def _compared(self, proposals: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.attention.proposal, self.attention.word
        h, s = (first_columns(x, linear.in_features) for x, linear in zip((proposals, words), maps, strict=True))
        return maps[0](h), maps[1](s)

    def score_pairs(
        self,
        structure: GraphStructure,
        prepared: Prepared,
        word_lengths: Int[Tensor, " sentences"],
        sentence: Int[Tensor, " nodes"],
    ) -> Float[Tensor, " nodes"]:
        """Return the score k of every proposal for the sentence that it is paired with.

        Args:
            structure: graph of the proposals.
            prepared: the same proposals, and the words of all sentences.
            word_lengths: (sentences,) numbers of words.
            sentence: (N,) index of the sentence of each proposal; ascending is fastest.
        """
        compared = prepared.compared, prepared.words_compared
        shares, _ = self.attention.attend(*compared, prepared.word_shares, word_lengths, sentence)
        return self.reason(structure, prepared.proposals, self.combine(prepared.proposal_shares, shares))

    def align(self, structure: GraphStructure, scores: Float[Tensor, " nodes"]) -> Float[Tensor, " items"]:
        """Return the alignment K of each pair, from 0 to 1."""
        return self.aggregate(scores, structure.batch_num_nodes)

    def forward(self, batch: Any) -> Float[Tensor, " nodes"]:
        """Return the score of every proposal for the sentence of its item."""
        return self.pair(batch.structure, *self.encode(batch), batch.word_lengths)
