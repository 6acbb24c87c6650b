"""Gated fusion of a proposal and its sentence context."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relgrounding.nn._precision import Linear
from relgrounding.ops._checks import check_features
from relgrounding.ops._fused import open_gates


class GatedFusion(nn.Module):
    """Let proposal and context open each other's gates, and concatenate them.

        g_v = sigmoid(W_v h + b_v),   g_s = sigmoid(W_s c + b_s),   l = [h * g_s; c * g_v]

    Matrices start Xavier-uniform, biases at zero (gates half open).

    Args:
        proposal_dim: width P of h.
        context_dim: width C of c.
    """

    def __init__(self, proposal_dim: int, context_dim: int) -> None:
        super().__init__()
        self.proposal_gate = Linear(proposal_dim, context_dim)
        self.context_gate = Linear(context_dim, proposal_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights."""
        for linear in (self.proposal_gate, self.context_gate):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, h: Float[Tensor, "nodes proposal_dim"], c: Float[Tensor, "nodes context_dim"]
    ) -> Float[Tensor, "nodes proposal_dim+context_dim"]:
        """Return l (N, P + C) of the proposals h (N, P) and their contexts c (N, C).

        Raises:
            TypeError: something else than tensors.
            ValueError: widths or types other than those of the layer.
        """
        return self.combine(self.proposal_share(h), self.context_share(c))

    def proposal_share(self, h: Float[Tensor, "*nodes proposal_dim"]) -> Float[Tensor, "*nodes share"]:
        """Return [h; g_v], what a proposal brings whatever it is paired with."""
        check_features(self, "h", h, "...", self.proposal_gate.in_features, self.proposal_gate.weight.dtype)
        gate = torch.sigmoid(self.proposal_gate(h))
        return torch.cat([h.to(gate.dtype), gate], dim=-1)

    def context_share(self, c: Float[Tensor, "*nodes context_dim"]) -> Float[Tensor, "*nodes share"]:
        """Return [c; W_s c + b_s]: of a weighted mean of words, the weighted mean of their shares."""
        check_features(self, "c", c, "...", self.context_gate.in_features, self.context_gate.weight.dtype)
        gate = self.context_gate(c)
        # Under autocast the shorter type: what follows is as large as all pairs, and the next map would round it.
        return torch.cat([c.to(gate.dtype), gate], dim=-1)

    def combine(
        self, proposals: Float[Tensor, "nodes proposal_share"], contexts: Float[Tensor, "nodes context_share"]
    ) -> Float[Tensor, "nodes fused_dim"]:
        """Return l of both shares."""
        return open_gates(proposals, contexts, self.proposal_gate.in_features)
