from relgrounding import nn


def test_public_api():
    assert nn.__all__ == [
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
    assert all(callable(getattr(nn, name)) for name in nn.__all__)
