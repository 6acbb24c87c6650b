"""VGN: video grounding network."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relgrounding.config import ModelConfig
from relgrounding.graphs import GraphStructure
from relgrounding.modalities._batches import VideoBatch
from relgrounding.models._grounding import Encoded, GroundingModel
from relgrounding.nn import (
    BiGRUEncoder,
    GatedFusion,
    GraphAttention,
    ProposalPooling,
    ProposalToWordAttention,
    TopRScore,
)


class VGN(GroundingModel):
    """Score the moments of videos for sentences.

    Clips pass a Bi-GRU; a proposal is the maximum of its clips, h_t. Words pass a Bi-GRU, s_n. Then, for each proposal,

        gamma_tn = softmax_n w^T tanh(W_1 h_t + W_2 s_n + b),   c_t = sum_n gamma_tn s_n
        l_t = [h_t * sigmoid(W_s c_t + b_s); c_t * sigmoid(W_v h_t + b_v)]
        p_t = ELU of graph attention over overlapping moments, two layers
        k_t = sigmoid(W_k p_t + b_k),   K = mean of the R highest k_t

    Args:
        config: sizes; `relation="none"` leaves of each attention layer what a moment alone gets, W x + b.
        feature_dim: width of a clip's feature.
        embedding: module from word ids to vectors.
        word_dim: width of those vectors.
        backend: message-passing kernels, see `relgrounding.ops.graph_attention`.
    """

    reason_reads = slice(0)

    def __init__(
        self, config: ModelConfig, feature_dim: int, embedding: nn.Module, word_dim: int, backend: str = "auto"
    ) -> None:
        super().__init__()
        width = 2 * config.hidden
        self.embedding = embedding
        self.clip_encoder = (
            BiGRUEncoder(feature_dim, config.hidden)
            if config.clip_encoder == "bigru"
            else nn.Linear(feature_dim, width)
        )
        self.word_encoder = BiGRUEncoder(word_dim, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.pooling = ProposalPooling(config.pooling, config.contrast, config.context)
        self.attention = ProposalToWordAttention(width, width, config.attention_dim)
        self.fusion = GatedFusion(width, width)
        widths = [2 * width] + [config.relation_dim] * config.relation_layers
        self.has_graph = config.relation == "graph"
        layers = (GraphAttention(m, n, config.heads, backend=backend) for m, n in pairwise(widths))
        self.relation: Any = nn.ModuleList(layers)
        self.score = nn.Linear(config.relation_dim, 1)
        self.aggregate = TopRScore(config.top_r)

    def encode(self, batch: VideoBatch) -> Encoded:
        """Encode each video's proposals and each sentence's words."""
        clips = self.dropout(batch.clips)
        if isinstance(self.clip_encoder, BiGRUEncoder):
            clips = self.clip_encoder(clips, batch.clip_lengths)
        else:
            clips = self.clip_encoder(clips)
        proposals = self.pooling(clips, batch.spans, batch.structure.node_item, batch.clip_lengths)
        words = self.word_encoder(self.dropout(self.embedding(batch.words)), batch.word_lengths)
        return Encoded(proposals, words)

    def proposal_share(self, proposals: Float[Tensor, "nodes proposal_dim"]) -> Float[Tensor, "nodes proposal_share"]:
        return self.fusion.proposal_share(proposals)

    def word_share(self, words: Float[Tensor, "*nodes word_dim"]) -> Float[Tensor, "*nodes word_share"]:
        return self.fusion.context_share(words)

    def combine(
        self, proposals: Float[Tensor, "nodes proposal_share"], words: Float[Tensor, "nodes word_share"]
    ) -> Float[Tensor, "nodes fused_dim"]:
        return self.dropout(self.fusion.combine(proposals, words))

    def reason(
        self,
        structure: GraphStructure,
        proposals: Float[Tensor, "nodes proposal_dim"],
        fused: Float[Tensor, "nodes fused_dim"],
        messages: Sequence[bool] | None = None,
    ) -> Float[Tensor, " nodes"]:
        p = fused
        for layer, heard in zip(self.relation, messages or [True] * len(self.relation), strict=True):
            p = layer(structure, p) if heard and self.has_graph else layer.silent(p)
            p = nn.functional.elu(p)
        return torch.sigmoid(self.score(p).squeeze(-1))
