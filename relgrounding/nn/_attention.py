"""Attention of proposals over the words of a sentence."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from relgrounding.nn._checks import check_item, check_lengths

FEW = 64
"""Mean number of proposals an item from which on items are attended one by one."""


class ProposalToWordAttention(nn.Module):
    """Give each proposal its own summary of the sentence.

        gamma_tn = softmax over the words n of  w^T tanh(W_1 h_t + W_2 s_n + b),   c_t = sum_n gamma_tn s_n

    All matrices and w start Xavier-uniform, b at zero.

    Args:
        proposal_dim: width of h_t.
        word_dim: width of s_n.
        hidden_dim: width of the space in which the two are compared.
    """

    def __init__(self, proposal_dim: int, word_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.proposal = nn.Linear(proposal_dim, hidden_dim)
        self.word = nn.Linear(word_dim, hidden_dim, bias=False)
        self.score = nn.Linear(hidden_dim, 1, bias=False)
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
            words: (B, L, W), one sentence an item, padded at the end with finite numbers.
            word_lengths: (B,) real words of each sentence, 1 to L.
            item: (N,) sentence of each proposal, in any order.

        Returns:
            The contexts c (N, W) and the weights gamma (N, L), zero at the padding.

        Raises:
            ValueError: a length outside 1 to L, or an item that does not exist.
        """
        check_lengths(word_lengths, words.shape[1], "sentence")
        check_item(item, len(words))
        if len(proposals) < FEW * len(words):
            return self._together(proposals, words, word_lengths, item)
        if (item.diff() < 0).any():
            order = item.argsort(stable=True)
            context, weights = self._grouped(proposals.index_select(0, order), words, word_lengths, item[order])
            back = order.argsort()
            return context.index_select(0, back), weights.index_select(0, back)
        return self._grouped(proposals, words, word_lengths, item)

    def _together(self, proposals: Tensor, words: Tensor, word_lengths: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """Attend in one go, sentences padded: with few proposals an item, the loop over items would cost more."""
        # index_select, because its gradient is far cheaper on the CPU than that of words[item].
        pairs = torch.tanh(self.proposal(proposals).unsqueeze(1) + self.word(words).index_select(0, item))
        padding = torch.arange(words.shape[1], device=words.device) >= word_lengths.unsqueeze(1)
        logits = self.score(pairs).squeeze(-1).masked_fill(padding[item], -torch.inf)
        weights = torch.softmax(logits, dim=-1)
        return torch.bmm(weights.unsqueeze(1), words.index_select(0, item)).squeeze(1), weights

    def _grouped(self, proposals: Tensor, words: Tensor, word_lengths: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """Attend, the proposals of one item standing together.

        The tensor of all pairs is the largest of a whole model. Item by item it stays in the cache and has no padding,
        which is worth a factor of several on the CPU.
        """
        counts = torch.bincount(item, minlength=len(words)).tolist()
        items = zip(
            self.proposal(proposals).split(counts),
            self.word(words).unbind(),
            words.unbind(),
            word_lengths.tolist(),
            strict=True,
        )
        contexts, weights = [], []
        for h_TA, s_LA, s_LW, length in items:
            pairs_TLA = torch.tanh(h_TA.unsqueeze(1) + s_LA[:length])
            gamma_TL = torch.softmax(self.score(pairs_TLA).squeeze(-1), dim=-1)
            contexts.append(gamma_TL @ s_LW[:length])
            weights.append(nn.functional.pad(gamma_TL, (0, words.shape[1] - length)))
        if not contexts:
            return proposals.new_zeros(0, words.shape[2]), proposals.new_zeros(0, words.shape[1])
        return torch.cat(contexts), torch.cat(weights)
