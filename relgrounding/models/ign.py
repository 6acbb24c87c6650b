"""IGN: image grounding network."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relgrounding._settings import number
from relgrounding.graphs import GraphStructure, SpatialRelation
from relgrounding.modalities import ImageBatch
from relgrounding.models._grounding import Encoded, GroundingModel
from relgrounding.models._relation import Relation, own_relation
from relgrounding.models._system import WIDEST, ModelConfig, first_weight, register_model
from relgrounding.nn import BiGRUEncoder, EdgeGatedGCN, ProposalToWordAttention, TopRScore


@dataclass
class IGNConfig(ModelConfig):
    """Settings of IGN."""

    fusion_dim: int = number(256, least=1, most=WIDEST)
    """Width of W_l."""
    fusion: Literal["linear", "product"] = "linear"
    """Input of W_l: region and words, or also their product."""
    position_dim: int = number(128, least=1, most=WIDEST)
    """Width of W_p."""
    gate_init: float = number(-2.0)
    """Initial logit of the edge gates; use lower values if regions have many neighbours."""


@register_model("ign")
class IGN(GroundingModel):
    """Score the regions of images for sentences.

    A region is described by its feature and its position, h_t = [h^v_t; h^s_t] with h^s_t = [x, y, w, h] as shares of
    the image. A Bi-GRU encodes the words, s_n. Then, for each region,

        gamma_tn = softmax_n w^T tanh(W_1 h_t + W_2 s_n + b),   c_t = sum_n gamma_tn s_n
        l_t = W_l [h_t; c_t] + b_l, or with `fusion="product"`  W_l [h_t; c_t; (W_h h_t + b_h) * (W_c c_t + b_c)] + b_l
        x_t = two layers of the edge-gated graph convolution over the spatial graph
        p_t = [x_t; W_p h^s_t],   k_t = sigmoid(W_k p_t + b_k),   K = mean of the R highest k_t

    The product is the low-rank bilinear pooling of Kim et al., Hadamard Product for Low-rank Bilinear Pooling, ICLR
    2017. It is large where region and words agree; a sum shows that only after a ReLU.

    Args:
        config: sizes; `relation="none"` reduces each graph convolution to its self term, ReLU(W l + b).
        feature_dim: width of a region feature.
        embedding: maps word ids to vectors.
        word_dim: width of the word vectors.
        backend: message-passing backend, see `relgrounding.ops.gated_sum`.
    """

    Config = IGNConfig
    modality = "image"
    edge_types = len(SpatialRelation)
    reason_reads = slice(-4, None)

    def __init__(
        self, config: IGNConfig, feature_dim: int, embedding: nn.Module, word_dim: int, backend: str = "auto"
    ) -> None:
        super().__init__()
        region_dim, sentence_dim = feature_dim + 4, 2 * config.hidden
        self.embedding = embedding
        self.word_encoder = BiGRUEncoder(word_dim, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.attention = ProposalToWordAttention(region_dim, sentence_dim, config.attention_dim)
        fused_dim = region_dim + sentence_dim
        self.product = nn.ModuleList()
        if config.fusion == "product":
            self.product.extend(nn.Linear(width, config.fusion_dim) for width in (region_dim, sentence_dim))
            fused_dim += config.fusion_dim
        self.fusion = nn.Linear(fused_dim, config.fusion_dim)
        nn.init.xavier_uniform_(self.fusion.weight)
        nn.init.zeros_(self.fusion.bias)
        if config.relation in ("graph", "none"):
            widths = [config.fusion_dim] + [config.relation_dim] * config.relation_layers
            layers = [EdgeGatedGCN(m, n, self.edge_types, backend, config.gate_init) for m, n in pairwise(widths)]
            self.relation = Relation(layers, silent=config.relation == "none")
        else:
            dims = config.fusion_dim, config.relation_dim
            self.relation = own_relation(config.relation, *dims, self.edge_types, backend)
        self.position = nn.Linear(4, config.position_dim)
        self.score = nn.Linear(config.relation_dim + config.position_dim, 1)
        self.aggregate = TopRScore(config.top_r)

    @classmethod
    def feature_dim(cls, config: IGNConfig, weights: Mapping[str, Tensor]) -> int:
        return first_weight(weights, "attention.proposal.weight").shape[1] - 4

    def encode(self, batch: ImageBatch) -> Encoded:
        """Return each image's regions and encode each sentence's words."""
        regions = torch.cat([self.dropout(batch.regions), batch.places], -1)
        words = self.word_encoder(self.dropout(self.embedding(batch.words)), batch.word_lengths)
        return Encoded(regions, words)

    def proposal_share(self, proposals: Float[Tensor, "nodes proposal_dim"]) -> Float[Tensor, "nodes proposal_share"]:
        # The columns of W_l that multiply h, and W_h of the product.
        return self._share(proposals, self._columns[0], None, self.product[:1])

    def word_share(self, words: Float[Tensor, "*nodes word_dim"]) -> Float[Tensor, "*nodes word_share"]:
        return self._share(words, self._columns[1], self.fusion.bias, self.product[1:])

    def combine(
        self, proposals: Float[Tensor, "nodes proposal_share"], words: Float[Tensor, "nodes word_share"]
    ) -> Float[Tensor, "nodes fused_dim"]:
        if not len(self.product):
            return proposals + words
        (region, region_factor), (sentence, sentence_factor) = proposals.chunk(2, -1), words.chunk(2, -1)
        product = nn.functional.linear(region_factor * sentence_factor, self._columns[2])
        return product + region + sentence

    @property
    def _columns(self) -> tuple[Tensor, ...]:
        """The columns of W_l that multiply h, c and their product."""
        region_dim, sentence_dim = self.attention.proposal.in_features, self.attention.word.in_features
        rest = self.fusion.in_features - region_dim - sentence_dim
        return self.fusion.weight.split([region_dim, sentence_dim, rest], 1)

    @staticmethod
    def _share(x: Tensor, weight: Tensor, bias: Tensor | None, factor: Iterable[nn.Module]) -> Tensor:
        return torch.cat([nn.functional.linear(x, weight, bias), *(linear(x) for linear in factor)], -1)

    def represent(
        self,
        structure: GraphStructure,
        proposals: Float[Tensor, "nodes proposal_dim"],
        fused: Float[Tensor, "nodes fused_dim"],
    ) -> Float[Tensor, "nodes represented_dim"]:
        x = self.dropout(self.relation(structure, fused))
        return torch.cat([x, self.position(proposals[:, -4:])], -1)

    @property
    def represented_dim(self) -> int:
        return self.score.in_features

    def reason(
        self,
        structure: GraphStructure,
        proposals: Float[Tensor, "nodes proposal_dim"],
        fused: Float[Tensor, "nodes fused_dim"],
    ) -> Float[Tensor, " nodes"]:
        return torch.sigmoid(self.score(self.represent(structure, proposals, fused)).squeeze(-1))
