"""IGN: image grounding network."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relgrounding._settings import ConfigError, entries, number
from relgrounding.graphs import GraphStructure, SpatialRelation
from relgrounding.modalities import ImageBatch
from relgrounding.models._coordinates import Standardise
from relgrounding.models._grounding import Encoded, GroundingModel, first_columns
from relgrounding.models._relation import Comparison, Relation, last_states, own_relation, self_terms
from relgrounding.models._system import WIDEST, ModelConfig, first_weight, register_model
from relgrounding.nn import (
    BiGRUEncoder,
    EdgeGatedGCN,
    EdgeSimilarity,
    ProposalToWordAttention,
    RelationalComparison,
    TopRScore,
)
from relgrounding.nn._precision import Linear, widened, without_autocast
from relgrounding.ops._fused import linear

KEY_DIM = 32
"""Width of the keys whose cosine is the similarity of two regions."""


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
    relation_edges: Literal["none", "same_category", "soft", "all"] = "all"
    """Edges that relation=compare reads. same_category: between regions of one category (`data.category_columns`);
    soft: all, of which those between regions with similar features open first; none: everything else unchanged."""
    standardise: bool = False
    """Coordinates with mean 0 and deviation 1 over the regions of the training images: x, y, width and height, and
    what `data.geometry_columns` adds."""
    hide: list[str] = entries()
    """Inputs that the model does not see; geometry: all coordinates are zero."""

    def __post_init__(self) -> None:
        """Reject inputs that do not exist."""
        if unknown := set(self.hide) - {"geometry"}:
            raise ConfigError(f"model.hide: {sorted(unknown)[0][:40]!r} is not an input; it can hide geometry")


@register_model("ign")
class IGN(GroundingModel):
    """Score the regions of images for sentences.

    A region is described by its feature and its position, h_t = [h^v_t; h^s_t] with h^s_t = [x, y, w, h] as shares of
    the image, and with `standardise` standardised. A Bi-GRU encodes the words, s_n. Then, for each region,

        gamma_tn = softmax_n w^T tanh(W_1 h_t + W_2 s_n + b),   c_t = sum_n gamma_tn s_n
        l_t = W_l [h_t; c_t] + b_l, or with `fusion="product"`  W_l [h_t; c_t; (W_h h_t + b_h) * (W_c c_t + b_c)] + b_l
        x_t = two layers of the edge-gated graph convolution over the spatial graph
        p_t = [x_t; W_p h^s_t],   k_t = sigmoid(W_k p_t + b_k),   K = mean of the R highest k_t

    With `relation="compare"` x_t is two layers ReLU(W l + b) instead, and k_t = sigmoid(W_k p_t + b_k + r_t) with r the
    log-odds of `nn.RelationalComparison` over the spatial graph, from l_t, c_t and the last states q of the Bi-GRU. The
    words of `Encoded` are then [s_n; q], so that the language feature of a proposal is [c_t; q]; and with
    `relation_edges="soft"` its proposals are [h_t; key_t], with the keys of `nn.EdgeSimilarity`.

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
    relations = ("graph", "compare", "none")
    reason_reads = slice(-4, None)

    def __init__(
        self, config: IGNConfig, feature_dim: int, embedding: nn.Module, word_dim: int, backend: str = "auto"
    ) -> None:
        super().__init__()
        region_dim, sentence_dim = feature_dim + 4, 2 * config.hidden
        self.embedding = embedding
        self.standardise = Standardise(region_dim) if config.standardise else None
        self.hides_geometry = "geometry" in config.hide
        self.word_encoder = BiGRUEncoder(word_dim, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.attention = ProposalToWordAttention(region_dim, sentence_dim, config.attention_dim)
        fused_dim = region_dim + sentence_dim
        self.product = nn.ModuleList()
        if config.fusion == "product":
            self.product.extend(Linear(width, config.fusion_dim) for width in (region_dim, sentence_dim))
            fused_dim += config.fusion_dim
        self.fusion = Linear(fused_dim, config.fusion_dim)
        nn.init.xavier_uniform_(self.fusion.weight)
        nn.init.zeros_(self.fusion.bias)
        self.similar: EdgeSimilarity | None = None
        if config.relation == "compare" and config.relation_edges == "soft":
            self.similar = EdgeSimilarity(feature_dim, KEY_DIM, backend=backend)
            self.reason_reads = slice(-4 - KEY_DIM, None)
        self.relation = self._make_relation(config, sentence_dim, backend)
        self.position = Linear(4, config.position_dim)
        self.score = Linear(config.relation_dim + config.position_dim, 1)
        self.aggregate = TopRScore(config.top_r)

    def _make_relation(self, config: IGNConfig, sentence_dim: int, backend: str) -> Relation:
        widths = [config.fusion_dim] + [config.relation_dim] * config.relation_layers
        if config.relation == "compare":
            self.unary = self_terms(widths, nn.ReLU)
            dims = config.fusion_dim, sentence_dim, sentence_dim, self.edge_types
            compare = RelationalComparison(*dims, backend=backend, gate_init=config.gate_init)
            return Comparison(compare, silent=config.relation_edges == "none")
        if config.relation in ("graph", "none"):
            layers = [EdgeGatedGCN(m, n, self.edge_types, backend, config.gate_init) for m, n in pairwise(widths)]
            return Relation(layers, silent=config.relation == "none")
        return own_relation(config.relation, config.fusion_dim, config.relation_dim, self.edge_types, backend)

    @classmethod
    def graph_options(cls, config: Any) -> dict[str, Any]:
        if not cls.reads_graph(config):
            return {"edges": "none"}
        within = config.relation == "compare" and config.relation_edges == "same_category"
        return {"edges": "same_category" if within else "all"}

    @classmethod
    def reads_graph(cls, config: Any) -> bool:
        return config.relation != "none" and (config.relation != "compare" or config.relation_edges != "none")

    @classmethod
    def feature_dim(cls, config: IGNConfig, weights: Mapping[str, Tensor]) -> int:
        return first_weight(weights, "attention.proposal.weight").shape[1] - 4

    def fit(self, batches: Iterable[ImageBatch]) -> None:
        if self.standardise is not None:
            self.standardise.fit(batch.places for batch in batches)

    def encode(self, batch: ImageBatch) -> Encoded:
        """Return each image's regions and encode each sentence's words."""
        places = batch.places if self.standardise is None else self.standardise(batch.places)
        if self.hides_geometry:
            places = torch.zeros_like(places)
        regions = [self.dropout(batch.regions), places]
        if self.similar is not None:
            # Coordinates are not compared: their columns count as zeros.
            padding = self.similar.linear.in_features - batch.regions.shape[1]
            regions.append(self.similar.keys(nn.functional.pad(batch.regions, (0, padding))))
        words = self.word_encoder(self.dropout(self.embedding(batch.words)), batch.word_lengths)
        if isinstance(self.relation, Comparison):
            words = torch.cat([words, last_states(words, batch.word_lengths)], -1)
        return Encoded(torch.cat(regions, -1), words)

    @property
    def proposal_dim(self) -> int:
        return super().proposal_dim + (0 if self.similar is None else KEY_DIM)

    @property
    def language_dim(self) -> int:
        return super().language_dim * (2 if isinstance(self.relation, Comparison) else 1)

    def proposal_share(self, proposals: Float[Tensor, "nodes proposal_dim"]) -> Float[Tensor, "nodes proposal_share"]:
        # The columns of W_l that multiply h, and W_h of the product.
        h = first_columns(proposals, self.attention.proposal.in_features)
        return self._share(h, self._columns[0], None, self.product[:1])

    def word_share(self, words: Float[Tensor, "*nodes word_dim"]) -> Float[Tensor, "*nodes word_share"]:
        s = first_columns(words, self.attention.word.in_features)
        share = self._share(s, self._columns[1], self.fusion.bias, self.product[1:])
        if isinstance(self.relation, Comparison):
            share = torch.cat([share, self.relation.share(s, words[..., s.shape[-1] :])], -1)
        return share

    def combine(
        self, proposals: Float[Tensor, "nodes proposal_share"], words: Float[Tensor, "nodes word_share"]
    ) -> Float[Tensor, "nodes fused_dim"]:
        if not isinstance(self.relation, Comparison):
            return self._fused(proposals, words)
        own, compared = words.tensor_split([proposals.shape[-1]], -1)
        return torch.cat([self._fused(proposals, own), compared], -1)

    def _fused(self, proposals: Tensor, words: Tensor) -> Tensor:
        if not len(self.product):
            return proposals + words
        (region, region_factor), (sentence, sentence_factor) = proposals.chunk(2, -1), words.chunk(2, -1)
        product = linear(region_factor * sentence_factor, self.fusion.weight, None, columns=self._columns[2])
        return product.add_(region).add_(sentence)

    @property
    def _columns(self) -> tuple[slice, slice, slice]:
        """The columns of W_l that multiply h, c and their product."""
        first = self.attention.proposal.in_features
        second = first + self.attention.word.in_features
        return slice(0, first), slice(first, second), slice(second, None)

    def _share(self, x: Tensor, columns: slice, bias: Tensor | None, factor: Iterable[nn.Module]) -> Tensor:
        own = linear(x, self.fusion.weight, bias, columns=columns)
        return torch.cat([own, *(linear(x) for linear in factor)], -1)

    def represent(
        self,
        structure: GraphStructure,
        proposals: Float[Tensor, "nodes proposal_dim"],
        fused: Float[Tensor, "nodes fused_dim"],
    ) -> Float[Tensor, "nodes represented_dim"]:
        place, _ = self._places_and_keys(proposals)
        return torch.cat([self._related(structure, fused), self.position(place)], -1)

    def _related(self, structure: GraphStructure, fused: Tensor) -> Tensor:
        if isinstance(self.relation, Comparison):
            return self.dropout(self.unary(first_columns(fused, self.fusion.out_features)))
        return self.dropout(self.relation(structure, fused))

    @property
    def represented_dim(self) -> int:
        return self.score.in_features

    def reason(
        self,
        structure: GraphStructure,
        proposals: Float[Tensor, "nodes proposal_dim"],
        fused: Float[Tensor, "nodes fused_dim"],
    ) -> Float[Tensor, " nodes"]:
        place, keys = self._places_and_keys(proposals)
        logit = self._logit(place, self._related(structure, fused))
        if isinstance(self.relation, Comparison):
            fused, share = fused.tensor_split([self.fusion.out_features], -1)
            bias = None if self.similar is None else self.similar(structure, keys)
            logit = logit + self.relation(structure, widened(fused), share, bias)
        return torch.sigmoid(logit)

    def _logit(
        self, place: Float[Tensor, "nodes 4"], x: Float[Tensor, "nodes relation_dim"]
    ) -> Float[Tensor, " nodes"]:
        """Return W_k [x; W_p place + b_p] + b_k, the wider part of p as the four numbers that its score depends on."""
        weight = self.score.weight[0]
        with without_autocast(x):
            of_x, of_position = weight.tensor_split([x.shape[-1]])
            constant = of_position @ self.position.bias + self.score.bias
            of_place = of_position @ self.position.weight
            return x.to(weight.dtype) @ of_x + (place.to(weight.dtype) @ of_place + constant)

    def _places_and_keys(self, proposals: Tensor) -> Sequence[Tensor]:
        return proposals[:, self.reason_reads].tensor_split([4], -1)
