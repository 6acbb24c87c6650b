"""Attention of proposals over the words of a sentence."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from relgrounding.nn._precision import Linear
from relgrounding.ops import additive_attention
from relgrounding.ops._checks import check_features


class ProposalToWordAttention(nn.Module):
    """Give each proposal its own summary of the sentence.

        gamma_tn = softmax over the words n of  w^T tanh(W_1 h_t + W_2 s_n + b),   c_t = sum_n gamma_tn s_n

    All matrices and w start Xavier-uniform, b at zero. The tensor of all pairs is never held as a whole, except for
    gradients of gradients (`create_graph=True`).

    Args:
        proposal_dim: width of h_t.
        word_dim: width of s_n.
        hidden_dim: width of the space in which the two are compared.
    """

    def __init__(self, proposal_dim: int, word_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.proposal = Linear(proposal_dim, hidden_dim)
        self.word = Linear(word_dim, hidden_dim, bias=False)
        self.score = Linear(hidden_dim, 1, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights."""
        for linear in (self.proposal, self.word, self.score):
            nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(self.proposal.bias)

    def forward(
        self,
        proposals: Float[Tensor, "nodes proposal_dim"],
        words: Float[Tensor, "items length word_dim"],
        word_lengths: Int[Tensor, " items"],
        item: Int[Tensor, " nodes"],
    ) -> tuple[Float[Tensor, "nodes word_dim"], Float[Tensor, "nodes length"]]:
        """Attend.

        Args:
            proposals: (N, P), of all items.
            words: (B, L, W), one sentence per item, padded at the end with finite numbers.
            word_lengths: (B,) real words of each sentence, 1 to L.
            item: (N,) sentence of each proposal, in any order.

        Returns:
            The contexts c (N, W) and the weights gamma (N, L), zero at the padding.

        Raises:
            TypeError: something else than tensors.
            ValueError: a length outside 1 to L, an item that does not exist, or widths or types other than those of the
                layer.
        """
        dtype = self.proposal.weight.dtype
        check_features(self, "proposals", proposals, "nodes", self.proposal.in_features, dtype)
        check_features(self, "words", words, "items, length", self.word.in_features, dtype)
        return self.attend(self.proposal(proposals), self.word(words), words, word_lengths, item)

    def attend(
        self,
        proposals: Float[Tensor, "nodes hidden_dim"],
        words: Float[Tensor, "items length hidden_dim"],
        values: Float[Tensor, "items length value_dim"],
        word_lengths: Int[Tensor, " items"],
        item: Int[Tensor, " nodes"],
    ) -> tuple[Float[Tensor, "nodes value_dim"], Float[Tensor, "nodes length"]]:
        """Attend where the maps into the space of the comparison were made before: see `ops.additive_attention`.

        As the weights of a proposal sum to 1, an affine map of its context is the context of the mapped words.

        Args:
            proposals: (N, A), W_1 h + b.
            words: (B, L, A), W_2 s.
            values: (B, L, V), of which the mean is taken: the words or a map of them.
            word_lengths: as for the call.
            item: as for the call.
        """
        return additive_attention(proposals, words, self.score.weight[0], values, word_lengths, item)
