"""Modules: encoders, interaction of proposals and words, relation, scoring."""

from relgrounding.nn._attention import ProposalToWordAttention
from relgrounding.nn._comparison import EdgeSimilarity, RelationalComparison
from relgrounding.nn._decoder import DecoderLayer, DecoderStack, sinusoidal_positions
from relgrounding.nn._encoder import BiGRUEncoder
from relgrounding.nn._fusion import GatedFusion
from relgrounding.nn._padding import pad_nodes
from relgrounding.nn._pooling import ProposalPooling
from relgrounding.nn._relation import EdgeGatedGCN, GatedSum, GraphAttention
from relgrounding.nn._scoring import TopRScore
from relgrounding.nn._word_embedding import WordEmbedding, trained_embedding

__all__ = [
    "BiGRUEncoder",
    "DecoderLayer",
    "DecoderStack",
    "EdgeGatedGCN",
    "EdgeSimilarity",
    "GatedFusion",
    "GatedSum",
    "GraphAttention",
    "ProposalPooling",
    "ProposalToWordAttention",
    "RelationalComparison",
    "TopRScore",
    "WordEmbedding",
    "pad_nodes",
    "sinusoidal_positions",
    "trained_embedding",
]
