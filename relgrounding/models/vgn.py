"""VGN: video grounding network."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relgrounding._settings import ConfigError, number
from relgrounding.graphs import GraphStructure, TemporalRelation
from relgrounding.modalities import VideoBatch
from relgrounding.models._grounding import Encoded, GroundingModel
from relgrounding.models._relation import Comparison, Relation, last_states, own_relation, self_terms
from relgrounding.models._system import WIDEST, ModelConfig, first_weight, register_model
from relgrounding.nn import (
    BiGRUEncoder,
    GatedFusion,
    GraphAttention,
    ProposalPooling,
    ProposalToWordAttention,
    RelationalComparison,
    TopRScore,
)
from relgrounding.nn._precision import Linear, precise_linear, widened


@dataclass
class VGNConfig(ModelConfig):
    """Settings of VGN."""

    clip_encoder: Literal["bigru", "linear"] = "bigru"
    """Encoder of the clips: a Bi-GRU over the video, or a linear map of each clip."""
    pooling: Literal["max", "mean"] = "max"
    """Pooling of the clips of a window to the feature of its proposal."""
    contrast: float = number(0.0, least=0, most=1)
    """With pooling=mean: subtract this times the mean of the clips around a window from the mean of those inside."""
    context: float = number(0.5, above=0, most=1000)
    """For contrast: how far the surroundings extend on each side, as a share of the width of the window."""
    heads: int = number(4, least=1, most=WIDEST)
    """Number of attention heads of a relation layer."""
    iou_threshold: float = number(0.3, least=0, most=1)
    """Moments with a higher temporal IoU are connected; relation=compare does not read it."""
    relation_edges: Literal["none", "nearest", "all"] = "all"
    """Edges that relation=compare reads, with Allen's relations as types. all: between all moments of a video;
    nearest: from the `relation_neighbours` whose centres are nearest; none: everything else unchanged."""
    relation_neighbours: int = number(16, least=1, most=100_000)
    """For relation_edges=nearest: number of neighbours of each moment."""
    gate_init: float = number(-2.0)
    """Initial logit of the edge gates of relation=compare; use lower values if moments have many neighbours."""


@register_model("vgn")
class VGN(GroundingModel):
    """Score the moments of videos for sentences.

    A Bi-GRU encodes the clips; a proposal is the maximum of its clips, h_t. Another Bi-GRU encodes the words, s_n.
    Then, for each proposal,

        gamma_tn = softmax_n w^T tanh(W_1 h_t + W_2 s_n + b),   c_t = sum_n gamma_tn s_n
        l_t = [h_t * sigmoid(W_s c_t + b_s); c_t * sigmoid(W_v h_t + b_v)]
        p_t = ELU of graph attention over overlapping moments, two layers
        k_t = sigmoid(W_k p_t + b_k),   K = mean of the R highest k_t

    With `relation="compare"` p_t is ELU(W l + b) instead, two layers, and k_t = sigmoid(W_k p_t + b_k + r_t) with r the
    log-odds of `nn.RelationalComparison` from l_t, c_t and the last states q of the words' Bi-GRU. Its edges have the
    thirteen types of `graphs.temporal_relation_graph`. The words of `Encoded` are then [s_n; q], so that the language
    feature of a proposal is [c_t; q].

    Args:
        config: sizes; `relation="none"` reduces each attention layer to W x + b.
        feature_dim: width of a clip feature.
        embedding: maps word ids to vectors.
        word_dim: width of the word vectors.
        backend: message-passing backend, see `relgrounding.ops.graph_attention`.
    """

    Config = VGNConfig
    modality = "video"
    relations = ("graph", "compare", "none")
    reason_reads = slice(0)

    def __init__(
        self, config: VGNConfig, feature_dim: int, embedding: nn.Module, word_dim: int, backend: str = "auto"
    ) -> None:
        super().__init__()
        width = 2 * config.hidden
        self.embedding = embedding
        self.clip_encoder = (
            BiGRUEncoder(feature_dim, config.hidden) if config.clip_encoder == "bigru" else Linear(feature_dim, width)
        )
        self.word_encoder = BiGRUEncoder(word_dim, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.pooling = ProposalPooling(config.pooling, config.contrast, config.context)
        self.attention = ProposalToWordAttention(width, width, config.attention_dim)
        self.fusion = GatedFusion(width, width)
        self.relation = self._make_relation(config, width, backend)
        self.score = Linear(config.relation_dim, 1)
        self.aggregate = TopRScore(config.top_r)

    def _make_relation(self, config: VGNConfig, width: int, backend: str) -> Relation:
        widths = [2 * width] + [config.relation_dim] * config.relation_layers
        if config.relation == "compare":
            self.unary = self_terms(widths, nn.ELU)
            dims = 2 * width, width, width, len(TemporalRelation), config.relation_dim
            compare = RelationalComparison(*dims, backend=backend, gate_init=config.gate_init)
            return Comparison(compare, silent=config.relation_edges == "none")
        if config.relation in ("graph", "none"):
            layers = [GraphAttention(m, n, config.heads, backend=backend) for m, n in pairwise(widths)]
            return Relation(layers, nn.functional.elu, silent=config.relation == "none")
        return own_relation(config.relation, 2 * width, config.relation_dim, self.edge_types, backend)

    @classmethod
    def check(cls, config: VGNConfig) -> None:
        if config.contrast and config.pooling != "mean":
            raise ConfigError(f"model.contrast is {config.contrast} with model.pooling={config.pooling}; it needs mean")
        if config.relation_dim % config.heads:
            raise ConfigError(
                f"model.relation_dim ({config.relation_dim}) must be a multiple of model.heads ({config.heads})"
            )

    @classmethod
    def graph_options(cls, config: VGNConfig) -> dict[str, Any]:
        if config.relation != "compare":
            return {"iou_threshold": config.iou_threshold}
        if config.relation_edges == "none":
            return {"iou_threshold": None}
        return {"related": True, "nearest": config.relation_neighbours if config.relation_edges == "nearest" else None}

    @classmethod
    def reads_graph(cls, config: VGNConfig) -> bool:
        return config.relation != "none" and (config.relation != "compare" or config.relation_edges != "none")

    @classmethod
    def feature_dim(cls, config: VGNConfig, weights: Mapping[str, Tensor]) -> int:
        linear = config.clip_encoder == "linear"
        return first_weight(weights, f"clip_encoder.{'weight' if linear else 'gru.weight_ih_l0'}").shape[1]

    def encode(self, batch: VideoBatch) -> Encoded:
        """Encode each video's proposals and each sentence's words."""
        clips = self.dropout(batch.clips)
        if isinstance(self.clip_encoder, BiGRUEncoder):
            clips = self.clip_encoder(clips, batch.clip_lengths)
        else:
            clips = self.clip_encoder(clips)
        proposals = self.pooling(clips, batch.spans, batch.structure.node_item, batch.clip_lengths)
        words = self.word_encoder(self.dropout(self.embedding(batch.words)), batch.word_lengths)
        if isinstance(self.relation, Comparison):
            words = torch.cat([words, last_states(words, batch.word_lengths)], -1)
        return Encoded(proposals, words)

    @property
    def language_dim(self) -> int:
        return super().language_dim * (2 if isinstance(self.relation, Comparison) else 1)

    def proposal_share(self, proposals: Float[Tensor, "nodes proposal_dim"]) -> Float[Tensor, "nodes proposal_share"]:
        return self.fusion.proposal_share(proposals)

    def word_share(self, words: Float[Tensor, "*nodes word_dim"]) -> Float[Tensor, "*nodes word_share"]:
        if not isinstance(self.relation, Comparison):
            return self.fusion.context_share(words)
        s, sentence = words.chunk(2, -1)
        return torch.cat([self.fusion.context_share(s), self.relation.share(s, sentence)], -1)

    def combine(
        self, proposals: Float[Tensor, "nodes proposal_share"], words: Float[Tensor, "nodes word_share"]
    ) -> Float[Tensor, "nodes fused_dim"]:
        if not isinstance(self.relation, Comparison):
            return self.dropout(self.fusion.combine(proposals, words))
        # The fusion reads as many columns of the words as of the proposals; those of the comparison follow.
        own, compared = words.tensor_split([proposals.shape[-1]], -1)
        return torch.cat([self.dropout(self.fusion.combine(proposals, own)), compared], -1)

    def represent(
        self,
        structure: GraphStructure,
        proposals: Float[Tensor, "nodes proposal_dim"],
        fused: Float[Tensor, "nodes fused_dim"],
    ) -> Float[Tensor, "nodes represented_dim"]:
        if isinstance(self.relation, Comparison):
            return self.unary(fused[:, : self._fused_dim])
        return self.relation(structure, fused)

    @property
    def _fused_dim(self) -> int:
        """Width of l; what follows are the shares of the comparison."""
        return self.fusion.proposal_gate.in_features + self.fusion.context_gate.in_features

    @property
    def represented_dim(self) -> int:
        return self.score.in_features

    def reason(
        self,
        structure: GraphStructure,
        proposals: Float[Tensor, "nodes proposal_dim"],
        fused: Float[Tensor, "nodes fused_dim"],
    ) -> Float[Tensor, " nodes"]:
        logit = precise_linear(self.score, self.represent(structure, proposals, fused)).squeeze(-1)
        if isinstance(self.relation, Comparison):
            own, share = fused.tensor_split([self._fused_dim], -1)
            logit = logit + self.relation(structure, widened(own), share)
        return torch.sigmoid(logit)
